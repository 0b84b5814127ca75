"""Which passwords are accepted, and how they are stored (argon2id, RFC 9106).

The rules follow NIST SP 800-63B-4, section 3.1.1.2: no composition rules, no common passwords, and Unicode is
normalised. The standard asks for 15 characters if a password is the only factor. We ask for eight, and limit guesses.
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
from sentiment_app.infrastructure.app_state import AppKey, settings
from sentiment_app.infrastructure.concurrency import ConcurrencyLimit

MIN_LENGTH, MAX_LENGTH = 8, 128


class TooManySignInsError(UnavailableError):
    """Too many passwords are waiting to be hashed."""

    detail = "Too many users sign in at the same time. Retry in a few seconds."


HASHING_LIMIT = AppKey[ConcurrencyLimit]("hashing_limit")


def make_hashing_limit() -> ConcurrencyLimit:
    """The limit on password hashes of one application.

    Each hash takes 64 MiB and a core for about 50 ms. Two hashes at a time leave most of the process to scoring. With
    six more requests that wait, half of its threads stay free.
    """
    return ConcurrencyLimit(2, TooManySignInsError, waiting=6)


class WeakPasswordError(InvalidError):
    """An attacker would try this password first."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, field="password")


def check(password: str, *, username: str, email: str) -> None:
    """Refuse a common password, and a password that equals the username or the email address.

    Raises:
        WeakPasswordError
    """
    folded = _normal(password).casefold()
    if folded in _common():
        raise WeakPasswordError("This is one of the most common passwords. Choose another password.")
    if folded in (username.casefold(), email.casefold()):
        raise WeakPasswordError("The password must differ from the username and the email address.")


def hash_password(password: str) -> str:
    """The argon2id hash of a password, with its salt and parameters.

    Raises:
        TooManySignInsError
    """
    with HASHING_LIMIT.get().acquire():
        return _hasher().hash(_normal(password))


def verify(password_hash: str | None, password: str) -> bool:
    """Whether the password matches the hash. Without a hash it takes the same time (OWASP: user enumeration).

    Raises:
        TooManySignInsError
    """
    with HASHING_LIMIT.get().acquire():
        try:
            return _hasher().verify(password_hash or _decoy_hash(_hasher()), _normal(password)) and bool(password_hash)
        except VerificationError:
            return False


def is_outdated(password_hash: str) -> bool:
    """Whether a hash was made with other parameters than the current settings."""
    return _hasher().check_needs_rehash(password_hash)


def _hasher() -> PasswordHasher:
    return _hasher_with(settings().password_iterations, settings().password_memory_kib)


@functools.cache
def _hasher_with(iterations: int, memory_kib: int) -> PasswordHasher:
    return PasswordHasher(time_cost=iterations, memory_cost=memory_kib)


def _normal(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


@functools.cache
def _decoy_hash(hasher: PasswordHasher) -> str:
    """A random hash that no password matches, and that is as slow to verify as a real hash."""
    salt, digest = (
        b64encode(secrets.token_bytes(size)).rstrip(b"=").decode() for size in (hasher.salt_len, hasher.hash_len)
    )
    costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${costs}${salt}${digest}"


@functools.cache
def _common() -> frozenset[str]:
    # Passwords of at least 8 characters among the 30,000 most frequent, as listed by zxcvbn 4.5.0 (MIT).
    return frozenset((files(__package__) / "common_passwords.txt").read_text().split())
