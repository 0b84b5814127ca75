"""The default-deny guard: it checks every request, also of views that declare no access."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import NamedTuple, NoReturn, cast
from uuid import UUID

import structlog
from flask import Flask, current_app, g, request
from flask_limiter.util import get_remote_address
from limits import RateLimitItem

from sentiment_app.errors import ForbiddenError, InvalidTokenError, UnauthenticatedError
from sentiment_app.web import cookies, rate_limits
from sentiment_app.web.admission import Admission, Verdict
from sentiment_app.web.operation import Operation, operation_of
from sentiment_app.web.rate_limits import RateLimits

log = structlog.get_logger()


class InsufficientScopeError(ForbiddenError):
    """The API key does not have the scope of this operation."""

    kind = "insufficient-scope"

    def __init__(self, required: tuple[str, ...], granted: frozenset[str]) -> None:
        if required:
            needed = f"This operation needs the scope {' or '.join(required)}"
        else:
            needed = "This operation needs the access token of a person who signed in"
        super().__init__(f"{needed}. The API key has: {', '.join(sorted(granted))}.")
        self.challenge = f', error="insufficient_scope", scope="{" ".join(required)}"'


class ForeignNetworkError(ForbiddenError):
    """The API key may not be used from this network."""

    def __init__(self) -> None:
        super().__init__(f"This API key may not be used from the address {get_remote_address()}.")


class ApiKeyGrant(NamedTuple):
    """What an API key may be used for: its scopes, its networks (all if empty), its own rate, and its quotas.

    `rows` has the limits on the rows of a day and a month.
    """

    scopes: frozenset[str]
    networks: tuple[IPv4Network | IPv6Network, ...]
    rate: RateLimitItem | None
    rows: tuple[int | None, int | None] = (None, None)


class Principal(NamedTuple):
    """Who sent a request: the user, and the session or the API key. A session may do everything that its user may."""

    user_id: UUID
    credential_id: UUID
    key: ApiKeyGrant | None = None

    @property
    def key_id(self) -> UUID | None:
        """The API key, if the request has one."""
        return self.credential_id if self.key else None


@dataclass(frozen=True)
class Guard:
    """Authenticates, authorizes and counts every request.

    Args:
        identify: verifies an access token or an API key. Raises InvalidTokenError or RateLimitedError.
        identify_browser: verifies the cookie of the console. Raises the same errors.
        is_administrator: whether a user is currently an administrator.
        admission: knows ended sessions, and counts the user's first rate.
        rate_limits: counts all other rates.
    """

    identify: Callable[[str], Principal]
    identify_browser: Callable[[str], Principal]
    is_administrator: Callable[[UUID], bool]
    admission: Admission
    rate_limits: RateLimits

    def init_app(self, app: Flask) -> None:
        """Check every request of the application before its view runs."""
        app.before_request(self._check)

    def _check(self) -> None:
        g.pop("principal", None)  # of an earlier request: tests send several in one application context
        if request.endpoint is None:  # a 404 or 405 reveals no more than /openapi.json
            return
        operation = operation_of(current_app.view_functions[request.endpoint])
        if operation.page:
            cookies.check_origin()
        if operation.access == "public":
            self._count(operation.rates, None)
            return
        principal = self._admit(operation)
        self._count(operation.rates[1:], principal.user_id)
        if operation.access == "administrator" and not self.is_administrator(principal.user_id):
            _refuse(principal, ForbiddenError())

    def _admit(self, operation: Operation) -> Principal:
        principal = self.identify_browser(cookies.token()) if operation.page else self.identify(_bearer_token())
        if principal.key:  # before the rates of the user, which a key must not use up where it may not be used
            self._check_key(principal, principal.key, operation)
        verdict, standing = self.admission.admit(principal.user_id, principal.credential_id, operation.rates[0])
        if verdict is Verdict.SESSION_ENDED:
            raise InvalidTokenError
        g.principal = principal
        rate_limits.check(standing)
        return principal

    def _check_key(self, principal: Principal, key: ApiKeyGrant, operation: Operation) -> None:
        if key.networks and not any(_is_in(network) for network in key.networks):
            _refuse(principal, ForeignNetworkError())
        if key.scopes.isdisjoint(operation.scopes):
            _refuse(principal, InsufficientScopeError(operation.scopes, key.scopes))
        if key.rate:
            rate_limits.check(self.rate_limits.hit_item("api-key", key.rate, str(principal.credential_id)))

    def _count(self, rates: tuple[str, ...], user_id: UUID | None) -> None:
        for rate in rates:
            rate_limits.check(self.rate_limits.hit(rate, user_id))


def _refuse(principal: Principal, error: ForbiddenError) -> NoReturn:
    """Raise an error, and log it as OWASP's Application Logging Vocabulary names it."""
    ids = {"user_id": str(principal.user_id), "credential_id": str(principal.credential_id)}
    log.warning("authz_fail", **ids, network=rate_limits.network(), reason=error.kind)
    raise error


def caller() -> Principal:
    """The principal of the current request."""
    return cast(Principal, g.principal)


def require_scope(scope: str) -> None:
    """Refuse an API key that lacks a scope, which the operation needs only for some requests.

    Raises:
        InsufficientScopeError
    """
    principal = caller()
    if principal.key and scope not in principal.key.scopes:
        _refuse(principal, InsufficientScopeError((scope,), principal.key.scopes))


def holders() -> tuple[UUID, str]:
    """Who holds the place of the current request under a ConcurrencyLimit: the user and the network."""
    return caller().user_id, rate_limits.network()


def _is_in(network: IPv4Network | IPv6Network) -> bool:
    """Whether the request comes from a network."""
    try:
        address = ip_address(get_remote_address())
    except ValueError:  # a trusted proxy may send something that is not an address
        return False
    return (getattr(address, "ipv4_mapped", None) or address) in network


def _bearer_token() -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnauthenticatedError
    return token.strip()
