"""A circuit breaker: callers stop asking a dependency that does not answer.

A dependency that hangs costs each caller a timeout. So after a failure the breaker is open: callers use their fallback
at once. Every `pause_seconds` the breaker lets a single caller through to try. When that caller succeeds, the breaker
closes, and all callers ask the dependency again. (Nygard, "Release It!", chapter "Stability Patterns".)
"""

import threading
import time

import structlog

log = structlog.get_logger()


class CircuitBreaker:
    """Decides whether a dependency is asked.

    Args:
        name: names the dependency in the log, such as "redis".
        pause_seconds: the time between two attempts while the dependency does not answer.
    """

    def __init__(self, name: str, pause_seconds: float) -> None:
        self._name = name
        self._pause_seconds = pause_seconds
        self._lock = threading.Lock()
        self._is_open = False
        self._next_attempt = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the last answer was a failure."""
        return self._is_open

    def allows(self) -> bool:
        """Whether this caller asks the dependency. It must report the outcome: `record_success` or `record_failure`."""
        if not self._is_open:
            return True
        with self._lock:
            if time.monotonic() < self._next_attempt:
                return False
            self._next_attempt = time.monotonic() + self._pause_seconds
            return True

    def record_success(self) -> None:
        """Report that the dependency answered."""
        if self._is_open:
            self._is_open = False
            log.info("dependency_available", dependency=self._name)

    def record_failure(self, error: Exception) -> None:
        """Report that the dependency did not answer. Only the first of several failures is logged."""
        with self._lock:
            was_open, self._is_open = self._is_open, True
            self._next_attempt = time.monotonic() + self._pause_seconds
        if not was_open:
            log.warning("dependency_unavailable", dependency=self._name, error=type(error).__name__)
