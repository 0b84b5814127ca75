"""Few at a time, few that wait, and the rest turned away at once."""

import threading
import time

import pytest

from sentiment_app.turnstile import Turnstile


class FullError(Exception):
    """There is no room."""


def test_few_go_at_a_time_few_wait_and_the_rest_is_turned_away():
    turnstile = Turnstile(1, 1, FullError)
    inside, may_leave, went = threading.Event(), threading.Event(), []

    def go(name):
        with turnstile.turn():
            went.append(name)
            inside.set()
            assert may_leave.wait(10)

    first, second = (threading.Thread(target=go, args=(name,)) for name in ("first", "second"))
    first.start()
    assert inside.wait(10)
    second.start()
    while turnstile._room._value:  # until the second one waits
        time.sleep(0.01)
    assert went == ["first"]
    with pytest.raises(FullError), turnstile.turn():
        pass
    may_leave.set()
    for thread in (first, second):
        thread.join(10)
    assert went == ["first", "second"]


def test_whoever_fails_gives_his_turn_back():
    turnstile = Turnstile(1, 0, FullError)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), turnstile.turn():
            raise ZeroDivisionError
