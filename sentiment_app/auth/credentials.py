"""Identifies the caller by an access token or an API key."""

import time
from ipaddress import ip_network

import limits

from sentiment_app.auth import tokens
from sentiment_app.config import KEY_CACHE_LIFE
from sentiment_app.errors import InvalidTokenError
from sentiment_app.users import api_keys, sessions
from sentiment_app.users.models import ApiKey
from sentiment_app.web import rate_limits
from sentiment_app.web.guard import ApiKeyGrant, Principal


def identify(credential: str) -> Principal:
    """The caller who sent this access token or API key.

    Raises:
        InvalidTokenError: it is not valid.
        RateLimitedError: the caller's network sent too many keys that this process does not know.
    """
    if not credential.startswith(api_keys.PREFIX):
        return tokens.identify(credential)
    verified = tokens.VERIFIED.get()
    principal = verified.find(credential)
    if principal is None:
        if not api_keys.is_well_formed(credential):
            raise InvalidTokenError
        rate_limits.check(rate_limits.RATE_LIMITS.get().hit("key"))
        key = api_keys.authenticate(credential)
        principal = Principal(key.user_id, key.id, _grant(key))
        expires_at = key.expires_at.timestamp() if key.expires_at else float("inf")
        verified.add(credential, principal, min(time.time() + KEY_CACHE_LIFE.total_seconds(), expires_at))
    return principal


def identify_browser(cookie: str) -> Principal:
    """The caller whose browser sent this cookie of the console.

    Raises:
        InvalidTokenError: it belongs to no session, or the session has ended.
        RateLimitedError: the caller's network sent too many cookies that this process does not know.
    """
    verified = tokens.VERIFIED_COOKIES.get()
    principal = verified.find(cookie)
    if principal is None:
        rate_limits.check(rate_limits.RATE_LIMITS.get().hit("key"))
        session = sessions.use_cookie(cookie)
        principal = Principal(session.user_id, session.id)
        expires_at = min(time.time() + KEY_CACHE_LIFE.total_seconds(), session.expires_at.timestamp())
        verified.add(cookie, principal, expires_at)
    return principal


def _grant(key: ApiKey) -> ApiKeyGrant:
    rate = limits.parse(key.rate) if key.rate else None
    rows = key.rows_per_day, key.rows_per_month
    return ApiKeyGrant(frozenset(key.scopes), tuple(map(ip_network, key.networks)), rate, rows)
