"""Values that are read again every few seconds."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.exc import OperationalError

from sentiment_app.infrastructure import refreshed
from sentiment_app.infrastructure.refreshed import Refreshed


class Source:
    """Returns its number of reads, or fails. Reads wait while the gate is closed."""

    def __init__(self):
        self.reads, self.fails, self.gate = 0, False, threading.Event()
        self.gate.set()

    def read(self):
        self.reads += 1
        assert self.gate.wait(30)
        if self.fails:
            raise OperationalError("", {}, Exception())
        return self.reads


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(refreshed, "time", clock)
    return clock


def test_value_is_read_again_after_its_time(clock):
    source, changes = Source(), []
    value = Refreshed("test", source.read, seconds=10, on_change=lambda: changes.append(1))
    assert [value.get(), value.get(), source.reads] == [1, 1, 1]
    clock.now += 10
    assert [value.get(), value.get(), len(changes)] == [2, 2, 2]
    assert [value.read_again(5), value.read_again(0)] == [2, 3]


def test_value_stays_if_it_cannot_be_read(clock):
    source = Source()
    value = Refreshed("test", source.read, seconds=10)
    assert value.get() == 1
    source.fails = True
    clock.now += 10
    assert [value.get(), value.get(), source.reads] == [1, 1, 2]
    clock.now += refreshed.RETRY_SECONDS
    source.fails = False
    assert value.get() == 3


def test_first_read_that_fails_is_repeated(clock):
    source = Source()
    source.fails = True
    value = Refreshed("test", source.read, seconds=10)
    for _ in range(2):
        with pytest.raises(OperationalError):
            value.get()
    source.fails = False
    assert value.get() == 3


class CountingLock:
    """A lock that counts the threads that have asked for it."""

    def __init__(self):
        self._lock, self.asked = threading.Lock(), 0

    def __enter__(self):
        self.asked += 1
        self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()


@pytest.mark.parametrize("fails", [False, True])
def test_threads_share_an_attempt(fails):
    source = Source()
    source.fails = fails
    source.gate.clear()
    value = Refreshed("test", source.read, seconds=10)
    value._lock = lock = CountingLock()

    def get():
        try:
            return value.get()
        except OperationalError:
            return "failed"

    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(get) for _ in range(8)]
        while lock.asked < 8:  # all other threads wait for the first
            time.sleep(0.01)
        source.gate.set()
        assert {future.result(30) for future in found} == ({"failed"} if fails else {1})
    assert source.reads == 1
