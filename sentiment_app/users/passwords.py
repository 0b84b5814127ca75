"""Which passwords are accepted (NIST SP 800-63B-4, section 3.1.1.2), and how they are kept (argon2id, RFC 9106)."""

import functools
import secrets
from importlib.resources import files

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from sentiment_app.errors import InvalidError, UnavailableError
from sentiment_app.extensions import settings
from sentiment_app.turnstile import Turnstile

MIN_LENGTH, MAX_LENGTH = 8, 128


class BusyError(UnavailableError):
    """More passwords are waiting to be hashed than threads can be spared for."""

    detail = "Too many sign in at the same time; try again in a moment."


# Each hash takes 64 MiB and a core for some 50 ms: two at a time leave the rest of the process to scoring, and so many
# that wait half of its threads.
hashing = Turnstile(2, 6, BusyError)


class WeakPasswordError(InvalidError):
    """A password that an attacker would try first."""

    def __init__(self, why: str) -> None:
        super().__init__(errors=[{"in": "body", "pointer": "/password", "detail": why}])


def check(password: str, *, username: str, email: str) -> None:
    """Refuse a common password, or one that is the account's own name or address.

    Raises:
        WeakPasswordError: with a pointer to the field.
    """
    folded = password.casefold()
    if folded in _common():
        raise WeakPasswordError("This is among the most common passwords; choose another.")
    if folded in (username.casefold(), email.casefold()):
        raise WeakPasswordError("A password must differ from the username and the email address.")


def hash_password(password: str) -> str:
    """The argon2id hash of a password, its salt and parameters included.

    Raises:
        BusyError: too many come at the same time.
    """
    with hashing.turn():
        return _hasher().hash(password)


def is_right(password_hash: str | None, password: str) -> bool:
    """Whether the password fits; without a hash it takes as long to say no (OWASP: user enumeration).

    Raises:
        BusyError: too many come at the same time.
    """
    with hashing.turn():
        try:
            return _hasher().verify(password_hash or _decoy(), password) and bool(password_hash)
        except VerificationError:
            return False


def is_outdated(password_hash: str) -> bool:
    """Whether a hash was made with other parameters than today's."""
    return _hasher().check_needs_rehash(password_hash)


def _hasher() -> PasswordHasher:
    return _hasher_with(settings().password_iterations, settings().password_memory_kib)


@functools.cache
def _hasher_with(iterations: int, memory_kib: int) -> PasswordHasher:
    return PasswordHasher(time_cost=iterations, memory_cost=memory_kib)


def _decoy() -> str:
    return _decoy_for(_hasher())


@functools.cache
def _decoy_for(hasher: PasswordHasher) -> str:
    return hasher.hash(secrets.token_urlsafe())


@functools.cache
def _common() -> frozenset[str]:
    # The passwords of 8 characters or more among the 30 000 most frequent, as listed by zxcvbn 4.5.0 (MIT).
    return frozenset((files(__package__) / "common_passwords.txt").read_text().split())
