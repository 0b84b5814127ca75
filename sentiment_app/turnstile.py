"""A turnstile in front of what is slow: few do it at a time, few wait for it, and whoever comes then is turned away.

Each request that waits takes a thread of its process. Without a bound, callers of one slow thing take all of them, and
nobody is served.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Turnstile:
    """Lets requests through a few at a time.

    Args:
        at_once: how many do it at the same time.
        waiting: how many more may wait for their turn.
        refusal: what is raised for those beyond.
    """

    def __init__(self, at_once: int, waiting: int, refusal: Callable[[], Exception]) -> None:
        self.most = at_once + waiting
        self._turns = threading.BoundedSemaphore(at_once)
        self._room = threading.BoundedSemaphore(self.most)
        self._refusal = refusal

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, which lasts until the block ends.

        Raises:
            Exception: the refusal, at once; as many wait as may.
        """
        if not self._room.acquire(blocking=False):
            raise self._refusal()
        try:
            with self._turns:
                yield
        finally:
            self._room.release()
