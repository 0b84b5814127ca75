"""The default-deny guard: it checks every request, also of views that declare no access."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast
from uuid import UUID

from flask import Flask, current_app, g, request

from sentiment_app.errors import ForbiddenError, InvalidTokenError, RateLimitedError, UnauthenticatedError
from sentiment_app.web import rate_limits
from sentiment_app.web.admission import Admission, Verdict
from sentiment_app.web.operation import Operation, operation_of
from sentiment_app.web.rate_limits import RateLimits


class Principal(NamedTuple):
    """The user and the session that a verified token belongs to."""

    user_id: UUID
    session_id: UUID


@dataclass(frozen=True)
class Guard:
    """Authenticates, authorizes and counts every request.

    Args:
        identify: verifies an access token. Raises InvalidTokenError.
        is_administrator: whether a user is currently an administrator.
        admission: knows ended sessions, and counts the user's first rate.
        rate_limits: counts all other rates.
    """

    identify: Callable[[str], Principal]
    is_administrator: Callable[[UUID], bool]
    admission: Admission
    rate_limits: RateLimits

    def init_app(self, app: Flask) -> None:
        """Check every request of the application before its view runs."""
        app.before_request(self._check)

    def _check(self) -> None:
        if request.endpoint is None:  # a 404 or 405 reveals no more than /openapi.json
            return
        operation = operation_of(current_app.view_functions[request.endpoint])
        if operation.access == "public":
            self._count(operation.rates, None)
            return
        principal = self._admit(operation)
        self._count(operation.rates[1:], principal.user_id)
        if operation.access == "administrator" and not self.is_administrator(principal.user_id):
            raise ForbiddenError

    def _admit(self, operation: Operation) -> Principal:
        principal = self.identify(_bearer_token())
        verdict, standing = self.admission.admit(*principal, operation.rates[0])
        if verdict is Verdict.SESSION_ENDED:
            raise InvalidTokenError
        g.principal = principal
        rate_limits.record(standing)
        if standing.is_exceeded:
            raise RateLimitedError
        return principal

    def _count(self, rates: tuple[str, ...], user_id: UUID | None) -> None:
        for rate in rates:
            standing = self.rate_limits.hit(rate, user_id)
            rate_limits.record(standing)
            if standing.is_exceeded:
                raise RateLimitedError


def caller() -> Principal:
    """The principal of the current request."""
    return cast(Principal, g.principal)


def _bearer_token() -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnauthenticatedError
    return token.strip()
