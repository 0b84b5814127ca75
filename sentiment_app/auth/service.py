"""Sign-in."""

import contextlib

from sentiment_app.audit import service as audit
from sentiment_app.errors import UnauthenticatedError, UnavailableError
from sentiment_app.users import service as users
from sentiment_app.users import sessions
from sentiment_app.users.models import Session


class BadCredentialsError(UnauthenticatedError):
    """The user does not exist, the account is not active, or the password is wrong. The response does not say which."""

    kind = "bad-credentials"
    detail = "The username or the password is wrong."


def sign_in(username: str, password: str, origin: sessions.Origin, cookie: str | None = None) -> Session:
    """Start a session; in the console, with a cookie.

    Raises:
        BadCredentialsError: the credentials are wrong. An unknown user takes the same time as a wrong password.
    """
    for _ in range(2):  # a concurrent sign-in may replace the hash although the password stays the same
        user = users.authenticate(username, password)
        if user is None:
            account = users.find(username)
            audit.record_failed_sign_in(account.id if account else None)
            break
        with contextlib.suppress(sessions.AccountChangedError):
            session = sessions.start(user.id, user.password_hash, origin, cookie)
            with contextlib.suppress(UnavailableError):  # the next sign-in tries again
                users.rehash_password(user, password)
            return session
    raise BadCredentialsError
