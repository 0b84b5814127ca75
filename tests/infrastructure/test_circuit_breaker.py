import pytest
from structlog.testing import CapturingLogger

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
    breaker.record_failure(OSError())
    assert not breaker.allows()
    clock[0] += 1.0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    clock[0] += 1.0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]


def test_success_closes_the_breaker(clock):
    breaker = CircuitBreaker("redis", 1.0)
    breaker.record_failure(OSError())
    breaker.record_success()
    assert not breaker.is_open
    assert all(breaker.allows() for _ in range(3))


@pytest.mark.asvs("16.3.4")
def test_only_changes_are_logged(clock, monkeypatch):
    logged = CapturingLogger()
    monkeypatch.setattr(circuit_breaker, "log", logged)
    breaker = CircuitBreaker("redis", 1.0)
    for _ in range(3):
        breaker.record_failure(OSError())
    breaker.record_success()
    breaker.record_success()
    assert [call.args for call in logged.calls] == [("dependency_unavailable",), ("dependency_available",)]
