"""A value from the database that each process keeps, and reads again every few seconds."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

T = TypeVar("T")

# After a failed attempt, the next thread that only wants a fresh value tries again after this time.
RETRY_SECONDS = 5.0

log = structlog.get_logger()


class Refreshed(Generic[T]):
    """A value that is read again when it is used and `seconds` have passed. If the database does not answer, it stays.

    Args:
        name: for the log.
        read: returns the value from the database, in a unit of work of its own.
        seconds: how old the value may be.
        on_change: called after the value has changed.
    """

    def __init__(
        self, name: str, read: Callable[[], T], *, seconds: float, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._name, self._read, self._seconds, self._on_change = name, read, seconds, on_change
        self._lock = threading.Lock()
        self._values: list[T] = []  # the value, or nothing before it was read
        self._read_at = self._failed_at = -float("inf")
        self._failure: SQLAlchemyError | None = None

    def get(self) -> T:
        """The value. Must not be called within a unit of work."""
        if self._age() >= self._seconds or not self._values:
            self._refresh()
        return self._values[0]

    def read_again(self, min_age: float) -> T:
        """The value, read again if it is at least `min_age` seconds old. Raises the errors of the database.

        Threads that wait for the attempt of another thread share its outcome.
        """
        began_at = time.monotonic()
        with self._lock:
            if self._failure and self._failed_at > began_at:
                raise self._failure
            if self._age() >= min_age or not self._values:
                self._store()
        return self._values[0]

    def _age(self) -> float:
        return time.monotonic() - self._read_at

    def _refresh(self) -> None:
        if not self._values:
            self.read_again(self._seconds)
        elif self._lock.acquire(blocking=False):  # one thread is enough, and the others need not wait
            try:
                self._store()
            except SQLAlchemyError as error:
                log.warning("not_refreshed", value=self._name, reason=type(error).__name__)
            finally:
                self._lock.release()

    def _store(self) -> None:
        began_at = time.monotonic()
        try:
            former, self._values = self._values, [self._read()]
        except SQLAlchemyError as error:
            self._failure, self._failed_at = error, time.monotonic()
            self._read_at = max(self._read_at, self._failed_at - self._seconds + RETRY_SECONDS)
            raise
        self._failure, self._read_at = None, began_at
        if former != self._values:
            self._on_change()
