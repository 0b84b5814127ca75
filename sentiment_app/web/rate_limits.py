"""The rate limits of the API: whose requests are counted together, and the headers that report what is left.

A view names its rates in `@operation(rates=…)`; the guard counts the request under each of them. The guard counts the
`user` and `scoring` rates with the session check, in one round trip (`web/admission.py`). This module counts the
others, with flask-limiter's strategy on Redis. While Redis does not answer, both count in the memory of this process.
"""

import ipaddress
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID

import limits
from flask import Flask, Response, g
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from limits import RateLimitItem
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError

from sentiment_app.config import Settings
from sentiment_app.errors import RateLimitedError
from sentiment_app.infrastructure import metrics
from sentiment_app.infrastructure.app_state import SETTINGS, AppKey
from sentiment_app.infrastructure.circuit_breaker import CircuitBreaker
from sentiment_app.infrastructure.queue import REDIS_BREAKER

STRATEGY = "sliding-window-counter"


class Rate(NamedTuple):
    """A rate limit.

    Args:
        name: as in the RateLimit-Policy header.
        setting: the field of Settings with its value, such as "10 per minute".
        key: whose requests are counted together; gets the signed-in user's id, None for public routes.
    """

    name: str
    setting: str
    key: Callable[[UUID | None], str]


class Standing(NamedTuple):
    """Where a caller stands with a rate after a request.

    `remaining` is the number of requests that are left, and `reset_seconds` the time until there is room for more.
    """

    rate: str
    item: RateLimitItem
    is_exceeded: bool
    remaining: int
    reset_seconds: int


def network(_user_id: UUID | None = None) -> str:
    """The caller's IPv4 address, or the /64 network of an IPv6 address, because a client can use the whole network."""
    given = get_remote_address()
    try:
        address = ipaddress.ip_address(given)
    except ValueError:  # a trusted proxy may send something that is not an address
        return given
    if isinstance(address, ipaddress.IPv6Address) and not address.ipv4_mapped:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)


RATES = {
    rate.name: rate
    for rate in (
        Rate("user", "user_rate_limit", str),
        Rate("scoring", "scoring_rate_limit", str),
        Rate("profile", "login_rate_limit", str),
        Rate("redelivery", "login_rate_limit", str),
        Rate("auth", "auth_rate_limit", network),
        Rate("key", "key_rate_limit", network),
        Rate("login", "login_rate_limit", network),
    )
}


class RateLimits:
    """Counts requests under the rates of one application.

    Args:
        limiter: flask-limiter, bound to the application.
        settings: has the value of each rate.
        breaker: decides whether Redis is asked.
    """

    def __init__(self, limiter: Limiter, settings: Settings, breaker: CircuitBreaker) -> None:
        self.items = {rate.name: limits.parse(getattr(settings, rate.setting)) for rate in RATES.values()}
        self._limiter = limiter
        self._in_memory = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._breaker = breaker

    def hit(self, name: str, user_id: UUID | None = None) -> Standing:
        """Count the current request under a rate."""
        return self.hit_item(name, self.items[name], RATES[name].key(user_id))

    def hit_item(self, name: str, item: RateLimitItem, key: str) -> Standing:
        """Count a request of `key` under any rate."""
        if self._breaker.allows():
            try:
                standing = self._hit(self._limiter.limiter, name, item, key)
            except RedisError as error:
                self._breaker.record_failure(error)
            else:
                self._breaker.record_success()
                return standing
        metrics.limiter_fallbacks.inc()
        return self._hit(self._in_memory, name, item, key)

    def clear_item(self, name: str, item: RateLimitItem, key: str) -> None:
        """Forget the requests of `key` under a rate. Without Redis, they count until their window ends."""
        self._in_memory.clear(item, name, key)
        if self._breaker.allows():
            try:
                self._limiter.limiter.clear(item, name, key)
            except RedisError as error:
                self._breaker.record_failure(error)
            else:
                self._breaker.record_success()

    def hit_in_memory(self, name: str, key: str) -> Standing:
        """Count a request under a rate in the memory of this process, without Redis."""
        return self._hit(self._in_memory, name, self.items[name], key)

    def _hit(self, strategy: limits.strategies.RateLimiter, name: str, item: RateLimitItem, key: str) -> Standing:
        is_admitted = strategy.hit(item, name, key)
        window = strategy.get_window_stats(item, name, key)
        reset = math.ceil(window.reset_time - time.time())
        if reset < 1:  # the library returns this for a window that has just begun
            reset = item.get_expiry()
        return Standing(name, item, not is_admitted, window.remaining, min(reset, item.get_expiry()))


RATE_LIMITS = AppKey[RateLimits]("rate_limits")


def flask_config(settings: Settings) -> dict[str, Any]:
    """flask-limiter's configuration."""
    timeout = settings.redis_timeout_seconds
    return {
        "RATELIMIT_STORAGE_URI": settings.redis_url.replace("unix://", "redis+unix://", 1),
        "RATELIMIT_STORAGE_OPTIONS": {"socket_timeout": timeout, "socket_connect_timeout": timeout},
        "RATELIMIT_STRATEGY": STRATEGY,
        "RATELIMIT_KEY_PREFIX": STRATEGY,
    }


def init_app(app: Flask) -> None:
    """Give the application its rate limits, and add their headers to each response."""
    limiter = Limiter(network)
    # Without this entry, flask-limiter would look for its own limits in every request.
    app.extensions["limiter"] = {limiter}
    limiter.init_app(app)
    RATE_LIMITS.set(app, RateLimits(limiter, SETTINGS.get(app), REDIS_BREAKER.get(app)))
    app.before_request(_start)
    app.after_request(_write_headers)


def check(standing: Standing) -> None:
    """Store a standing for the headers of the current response.

    Raises:
        RateLimitedError: the rate is exceeded.
    """
    g.standings.append(standing)
    if standing.is_exceeded:
        raise RateLimitedError


def _start() -> None:
    g.standings = []


def _write_headers(response: Response) -> Response:
    """Write RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10) for the tightest rate."""
    standings: list[Standing] = g.get("standings", [])
    if standings:
        tightest = min(standings, key=lambda standing: (not standing.is_exceeded, standing.remaining))
        rate, item = tightest.rate, tightest.item
        response.headers.add("RateLimit-Policy", f'"{rate}";q={item.amount};w={item.get_expiry()}')
        response.headers.add("RateLimit", f'"{rate}";r={tightest.remaining};t={tightest.reset_seconds}')
        if tightest.is_exceeded:
            response.headers.setdefault("Retry-After", str(max(1, tightest.reset_seconds)))
    return response
