"""The default-deny guard of every route, and the headers that tell callers where they stand with their rate."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple, cast
from uuid import UUID

import limits
from flask import Flask, Response, current_app, g, request
from redis.exceptions import RedisError

from sentiment_app.admission import Admission, Admitted, Verdict
from sentiment_app.errors import (
    ForbiddenError,
    InvalidTokenError,
    RateLimitedError,
    UnauthenticatedError,
)
from sentiment_app.extensions import limiter
from sentiment_app.operation import declaration_of


class Principal(NamedTuple):
    """Who a verified token speaks for."""

    user_id: UUID
    session_id: UUID


@dataclass(frozen=True)
class Guard:
    """What the guard asks of others; `app.create_app` fills it in.

    Args:
        identify: verifies an access token. Raises InvalidTokenError.
        is_administrator: whether a user is one, now.
        admission: knows ended sessions and rates.
        rates: the rates by name, as "60 per minute".
    """

    identify: Callable[[str], Principal]
    is_administrator: Callable[[UUID], bool]
    admission: Admission
    rates: dict[str, limits.RateLimitItem]

    def init_app(self, app: Flask) -> None:
        """Stand before every route, those that someone forgets to declare included."""
        app.before_request(self._admit)
        app.after_request(_tell_rate)

    def _admit(self) -> None:
        if request.endpoint is None:  # a 404 or 405 tells nothing that /openapi.json does not
            return
        declared = declaration_of(current_app.view_functions[request.endpoint])
        if declared.access == "public":
            return
        principal = self.identify(_bearer_token())
        policy = declared.rate or "user"
        admitted = self.admission.admit(*principal, policy, self.rates[policy])
        if admitted.verdict is Verdict.SESSION_ENDED:
            raise InvalidTokenError
        g.principal, g.admitted = principal, admitted
        if admitted.verdict is not Verdict.ADMITTED:
            raise RateLimitedError
        if declared.access == "administrator" and not self.is_administrator(principal.user_id):
            raise ForbiddenError


def caller() -> Principal:
    """Whose token the guard admitted."""
    return cast(Principal, g.principal)


def _bearer_token() -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnauthenticatedError
    return token.strip()


def _tell_rate(response: Response) -> Response:
    """RateLimit and RateLimit-Policy as in draft-ietf-httpapi-ratelimit-headers-10; Retry-After with a 429."""
    standing = _standing()
    if standing:
        policy, rate, remaining, reset = standing
        response.headers.add("RateLimit-Policy", f'"{policy}";q={rate.amount};w={rate.get_expiry()}')
        response.headers.add("RateLimit", f'"{policy}";r={remaining};t={reset}')
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            response.headers.setdefault("Retry-After", str(max(1, reset)))
    return response


def _standing() -> tuple[str, limits.RateLimitItem, int, int] | None:
    asked = limiter.current_limits
    if "admitted" in g and not any(one.breached for one in asked):
        admitted: Admitted = g.admitted
        return admitted[1:]
    if not asked:
        return None
    try:
        tightest = min(asked, key=lambda one: one.remaining)
        reset = min(max(0, tightest.reset_at - int(time.time())), tightest.limit.get_expiry())
    except RedisError:  # it went between the check and this; the answer matters more
        return None
    return "auth" if tightest.shared else "login", tightest.limit, tightest.remaining, reset
