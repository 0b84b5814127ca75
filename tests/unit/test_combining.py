"""Flat combining, with many threads at once."""

import threading
from itertools import chain

import pytest

from sentiment_app.combining import Combiner


class Work:
    """Records what is done together; held up while its gate is closed."""

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


def hold_up(work, combiner):
    """The thread whose item is being done until the gate opens."""
    work.gate.clear()
    first = start(combiner.do, "first")
    while combiner._gathered or not combiner._is_busy:
        pass
    return first


def test_items_that_come_while_one_is_done_are_done_together(work):
    combiner = Combiner(work, patience=5)
    first = hold_up(work, combiner)
    others = [start(combiner.do, letter) for letter in "abcdefgh"]
    while len(combiner._gathered) < 8:
        pass
    work.gate.set()
    for thread in (first, *others):
        thread.join(5)
    assert work.groups == [["first"], list("abcdefgh")]


def test_every_item_of_many_threads_is_done_once_and_has_its_own_outcome(work):
    combiner, outcomes = Combiner(work, patience=5), {}
    items = [f"item {n}" for n in range(200)]
    threads = [start(lambda item=item: outcomes.update({item: combiner.do(item)})) for item in items]
    for thread in threads:
        thread.join(5)
    assert outcomes == {item: item.upper() for item in items}
    assert sorted(chain(*work.groups)) == sorted(items)


def test_whoever_begins_waits_for_those_that_are_expected(work):
    combiner, both_said_so = Combiner(work, patience=5, pause=30), threading.Barrier(2)

    def come(item):
        combiner.expect()
        both_said_so.wait(5)
        combiner.do(item)
        combiner.forget()

    for thread in [start(come, item) for item in ("a", "b")]:
        thread.join(5)
    assert work.groups == [["a", "b"]]


def test_who_comes_no_more_is_not_waited_for(work):
    combiner, said_so, may_go = Combiner(work, patience=5, pause=30), threading.Event(), threading.Event()

    def go_again():
        combiner.expect()
        said_so.set()
        may_go.wait(5)
        combiner.forget()

    other = start(go_again)
    said_so.wait(5)
    alone = start(combiner.do, "alone")
    alone.join(0.2)
    assert not work.groups
    may_go.set()
    alone.join(5)
    other.join(5)
    assert work.groups == [["alone"]]


def test_who_does_not_come_in_time_is_not_waited_for(work):
    combiner = Combiner(work, patience=5, pause=0.01)
    start(combiner.expect).join()
    assert combiner.do("alone") == "ALONE"


def test_an_item_that_waited_too_long_is_withdrawn_and_never_done(work):
    combiner = Combiner(work, patience=0.2)
    first = hold_up(work, combiner)
    with pytest.raises(TimeoutError):
        combiner.do("late")
    work.gate.set()
    first.join(5)
    assert combiner.do("next") == "NEXT"
    assert work.groups == [["first"], ["next"]]


def test_work_that_ends_without_an_outcome_is_no_success_for_anybody():
    def break_off(_items):
        raise RuntimeError

    combiner, both_said_so, errors = Combiner(break_off, patience=5, pause=30), threading.Barrier(2), []

    def come(item):
        combiner.expect()
        both_said_so.wait(5)
        try:
            combiner.do(item)
        except Exception as error:  # noqa: BLE001  # its kind is what the test looks at
            errors.append(type(error))

    for thread in [start(come, item) for item in ("a", "b")]:
        thread.join(5)
    assert sorted(errors, key=str) == [RuntimeError, TimeoutError]
    with pytest.raises(RuntimeError):  # and the next one finds nobody busy
        combiner.do("c")


def test_an_outcome_that_is_an_exception_is_raised_where_it_belongs():
    combiner = Combiner(lambda items: [ValueError(item) for item in items], patience=5)
    with pytest.raises(ValueError, match="mine"):
        combiner.do("mine")
