"""The coalescer (flat combining) with many threads at once."""

import threading
from itertools import chain

import pytest

from sentiment_app.infrastructure.coalescing import Coalescer


class Work:
    """Records the items of each batch. It blocks while its gate is closed."""

    def __init__(self):
        self.groups, self.gate = [], threading.Event()
        self.gate.set()

    def __call__(self, items):
        self.gate.wait(5)
        self.groups.append(sorted(items))
        return [item.upper() for item in items]


@pytest.fixture
def work():
    return Work()


def start(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


def block_leader(work, coalescer):
    """Start a thread whose item is being processed until the gate opens."""
    work.gate.clear()
    first = start(coalescer.submit, "first")
    while coalescer._gathered or not coalescer._has_leader:
        pass
    return first


def test_items_submitted_during_a_batch_are_processed_together(work):
    coalescer = Coalescer(work, timeout=5)
    first = block_leader(work, coalescer)
    others = [start(coalescer.submit, letter) for letter in "abcdefgh"]
    while len(coalescer._gathered) < 8:
        pass
    work.gate.set()
    for thread in (first, *others):
        thread.join(5)
    assert work.groups == [["first"], list("abcdefgh")]


@pytest.mark.asvs("15.4.1")
def test_each_item_is_processed_once_with_its_own_outcome(work):
    coalescer, outcomes = Coalescer(work, timeout=5), {}
    items = [f"item {n}" for n in range(200)]
    threads = [start(lambda item=item: outcomes.update({item: coalescer.submit(item)})) for item in items]
    for thread in threads:
        thread.join(5)
    assert outcomes == {item: item.upper() for item in items}
    assert sorted(chain(*work.groups)) == sorted(items)


def test_leader_waits_for_announced_items(work):
    coalescer, both_announced = Coalescer(work, timeout=5, max_delay=30), threading.Barrier(2)

    def announce_and_submit(item):
        coalescer.announce()
        both_announced.wait(5)
        coalescer.submit(item)
        coalescer.withdraw()

    for thread in [start(announce_and_submit, item) for item in ("a", "b")]:
        thread.join(5)
    assert work.groups == [["a", "b"]]


def test_leader_does_not_wait_for_withdrawn_items(work):
    coalescer, announced, may_go = Coalescer(work, timeout=5, max_delay=30), threading.Event(), threading.Event()

    def announce_and_withdraw():
        coalescer.announce()
        announced.set()
        may_go.wait(5)
        coalescer.withdraw()

    other = start(announce_and_withdraw)
    announced.wait(5)
    alone = start(coalescer.submit, "alone")
    alone.join(0.2)
    assert not work.groups
    may_go.set()
    alone.join(5)
    other.join(5)
    assert work.groups == [["alone"]]


def test_leader_does_not_wait_longer_than_the_delay(work):
    coalescer = Coalescer(work, timeout=5, max_delay=0.01)
    start(coalescer.announce).join()
    assert coalescer.submit("alone") == "ALONE"


def test_item_that_times_out_is_never_processed(work):
    coalescer = Coalescer(work, timeout=0.2)
    first = block_leader(work, coalescer)
    with pytest.raises(TimeoutError):
        coalescer.submit("late")
    work.gate.set()
    first.join(5)
    assert coalescer.submit("next") == "NEXT"
    assert work.groups == [["first"], ["next"]]


def test_missing_outcome_is_an_error_for_every_thread():
    def raise_error(_items):
        raise RuntimeError

    coalescer, both_announced, errors = Coalescer(raise_error, timeout=5, max_delay=30), threading.Barrier(2), []

    def announce_and_submit(item):
        coalescer.announce()
        both_announced.wait(5)
        try:
            coalescer.submit(item)
        except Exception as error:  # noqa: BLE001  # the test checks its type
            errors.append(type(error))

    for thread in [start(announce_and_submit, item) for item in ("a", "b")]:
        thread.join(5)
    assert sorted(errors, key=str) == [RuntimeError, TimeoutError]
    with pytest.raises(RuntimeError):  # the next submit becomes the leader
        coalescer.submit("c")


def test_exception_is_raised_in_its_own_thread():
    coalescer = Coalescer(lambda items: [ValueError(item) for item in items], timeout=5)
    with pytest.raises(ValueError, match="mine"):
        coalescer.submit("mine")
