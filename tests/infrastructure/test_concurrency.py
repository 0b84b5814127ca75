"""Few at a time, few that wait, and the rest turned away at once."""

import threading
import time

import pytest

from sentiment_app.infrastructure.concurrency import ConcurrencyLimit


class FullError(Exception):
    """There is no room."""


def test_limit_runs_few_lets_few_wait_and_refuses_others():
    limit = ConcurrencyLimit(1, FullError, waiting=1)
    inside, may_leave, went = threading.Event(), threading.Event(), []

    def go(name):
        with limit.acquire():
            went.append(name)
            inside.set()
            assert may_leave.wait(10)

    first, second = (threading.Thread(target=go, args=(name,)) for name in ("first", "second"))
    first.start()
    assert inside.wait(10)
    second.start()
    while limit._admitted.total() < 2:  # until the second one waits
        time.sleep(0.01)
    assert went == ["first"]
    with pytest.raises(FullError), limit.acquire():
        pass
    may_leave.set()
    for thread in (first, second):
        thread.join(10)
    assert went == ["first", "second"]


def test_failed_block_frees_its_place():
    limit = ConcurrencyLimit(1, FullError)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limit.acquire():
            raise ZeroDivisionError
