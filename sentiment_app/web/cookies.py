"""The cookie of the console, and the protection of its forms against other sites (CSRF).

The cookie is a random token. It identifies a session after sign-in; before, it only protects the form to sign in.
Every write needs an Origin that is this service, and a token that only pages of this service can contain: an HMAC of
the cookie. The API never reads the cookie, so it needs no such protection.
"""

import hashlib
import hmac
import secrets
from urllib.parse import SplitResult, urlsplit

from flask import Response, request

from sentiment_app.errors import ForbiddenError, UnauthenticatedError

# A browser accepts a cookie with this prefix only over HTTPS (or from localhost), from this host and for this host.
NAME = "__Host-sentiment"
RANDOM_BYTES = 32
SAFE_METHODS = ("GET", "HEAD")
FIELD, HEADER = "csrf_token", "X-CSRF-Token"


class WrongOriginError(ForbiddenError):
    """The browser says that a page of another site has sent this form."""

    kind = "cross-site-request"
    detail = "The form was not sent from a page of this service."


class WrongTokenError(ForbiddenError):
    """The form has no token of this browser: it is out of date, or a page of another site has made it."""

    kind = "cross-site-request"
    detail = "The form was not sent from a current page of this service. Reload the page, and send the form again."


def token() -> str:
    """The cookie of the current request.

    Raises:
        UnauthenticatedError: the request has no cookie.
    """
    found = request.cookies.get(NAME)
    if not found:
        raise UnauthenticatedError
    return found


def generate() -> str:
    """A new random token."""
    return secrets.token_urlsafe(RANDOM_BYTES)


def add(response: Response, cookie: str, seconds: int | None = None) -> None:
    """Set the cookie for some seconds, or until the browser is closed."""
    response.set_cookie(NAME, cookie, max_age=seconds, secure=True, httponly=True, samesite="Strict")


def remove(response: Response) -> None:
    """Delete the cookie."""
    response.delete_cookie(NAME, secure=True, httponly=True, samesite="Strict")


def csrf_token(cookie: str) -> str:
    """The token that forms send together with this cookie."""
    return hmac.new(cookie.encode(errors="surrogatepass"), b"csrf", hashlib.sha256).hexdigest()


def check_origin() -> None:
    """Refuse a write that does not come from a page of this service.

    Only the browser knows the port that it uses, because a proxy or a virtual machine may forward another port. It
    compares the ports itself, and reports the result in Sec-Fetch-Site.

    Raises:
        WrongOriginError
    """
    if request.method in SAFE_METHODS:
        return
    given, own = request.headers.get("Origin", ""), urlsplit(request.host_url)
    try:
        origin = urlsplit(given)
        is_own = (origin.scheme, origin.hostname) == (own.scheme, own.hostname) and given == _address(origin)
    except ValueError:
        raise WrongOriginError from None
    if not is_own or request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise WrongOriginError


def own_origin() -> str:
    """The address of this service as the browser of the current request knows it, such as https://example.org:8443.

    The Origin of a write was checked before.
    """
    return request.headers.get("Origin") or request.host_url.rstrip("/")


def _address(url: SplitResult) -> str:
    """The scheme, host and port of a URL, and nothing else. Raises ValueError if the port is not a number."""
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{url.scheme}://{host}" + (f":{url.port}" if url.port is not None else "")


def check_csrf_token(given: str | None) -> None:
    """Refuse a form without the token that belongs to the cookie.

    Raises:
        WrongTokenError
    """
    cookie = request.cookies.get(NAME)
    sent = (given or "").encode(errors="surrogatepass")
    if not cookie or not hmac.compare_digest(sent, csrf_token(cookie).encode()):
        raise WrongTokenError
