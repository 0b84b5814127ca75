"""Limits on how many requests may do something slow at the same time.

Each waiting request occupies a thread of its process. Without a limit, the callers of one slow operation occupy all
threads, and no other request is served.
"""

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager


class ConcurrencyLimit:
    """Admits a few requests at a time, and refuses the others at once.

    A request names its holders, such as its user and its network. A holder gets a place only if it has fewer places
    than are free (the "dynamic threshold" of Choudhury and Hahne, IEEE/ACM Transactions on Networking 6 (2), 1998). So
    a holder that is alone gets half of all places, and further holders leave places for those who have none.

    Args:
        limit: how many requests may run at the same time.
        error: makes the exception for requests that are refused.
        waiting: how many more requests may wait until one of the running requests ends.
    """

    def __init__(self, limit: int, error: Callable[[], Exception], *, waiting: int = 0) -> None:
        self.capacity = limit + waiting
        self._error = error
        self._running = threading.BoundedSemaphore(limit)
        self._used = 0
        self._held: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def acquire(self, *holders: Hashable) -> Iterator[None]:
        """Hold a place until the block ends. Waits for a place if all are in use.

        Raises:
            Exception: made by `error`; no more requests may run or wait.
        """
        with self.try_admit(*holders) as is_admitted:
            if not is_admitted:
                raise self._error()
            with self._running:
                yield

    @contextmanager
    def try_admit(self, *holders: Hashable) -> Iterator[bool]:
        """Hold a place until the block ends, if a place is free. Yields whether a place was free, and never waits."""
        with self._lock:
            free = self.capacity - self._used
            is_admitted = free > 0 and all(self._held[holder] < free for holder in holders)
            if is_admitted:
                self._used += 1
                self._held.update(holders)
        try:
            yield is_admitted
        finally:
            if is_admitted:
                with self._lock:
                    self._used -= 1
                    self._held.subtract(holders)
                    self._held = +self._held  # without holders that have no place
