"""The concurrency limit: some callers run, some wait, and all others are refused at once."""

import threading
import time

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
    while limit._admitted.total() < 2:  # until the second caller waits
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
