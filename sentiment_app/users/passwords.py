"""Which passwords are accepted, and how they are kept (argon2id, RFC 9106).

As NIST SP 800-63B-4 says in section 3.1.1.2: no rules of composition, none of those that are tried first, the same
whatever form of Unicode they are typed in. Of the length it asks for where no second factor stands beside a password,
15 characters, we ask eight, and limit the guesses.
"""

import functools
import secrets
import unicodedata
from base64 import b64encode
from importlib.resources import files

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from argon2.low_level import ARGON2_VERSION

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
    folded = _normal(password).casefold()
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
        return _hasher().hash(_normal(password))


def is_right(password_hash: str | None, password: str) -> bool:
    """Whether the password fits; without a hash it takes as long to say no (OWASP: user enumeration).

    Raises:
        BusyError: too many come at the same time.
    """
    with hashing.turn():
        try:
            return _hasher().verify(password_hash or _decoy_for(_hasher()), _normal(password)) and bool(password_hash)
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


def _normal(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


@functools.cache
def _decoy_for(hasher: PasswordHasher) -> str:
    """The hash of no password, as slow to verify as any. Not made by hashing: the first caller would notice."""
    salt, digest = (
        b64encode(secrets.token_bytes(size)).rstrip(b"=").decode() for size in (hasher.salt_len, hasher.hash_len)
    )
    costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${costs}${salt}${digest}"


@functools.cache
def _common() -> frozenset[str]:
    # The passwords of 8 characters or more among the 30 000 most frequent, as listed by zxcvbn 4.5.0 (MIT).
    return frozenset((files(__package__) / "common_passwords.txt").read_text().split())
