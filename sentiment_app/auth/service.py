"""Signing in."""

import contextlib

from sentiment_app.errors import UnauthenticatedError
from sentiment_app.users import passwords, sessions
from sentiment_app.users import service as users
from sentiment_app.users.models import Session


class BadCredentialsError(UnauthenticatedError):
    """No such user, or another password; which of the two is not said."""

    kind = "bad-credentials"
    detail = "The username or the password is wrong."


def sign_in(username: str, password: str) -> Session:
    """Start a session.

    Raises:
        BadCredentialsError: after the same time for an unknown user as for a wrong password.
    """
    for _ in range(2):  # the hash may have changed meanwhile, and the password not: at another sign-in
        user = users.authenticate(username, password)
        if user is None:
            break
        with contextlib.suppress(sessions.AccountChangedError):
            session = sessions.start(user.id, user.password_hash)
            with contextlib.suppress(passwords.BusyError):  # at the next sign-in, then
                users.renew_hash(user, password)
            return session
    raise BadCredentialsError
