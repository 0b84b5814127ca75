"""Which passwords are accepted, and how they are stored (argon2id, RFC 9106).

The rules follow NIST SP 800-63B-4, section 3.1.1.2: no composition rules, no common passwords, and Unicode is
normalised. The standard asks for 15 characters if a password is the only factor. By default we ask for eight
(PASSWORD_MIN_LENGTH), and limit guesses.
"""

import functools
import re
import secrets
import unicodedata
from base64 import b64encode
from importlib.resources import files
from typing import TypedDict

from argon2 import extract_parameters
from argon2.exceptions import InvalidHashError
from argon2.low_level import ARGON2_VERSION

from sentiment_app.errors import InvalidError, UnavailableError
from sentiment_app.infrastructure.app_state import AppKey, settings
from sentiment_app.infrastructure.concurrency import ConcurrencyLimit
from sentiment_app.users.hashing import HASHING

MIN_LENGTH, MAX_LENGTH = 8, 128
SALT_BYTES, HASH_BYTES = 16, 32
SERVICE_NAME = "sentiment"
# What people add to a word so that it looks like a password.
DECORATION = re.compile(r"[\W\d_]+")


class TooManySignInsError(UnavailableError):
    """Too many passwords are waiting to be hashed."""

    detail = "Too many users sign in at the same time. Retry in a few seconds."


HASHING_LIMIT = AppKey[ConcurrencyLimit]("hashing_limit")


def make_hashing_limit() -> ConcurrencyLimit:
    """The limit on password hashes of one application.

    One password is hashed at a time. With seven more requests that wait, half of the threads stay free.
    """
    return ConcurrencyLimit(1, TooManySignInsError, waiting=7)


class WeakPasswordError(InvalidError):
    """An attacker would try this password first."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, field="password")


def check(password: str, *, username: str, email: str) -> None:
    """Refuse a short or common password, spaces alone, and the names of the user and of the service, also with digits.

    Raises:
        WeakPasswordError
    """
    if len(password) < (least := settings().password_min_length):
        raise WeakPasswordError(f"The password must have at least {least} characters.")
    folded = _normal(password).casefold()
    if folded in _common():
        raise WeakPasswordError("This is one of the most common passwords. Choose another password.")
    if folded.isspace():
        raise WeakPasswordError("The password must not consist of spaces alone.")
    names = {username.casefold(), email.casefold(), email.casefold().partition("@")[0], SERVICE_NAME}
    if folded in names or _word(folded) in {_word(name) for name in names} - {""}:
        raise WeakPasswordError("The password must be more than the name of the user or of the service.")


def hash_password(password: str) -> str:
    """The argon2id hash of a password, with its salt and parameters.

    Raises:
        TooManySignInsError, UnavailableError
    """
    with HASHING_LIMIT.get().acquire():
        made: str = HASHING.get().ask({"password": _normal(password), "costs": _costs()})
        return made


def verify(password_hash: str | None, password: str) -> bool:
    """Whether the password matches the hash. Without a hash it takes the same time (OWASP: user enumeration).

    Raises:
        TooManySignInsError, UnavailableError
    """
    with HASHING_LIMIT.get().acquire():
        request = {"password": _normal(password), "hash": password_hash or _decoy_hash(**_costs())}
        return HASHING.get().ask(request) and password_hash is not None


def is_outdated(password_hash: str) -> bool:
    """Whether a hash was made with other parameters than the current settings."""
    try:
        stored = extract_parameters(password_hash)
    except InvalidHashError:
        return True
    return Costs(time_cost=stored.time_cost, memory_cost=stored.memory_cost, parallelism=stored.parallelism) != _costs()


class Costs(TypedDict):
    """The parameters of argon2id (RFC 9106, section 3.1): passes, memory in KiB and lanes."""

    time_cost: int
    memory_cost: int
    parallelism: int


def _costs() -> Costs:
    return Costs(time_cost=settings().password_iterations, memory_cost=settings().password_memory_kib, parallelism=1)


def _normal(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


def _word(name: str) -> str:
    return DECORATION.sub("", name)


@functools.cache
def _decoy_hash(time_cost: int, memory_cost: int, parallelism: int) -> str:
    """A random hash that no password matches, and that is as slow to verify as a real hash."""
    salt, digest = (b64encode(secrets.token_bytes(size)).rstrip(b"=").decode() for size in (SALT_BYTES, HASH_BYTES))
    costs = f"m={memory_cost},t={time_cost},p={parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${costs}${salt}${digest}"


@functools.cache
def _common() -> frozenset[str]:
    # Passwords of at least 8 characters among the 30,000 most frequent, as listed by zxcvbn 4.5.0 (MIT).
    return frozenset((files(__package__) / "common_passwords.txt").read_text().split())
