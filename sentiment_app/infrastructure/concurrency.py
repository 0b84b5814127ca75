"""Limits on how many requests may do something slow at the same time.

Each waiting request occupies a thread of its process. Without a limit, the callers of one slow operation occupy all
threads, and no other request is served.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID


class ConcurrencyLimit:
    """Admits a few requests at a time, and refuses the others at once.

    Args:
        limit: how many requests may run at the same time.
        error: makes the exception for requests that are refused.
        waiting: how many more requests may wait until one of the running requests ends.
        limit_per_user: how many of the admitted requests may belong to one user.
    """

    def __init__(
        self, limit: int, error: Callable[[], Exception], *, waiting: int = 0, limit_per_user: int | None = None
    ) -> None:
        self.capacity = limit + waiting
        self._limit_per_user = limit_per_user or self.capacity
        self._error = error
        self._running = threading.BoundedSemaphore(limit)
        self._admitted: Counter[UUID | None] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def acquire(self, user_id: UUID | None = None) -> Iterator[None]:
        """Hold a place until the block ends. Waits for a place if all are in use.

        Raises:
            Exception: made by `error`; no more requests may run or wait.
        """
        with self.try_admit(user_id) as is_admitted:
            if not is_admitted:
                raise self._error()
            with self._running:
                yield

    @contextmanager
    def try_admit(self, user_id: UUID | None = None) -> Iterator[bool]:
        """Hold a place until the block ends, if a place is free. Yields whether a place was free, and never waits."""
        with self._lock:
            is_admitted = self._admitted.total() < self.capacity and self._admitted[user_id] < self._limit_per_user
            self._admitted[user_id] += is_admitted
        try:
            yield is_admitted
        finally:
            with self._lock:
                self._admitted[user_id] -= is_admitted
                self._admitted = +self._admitted  # without users who hold nothing
