"""Issue and verify JSON web tokens (RFC 7519)."""

import threading
import time
from collections.abc import Callable
from typing import Any, TypedDict
from uuid import UUID

import cachetools
import jwt
from flask import Flask, g
from flask_jwt_extended import JWTManager, create_access_token, create_refresh_token, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from jwt.exceptions import PyJWTError

from sentiment_app.auth.token_keys import TOKEN_KEYS, SigningKey, TokenKeys
from sentiment_app.config import CLOCK_LEEWAY, Settings
from sentiment_app.errors import InvalidTokenError
from sentiment_app.infrastructure.app_state import AppKey, settings
from sentiment_app.users.models import Session
from sentiment_app.web.guard import Principal

CACHED_TOKENS = 16_384
ISSUER, AUDIENCE = "urn:sentiment-app", "urn:sentiment-app:api"


class TokenPair(TypedDict):
    """The response of an OAuth 2.0 token endpoint (RFC 6749, section 5.1)."""

    access_token: str
    refresh_token: str
    token_type: str
    expires_in: int


class RefreshClaims(TypedDict):
    """The session and the id of a refresh token."""

    session_id: UUID
    presented_jti: UUID


class VerifiedTokens:
    """A cache of access tokens whose signature was verified, until they expire.

    Verifying a token costs more than scoring a text. Each request still checks in Redis whether the session has ended.
    """

    def __init__(self) -> None:
        self._tokens: cachetools.TLRUCache[str, tuple[Principal, float]] = cachetools.TLRUCache(
            maxsize=CACHED_TOKENS, ttu=lambda _token, entry, _now: entry[1], timer=time.time
        )
        self._lock = threading.Lock()

    def find(self, token: str) -> Principal | None:
        """The principal of a token that was verified before."""
        with self._lock:
            entry = self._tokens.get(token)
        return entry and entry[0]

    def add(self, token: str, principal: Principal, expires_at: float) -> None:
        """Remember a verified token until `expires_at`, in seconds since 1970."""
        with self._lock:
            self._tokens[token] = principal, expires_at

    def clear(self) -> None:
        """Forget all tokens, so that each is verified again."""
        with self._lock:
            self._tokens.clear()


VERIFIED = AppKey[VerifiedTokens]("verified_tokens")
# The cookies of the console have a cache of their own: the API must not know them.
VERIFIED_COOKIES = AppKey[VerifiedTokens]("verified_cookies")


def flask_config(settings: Settings) -> dict[str, Any]:
    """flask-jwt-extended's configuration."""
    return {
        "JWT_TOKEN_LOCATION": ["headers"],
        "JWT_COOKIE_CSRF_PROTECT": False,
        "JWT_ACCESS_TOKEN_EXPIRES": settings.access_token_life,
        "JWT_REFRESH_TOKEN_EXPIRES": settings.refresh_token_life,
        "JWT_DECODE_LEEWAY": CLOCK_LEEWAY,
        # A token that another service signed with the same key is refused (RFC 8725, sections 3.8 and 3.9).
        "JWT_ENCODE_ISSUER": ISSUER,
        "JWT_DECODE_ISSUER": ISSUER,
        "JWT_ENCODE_AUDIENCE": AUDIENCE,
        "JWT_DECODE_AUDIENCE": AUDIENCE,
    }


def init_app(app: Flask, settings: Settings) -> None:
    """Prepare the application for tokens."""
    manager = JWTManager(app)
    manager.encode_key_loader(lambda _identity: _signing_key().key)
    manager.decode_key_loader(lambda header, _claims: _find_key(header))
    VERIFIED_COOKIES.set(app, VerifiedTokens())
    verified = VERIFIED.set(app, VerifiedTokens())
    TOKEN_KEYS.set(app, TokenKeys(settings.jwt_secret_key, on_change=verified.clear))


def issue(start: Callable[[], Session]) -> TokenPair:
    """An access token for the session that `start` begins or renews, and the refresh token that renews it.

    The signing key is read first. If it could not be read after the refresh token was replaced, the client would
    present its old token again, and the session would end as if the token had been stolen.
    """
    g.signing_key = TOKEN_KEYS.get().signing_key()
    session = start()
    subject, claims = str(session.user_id), {"sid": str(session.id)}
    headers = {"kid": g.signing_key.id}
    refresh_claims = {**claims, "jti": str(session.refresh_jti)}
    return TokenPair(
        access_token=create_access_token(subject, additional_claims=claims, additional_headers=headers),
        refresh_token=create_refresh_token(subject, additional_claims=refresh_claims, additional_headers=headers),
        token_type="bearer",  # noqa: S106  # the scheme's name (RFC 6750), not a secret
        expires_in=settings().access_token_seconds,
    )


def identify(token: str) -> Principal:
    """The user and the session of an access token.

    Raises:
        InvalidTokenError: it is expired, forged, or not an access token.
    """
    TOKEN_KEYS.get().refresh()
    verified = VERIFIED.get()
    principal = verified.find(token)
    if principal is None:
        claims = _claims(token, "access")
        principal = Principal(_uuid(claims, "sub"), _uuid(claims, "sid"))
        verified.add(token, principal, claims["exp"])
        _check_key_exists(token)
    return principal


def read_refresh(token: str) -> RefreshClaims:
    """The claims of a refresh token.

    Raises:
        InvalidTokenError: it is expired, forged, or not a refresh token.
    """
    claims = _claims(token, "refresh")
    return RefreshClaims(session_id=_uuid(claims, "sid"), presented_jti=_uuid(claims, "jti"))


def _claims(token: str, token_type: str) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = decode_token(token)
    except (JWTExtendedException, PyJWTError):
        raise InvalidTokenError from None
    # flask-jwt-extended requires no expiry, and reads a token without a type as an access token.
    stated_type = jwt.decode(token, options={"verify_signature": False}).get("type")
    if stated_type != token_type or not isinstance(claims.get("exp"), int):
        raise InvalidTokenError
    return claims


def _check_key_exists(token: str) -> None:
    """Refuse a token whose key was deleted meanwhile. It was perhaps remembered after the cache had been cleared."""
    try:
        _find_key(jwt.get_unverified_header(token))
    except InvalidTokenError:
        VERIFIED.get().clear()
        raise


def _signing_key() -> SigningKey:
    key: SigningKey = g.signing_key
    return key


def _find_key(header: dict[str, Any]) -> bytes:
    key = TOKEN_KEYS.get().find(str(header.get("kid")))
    if key is None:
        raise InvalidTokenError
    return key


def _uuid(claims: dict[str, Any], name: str) -> UUID:
    try:
        return UUID(claims[name])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InvalidTokenError from None
