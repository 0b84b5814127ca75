"""Tokens (RFC 7519): made for a session, and verified once each while they live."""

import threading
import time
from typing import Any, TypedDict
from uuid import UUID

import cachetools
from flask_jwt_extended import create_access_token, create_refresh_token, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from jwt.exceptions import PyJWTError

from sentiment_app.errors import InvalidTokenError
from sentiment_app.extensions import settings
from sentiment_app.guard import Principal
from sentiment_app.users.models import Session


class TokenPair(TypedDict):
    """The answer of an OAuth 2.0 token endpoint (RFC 6749, section 5.1)."""

    access_token: str
    refresh_token: str
    token_type: str
    expires_in: int


class RefreshClaims(TypedDict):
    """Which token of which session was presented."""

    session_id: UUID
    presented_jti: UUID


# Verifying a token costs more than scoring a text. What is cached is only that the signature is right and until
# when; whether the session has ended since is asked of Redis each time.
_verified: cachetools.TLRUCache[str, tuple[Principal, float]] = cachetools.TLRUCache(
    maxsize=16_384, ttu=lambda _token, entry, _now: entry[1], timer=time.time
)
_lock = threading.Lock()


def issue(session: Session) -> TokenPair:
    """An access token for a session, and the one refresh token with which it can be renewed."""
    subject, claims = str(session.user_id), {"sid": str(session.id)}
    return TokenPair(
        access_token=create_access_token(subject, additional_claims=claims),
        refresh_token=create_refresh_token(subject, additional_claims={**claims, "jti": str(session.refresh_jti)}),
        token_type="bearer",  # noqa: S106  # the scheme's name (RFC 6750), not a secret
        expires_in=settings().access_token_seconds,
    )


def identify(token: str) -> Principal:
    """Whom an access token speaks for.

    Raises:
        InvalidTokenError: it is expired, forged, or no access token.
    """
    with _lock:
        known = _verified.get(token)
    if known is None:
        claims = _claims(token, "access")
        known = Principal(UUID(claims["sub"]), UUID(claims["sid"])), claims["exp"]
        with _lock:
            _verified[token] = known
    return known[0]


def read_refresh(token: str) -> RefreshClaims:
    """What a refresh token says.

    Raises:
        InvalidTokenError: it is expired, forged, or no refresh token.
    """
    claims = _claims(token, "refresh")
    return RefreshClaims(session_id=UUID(claims["sid"]), presented_jti=UUID(claims["jti"]))


def _claims(token: str, kind: str) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = decode_token(token)
    except (JWTExtendedException, PyJWTError):
        raise InvalidTokenError from None
    if claims["type"] != kind or "sid" not in claims:
        raise InvalidTokenError
    return claims
