"""Coalescing: many threads submit items of the same kind, and one thread processes them together.

The most expensive parts of a request are its commit and its round trip to Redis. Threads that arrive at the same time
can share them. This module implements flat combining (Hendler, Incze, Shavit, Tzafrir: "Flat Combining and
the Synchronization-Parallelism Tradeoff", SPAA 2010):

The first thread that submits an item becomes the leader. It takes all items that have gathered and processes them as
one batch. Threads that arrive meanwhile add their items to the next batch and sleep. When the leader is done, it wakes
the threads of its batch with their outcomes, and wakes one sleeping thread of the next batch, which becomes the leader.
This needs no background thread that could die unnoticed, and a thread that arrives alone does not wait.

A leader may also wait a moment for threads that have announced an item. A request announces its item when it begins,
long before it has computed the item. Waiting for those items doubles the size of a batch under load. The wait has an
upper bound, and ends as soon as every announced thread has submitted or withdrawn.

A sleeping thread does not sleep forever. After `timeout` seconds it removes its item from the next batch. If a leader
has taken the item by then, the thread waits for its outcome once more; after that, the outcome is unknown.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class _Submission(Generic[Item, Outcome]):
    """An item, and the sleeping thread that submitted it."""

    __slots__ = ("_wakeup", "is_done", "item", "outcome")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.is_done = False
        self.outcome: Outcome | Exception = TimeoutError("the outcome is unknown")
        self._wakeup = threading.Lock()  # an Event does the same at five times the cost
        self._wakeup.acquire()

    def wait(self, seconds: float) -> bool:
        return self._wakeup.acquire(timeout=seconds)

    def wake(self) -> None:
        self._wakeup.release()


class Coalescer(Generic[Item, Outcome]):
    """Processes items of many threads together.

    Args:
        process: processes a batch; returns the outcome of each item in order, an exception for an item that failed.
        timeout: seconds after which an item that no leader has taken is withdrawn.
        max_delay: the longest time in seconds that a leader waits for announced items.
    """

    def __init__(
        self, process: Callable[[list[Item]], Sequence[Outcome | Exception]], *, timeout: float, max_delay: float = 0
    ) -> None:
        self._process = process
        self._timeout = timeout
        self._max_delay = max_delay
        self._lock = threading.Condition(threading.Lock())
        self._announced: set[int] = set()
        """Threads that have announced an item and not submitted it yet."""
        self._gathered: list[_Submission[Item, Outcome]] = []
        self._has_leader = False

    def announce(self) -> None:
        """Announce that this thread will submit an item, or withdraw."""
        with self._lock:
            self._announced.add(threading.get_ident())

    def withdraw(self) -> None:
        """Withdraw this thread's announcement, unless it has submitted its item."""
        if threading.get_ident() in self._announced:
            with self._lock:
                self._remove_announcement()

    def _remove_announcement(self) -> None:
        self._announced.discard(threading.get_ident())
        if not self._announced:
            self._lock.notify()  # the leader that waits for announced items

    def submit(self, item: Item) -> Outcome:
        """Have an item processed, together with the items of other threads, and return its outcome.

        Raises:
            TimeoutError: no leader took the item in time, or its outcome is unknown.
            Exception: the outcome of the item.
        """
        own: _Submission[Item, Outcome] = _Submission(item)
        with self._lock:
            self._gathered.append(own)
            self._remove_announcement()
            is_follower, self._has_leader = self._has_leader, True
        if is_follower:
            self._sleep(own)
        if not own.is_done:
            self._lead(own)
        if isinstance(own.outcome, Exception):
            raise own.outcome
        return own.outcome

    def _sleep(self, own: _Submission[Item, Outcome]) -> None:
        """Wait until a leader wakes this thread. An item that no leader took in time is withdrawn before the error."""
        if own.wait(self._timeout):
            return
        with self._lock:
            was_woken = own.wait(0)
            if not was_woken and own in self._gathered:
                self._gathered.remove(own)
                raise TimeoutError("no thread began to process the item")
        # A leader is processing the item: its outcome is known within one more batch.
        if not was_woken and not own.wait(self._timeout):
            raise TimeoutError("the item was not processed in time")

    def _lead(self, own: _Submission[Item, Outcome]) -> None:
        with self._lock:
            self._lock.wait_for(lambda: not self._announced, self._max_delay)
            batch, self._gathered = self._gathered, []
        try:
            outcomes = self._process([submission.item for submission in batch])
            for submission, outcome in zip(batch, outcomes, strict=True):
                submission.outcome = outcome
        finally:
            with self._lock:
                successor = self._gathered[0] if self._gathered else None
                self._has_leader = successor is not None
                if successor:
                    successor.wake()
            for submission in batch:
                submission.is_done = True
                if submission is not own:
                    submission.wake()
