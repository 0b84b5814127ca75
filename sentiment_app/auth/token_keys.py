"""The keys that sign tokens: the newest key signs, and the key before it still verifies.

A key is derived from JWT_SECRET_KEY and from a random salt in the database, so nobody can forge tokens with only a copy
of the secrets, or with only a backup of the database. A rotation needs no restart: each process reads the keys again
every few seconds, and when it meets a token whose key it does not know.

Every process must know a key before any process signs with it. So a key signs only after SETTLE_SECONDS, which is
longer than MIN_REFRESH_SECONDS: by then, a process that does not know the key may read the keys again at once.
"""

import hmac
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import delete, func, insert, select

from sentiment_app.audit import service as audit
from sentiment_app.audit.service import Event
from sentiment_app.auth.models import TokenKey
from sentiment_app.errors import ConflictError, UnavailableError
from sentiment_app.infrastructure.app_state import AppKey, settings
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.infrastructure.refreshed import Refreshed

SALT_BYTES = 32
REFRESH_SECONDS, MIN_REFRESH_SECONDS = 10.0, 1.0
SETTLE_SECONDS = 5.0
TAKES_OVER_SECONDS = SETTLE_SECONDS + REFRESH_SECONDS
# An advisory lock of PostgreSQL.
ROTATION_LOCK = 7_305_214_662
NEWEST_FIRST = TokenKey.created_at.desc(), TokenKey.id.desc()


class RecentRotationError(ConflictError):
    """Tokens that are still valid are signed with the key that another rotation would delete."""

    kind = "recent-rotation"


class NoSigningKeyError(UnavailableError):
    """The table of keys is empty."""

    detail = "The service has no key to sign tokens. The operator can create it with: sentiment auth rotate-key"


class SigningKey(NamedTuple):
    """A derived key, and its id: the header `kid` of the tokens that it signs (RFC 7515, section 4.1.4)."""

    id: str
    key: bytes


class KeyRing(NamedTuple):
    """The keys that verify, by id, and the key that signs."""

    keys: dict[str, bytes]
    signing: SigningKey | None


class TokenKeys:
    """The keys, as this process knows them.

    Args:
        secret: JWT_SECRET_KEY.
        on_change: called after the keys have changed.
    """

    def __init__(self, secret: str, on_change: Callable[[], None]) -> None:
        self._secret = secret.encode()
        self._ring = Refreshed("token_keys", self._read, seconds=REFRESH_SECONDS, on_change=on_change)

    def refresh(self) -> None:
        """Read the keys again if REFRESH_SECONDS have passed. If the database does not answer, the keys stay."""
        self._ring.get()

    def signing_key(self) -> SigningKey:
        """The key that signs new tokens. It is not older than MIN_REFRESH_SECONDS, so that a revoked key signs nothing.

        Raises:
            NoSigningKeyError
        """
        signing = self._ring.read_again(MIN_REFRESH_SECONDS).signing
        if signing is None:
            raise NoSigningKeyError
        return signing

    def find(self, id_: str) -> bytes | None:
        """The key with this id, or None if it does not exist."""
        return self._ring.get().keys.get(id_) or self._ring.read_again(MIN_REFRESH_SECONDS).keys.get(id_)

    def _read(self) -> KeyRing:
        found = list_keys()
        # HKDF-Extract (RFC 5869, section 2.2).
        keys = {str(row.id): hmac.digest(row.salt, self._secret, "sha256") for row in found}
        settled = [row for row in found if row.age >= SETTLE_SECONDS] or found[-1:]
        return KeyRing(keys, SigningKey(str(settled[0].id), keys[str(settled[0].id)]) if settled else None)


class StoredKey(NamedTuple):
    """A key in the database, and its age in seconds by the clock of the database."""

    id: UUID
    salt: bytes
    created_at: datetime
    age: float


TOKEN_KEYS = AppKey[TokenKeys]("token_keys")


def _find() -> Sequence[StoredKey]:
    """All keys, the newest first."""
    age = func.extract("epoch", func.clock_timestamp() - TokenKey.created_at)
    found = select(TokenKey.id, TokenKey.salt, TokenKey.created_at, age).order_by(*NEWEST_FIRST)
    return [StoredKey(*row) for row in db.session.execute(found)]


def rotate(*, revoke_old: bool = False, force: bool = False) -> UUID:
    """Create a key, which signs tokens from a few seconds later on. Returns its id.

    The key that signed until now still verifies, and older keys are deleted. With `revoke_old`, all other keys are
    deleted: the tokens that they signed stop working within REFRESH_SECONDS.

    Raises:
        RecentRotationError: tokens of an older key may still be in use. `force` and `revoke_old` delete it.
    """
    id_ = uuid.uuid7()
    _rotate(id_, secrets.token_bytes(SALT_BYTES), revoke_old, force)
    return id_


@unit_of_work
def _rotate(id_: UUID, salt: bytes, revoke_old: bool, force: bool) -> None:
    db.session.execute(select(func.pg_advisory_xact_lock(ROTATION_LOCK)))
    found = _find()
    if found and found[0].age < 0 and not revoke_old:  # the newest key must be the key that was created last
        raise RecentRotationError(
            "The clock of the database went back: the newest key is from the future. Wait until "
            f"{found[0].created_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC, or use --revoke-old."
        )
    if any(key.id == id_ for key in found):
        return  # this runs again after a lost answer
    if not revoke_old:
        _check_age(found, force)
    kept = [] if revoke_old else [key.id for key in found[:1]]
    db.session.execute(delete(TokenKey).where(TokenKey.id.not_in(kept)), execution_options=UNSYNCHRONIZED)
    # The time of this statement, because another rotation may have held the lock since this transaction began.
    db.session.execute(insert(TokenKey).values(id=id_, salt=salt, created_at=func.clock_timestamp()))
    audit.record(Event.SIGNING_KEY_ROTATED, None, f"{id_}{', old keys revoked' if revoke_old else ''}")


def _check_age(found: Sequence[StoredKey], force: bool) -> None:
    """Refuse a rotation that would delete a key whose tokens are in use, by the clock of the database."""
    if len(found) < 2:
        return
    if found[0].age < TAKES_OVER_SECONDS:
        raise RecentRotationError("The newest key does not sign in all processes yet. Rotate again in 15 seconds.")
    # The newest key replaced the older keys, so their last tokens were signed soon after its creation.
    in_use = settings().refresh_token_life + timedelta(seconds=TAKES_OVER_SECONDS)
    if found[0].age < in_use.total_seconds() and not force:
        raise RecentRotationError(
            "The previous key still verifies tokens. A rotation now would delete it, and end the sessions that use it. "
            f"Wait until {found[0].created_at.astimezone(UTC) + in_use:%Y-%m-%d %H:%M} UTC, or use --force."
        )


@unit_of_work
def list_keys() -> Sequence[StoredKey]:
    """All keys, the newest first."""
    return _find()
