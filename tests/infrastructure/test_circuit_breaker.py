import pytest

from sentiment_app.infrastructure import circuit_breaker
from sentiment_app.infrastructure.circuit_breaker import CircuitBreaker


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when a test moves it."""
    now = [100.0]
    monkeypatch.setattr(circuit_breaker.time, "monotonic", lambda: now[0])
    return now


def test_closed_breaker_allows_every_caller(clock):
    breaker = CircuitBreaker("redis", 1.0)
    assert all(breaker.allows() for _ in range(3))


def test_open_breaker_allows_one_attempt_per_pause(clock):
    breaker = CircuitBreaker("redis", 1.0)
    breaker.fail(OSError())
    assert not breaker.allows()
    clock[0] += 1.0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    clock[0] += 1.0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]


def test_success_closes_the_breaker(clock):
    breaker = CircuitBreaker("redis", 1.0)
    breaker.fail(OSError())
    breaker.succeed()
    assert not breaker.is_open
    assert all(breaker.allows() for _ in range(3))


def test_only_changes_are_logged(clock, capfd):
    breaker = CircuitBreaker("redis", 1.0)
    for _ in range(3):
        breaker.fail(OSError())
    breaker.succeed()
    breaker.succeed()
    written = "".join(capfd.readouterr())
    assert (written.count("dependency_unavailable"), written.count("dependency_available")) == (1, 1)
