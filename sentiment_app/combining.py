"""Flat combining: of threads that come with the same kind of work at the same time, one does it for all.

Hendler, Incze, Shavit, Tzafrir: Flat Combining and the Synchronization-Parallelism Tradeoff, SPAA 2010. The first that
comes begins with what has gathered; those that come meanwhile gather behind it, and one of them is next. There is no
thread to start or to lose, and who comes alone waits for nobody.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class _Waiting(Generic[Item, Outcome]):
    """An item and the thread that waits for it, until it is called: its item is done, or it is to do what gathered."""

    __slots__ = ("_gate", "is_done", "item", "outcome")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.is_done = False
        self.outcome: Outcome | Exception = TimeoutError("what came of it is not known")
        self._gate = threading.Lock()  # an Event does the same at five times the cost
        self._gate.acquire()

    def wait(self, seconds: float) -> bool:
        return self._gate.acquire(timeout=seconds)

    def call(self) -> None:
        self._gate.release()


class Combiner(Generic[Item, Outcome]):
    """Does items of many threads together.

    Args:
        work: does some; returns the outcome of each in their order, an exception for one that failed.
        patience: seconds after which an item with which nobody has begun is withdrawn.
        pause: seconds that whoever begins waits at most for the items that are expected.
    """

    def __init__(
        self, work: Callable[[list[Item]], Sequence[Outcome | Exception]], *, patience: float, pause: float = 0
    ) -> None:
        self._work = work
        self._patience = patience
        self._pause = pause
        self._lock = threading.Condition(threading.Lock())
        self._expected: set[int] = set()
        """Threads that have said that they come, and have not."""
        self._gathered: list[_Waiting[Item, Outcome]] = []
        self._is_busy = False

    def expect(self) -> None:
        """Say that this thread comes with an item, or calls `forget`."""
        with self._lock:
            self._expected.add(threading.get_ident())

    def forget(self) -> None:
        """Say that this thread comes no more, if it has not come."""
        if threading.get_ident() in self._expected:
            with self._lock:
                self._expect_no_more()

    def _expect_no_more(self) -> None:
        self._expected.discard(threading.get_ident())
        if not self._expected:
            self._lock.notify()  # whoever is about to begin

    def do(self, item: Item) -> Outcome:
        """Have an item done, along with whatever others have gathered.

        Raises:
            TimeoutError: nobody began with it, or was done with it, in time.
            Exception: its outcome.
        """
        mine: _Waiting[Item, Outcome] = _Waiting(item)
        with self._lock:
            self._gathered.append(mine)
            self._expect_no_more()
            is_follower, self._is_busy = self._is_busy, True
        if is_follower:
            self._follow(mine)
        if not mine.is_done:
            self._do_gathered(mine)
        if isinstance(mine.outcome, Exception):
            raise mine.outcome
        return mine.outcome

    def _follow(self, mine: _Waiting[Item, Outcome]) -> None:
        """Wait to be called; an item that nobody took in time is withdrawn, so that "nothing was done" is true."""
        if mine.wait(self._patience):
            return
        with self._lock:
            was_called = mine.wait(0)
            if not was_called and mine in self._gathered:
                self._gathered.remove(mine)
                raise TimeoutError("nobody began with it")
        # It is being done just now: what came of it is known within one more round.
        if not was_called and not mine.wait(self._patience):
            raise TimeoutError("it was not done in time")

    def _do_gathered(self, mine: _Waiting[Item, Outcome]) -> None:
        with self._lock:
            self._lock.wait_for(lambda: not self._expected, self._pause)
            group, self._gathered = self._gathered, []
        try:
            outcomes = self._work([one.item for one in group])
            for one, outcome in zip(group, outcomes, strict=True):
                one.outcome = outcome
        finally:
            with self._lock:
                successor = self._gathered[0] if self._gathered else None
                self._is_busy = successor is not None
                if successor:
                    successor.call()
            for one in group:
                one.is_done = True
                if one is not mine:
                    one.call()
