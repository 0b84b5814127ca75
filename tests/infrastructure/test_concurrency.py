"""The concurrency limit: some callers run, some wait, and all others are refused at once."""

import threading
import time
from contextlib import ExitStack

import pytest

from sentiment_app.infrastructure.concurrency import ConcurrencyLimit


class FullError(Exception):
    """The limit is reached."""


def test_limit_queues_one_caller_and_refuses_others():
    limit = ConcurrencyLimit(1, FullError, waiting=1)
    inside, may_leave, entered = threading.Event(), threading.Event(), []

    def enter(name):
        with limit.acquire():
            entered.append(name)
            inside.set()
            assert may_leave.wait(10)

    first, second = (threading.Thread(target=enter, args=(name,)) for name in ("first", "second"))
    first.start()
    assert inside.wait(10)
    second.start()
    while limit._used < 2:  # until the second caller waits
        time.sleep(0.01)
    assert entered == ["first"]
    with pytest.raises(FullError), limit.acquire():
        pass
    may_leave.set()
    for thread in (first, second):
        thread.join(10)
    assert entered == ["first", "second"]


def test_failed_block_frees_its_place():
    limit = ConcurrencyLimit(1, FullError)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limit.acquire():
            raise ZeroDivisionError


def admit(places, limit, *holders):
    return places.enter_context(limit.try_admit(*holders))


@pytest.mark.asvs("15.4.4")
def test_holder_that_is_alone_gets_half_of_the_places():
    limit = ConcurrencyLimit(4, FullError)
    with ExitStack() as places:
        assert [admit(places, limit, "ada") for _ in range(3)] == [True, True, False]
    with ExitStack() as places:
        assert admit(places, limit, "ada")


def test_two_holders_leave_a_place_for_a_third():
    limit = ConcurrencyLimit(4, FullError)
    with ExitStack() as places:
        for _ in range(5):
            for holder in ("ada", "bob"):
                admit(places, limit, holder)
        assert admit(places, limit, "eve")
        assert not admit(places, limit, "someone")


@pytest.mark.asvs("15.4.4")
def test_accounts_of_one_network_leave_places_for_other_networks():
    limit = ConcurrencyLimit(4, FullError)
    with ExitStack() as places:
        attempts = [admit(places, limit, f"account {number}", "192.0.2.1") for number in range(10)]
        assert attempts.count(True) == 2
        assert admit(places, limit, "eve", "198.51.100.7")


def test_request_that_is_refused_holds_nothing():
    limit = ConcurrencyLimit(2, FullError)
    with ExitStack() as places:
        assert admit(places, limit, "ada", "192.0.2.1")
        assert not admit(places, limit, "eve", "192.0.2.1")
        assert admit(places, limit, "eve", "198.51.100.7")
    with ExitStack() as places:
        assert admit(places, limit, "ada", "192.0.2.1")


def test_limit_of_one_admits_one():
    limit = ConcurrencyLimit(1, FullError)
    with ExitStack() as places:
        assert admit(places, limit, "ada")
        assert not admit(places, limit, "bob")
