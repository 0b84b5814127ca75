"""API keys: programs send them instead of access tokens.

A key is `snt_live_`, 32 random characters (190 bits), and six characters of its CRC-32, so that scanners for leaked
secrets recognise it without asking us. The database has only its HMAC-SHA256 under API_KEY_HASH_KEY.
"""

import hashlib
import hmac
import secrets
import string
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import ColumnElement, CursorResult, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from sentiment_app.audit import service as audit
from sentiment_app.audit.service import Event
from sentiment_app.errors import ConflictError, InvalidError, InvalidTokenError, NotFoundError
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import db, unit_of_work
from sentiment_app.users.models import ApiKey, User
from sentiment_app.web.admission import admission
from sentiment_app.web.operation import ADMINISTRATOR_SCOPES

PREFIX = "snt_live_"
ALPHABET = string.digits + string.ascii_letters
RANDOM_CHARACTERS, CHECKSUM_CHARACTERS, HINT_CHARACTERS = 32, 6, 4
MAX_KEYS, MAX_LISTED = 50, 200
# How long a key that was revoked or has expired stays in the list of keys.
KEPT_AFTER_END = timedelta(days=90)


class TooManyKeysError(ConflictError):
    """The user has too many API keys."""

    kind = "too-many-api-keys"
    detail = f"You have {MAX_KEYS} API keys, which is the limit. Revoke a key first."


class NewKey(NamedTuple):
    """A key that was just made, and its record. Nobody can read the key again."""

    key: str
    record: ApiKey


class Grant(NamedTuple):
    """What a key may be used for.

    Args:
        name: what its owner calls it.
        scopes: the operations that it may call.
        networks: the networks that may use it, in CIDR notation. Empty if all may.
        rate: its own rate limit, such as "100 per minute".
        life: how long it is valid; None if it does not expire.
        rows_per_day, rows_per_month: how many rows may be scored with it; None if only its user is limited.
    """

    name: str
    scopes: Sequence[str]
    networks: Sequence[str] = ()
    rate: str | None = None
    life: timedelta | None = None
    rows_per_day: int | None = None
    rows_per_month: int | None = None


def create(user: User, grant: Grant) -> NewKey:
    """Make a key. The caller has verified who the user is.

    Raises:
        TooManyKeysError
        InvalidError: a scope is only for administrators.
        NotFoundError: the account was deleted, or its password changed, meanwhile.
    """
    key = _generate()
    return NewKey(key, _insert(uuid.uuid7(), key, user.id, user.password_hash, grant))


def rotate(user: User, key_id: UUID, overlap: timedelta) -> NewKey:
    """Make a new key with the same rights and the same length of life. The old key stays valid for `overlap`.

    Raises:
        TooManyKeysError
        NotFoundError: there is no such key that is valid.
    """
    key = _generate()
    made = NewKey(key, _replace(uuid.uuid7(), key, user, key_id, overlap))
    if not overlap:
        admission().end([key_id])
    return made


def revoke(user_id: UUID | None, key_id: UUID) -> None:
    """Refuse a key from the next request on; without a user, a key of any user. A second time changes nothing.

    Raises:
        NotFoundError: it does not exist, or belongs to another user.
    """
    _revoke(user_id, key_id)
    admission().end([key_id])


def authenticate(key: str) -> ApiKey:
    """The record of a key that is valid. Its last use is stored.

    Raises:
        InvalidTokenError: it is unknown, revoked or expired, or its account is not active.
    """
    found = _use(_hash(key))
    if found is None:
        raise InvalidTokenError
    return found


def is_well_formed(key: str) -> bool:
    """Whether a key has the form and the checksum of a key."""
    has_length = len(key) == len(PREFIX) + RANDOM_CHARACTERS + CHECKSUM_CHARACTERS
    return has_length and key.isascii() and _checksum(key) == key[-CHECKSUM_CHARACTERS:]


def revoke_all(user_id: UUID) -> None:
    """Refuse all keys of a user from the next request on."""
    admission().end(_revoke_all(user_id))


@unit_of_work
def _revoke_all(user_id: UUID) -> list[UUID]:
    return mark_all_revoked(user_id)


def mark_all_revoked(user_id: UUID) -> list[UUID]:
    """Revoke all keys of a user, within the caller's unit of work.

    Returns the keys that the caller passes to `admission().end` after the commit.
    """
    valid = update(ApiKey).where(ApiKey.user_id == user_id, ApiKey.revoked_at.is_(None))
    revoked = valid.values(revoked_at=func.now()).returning(ApiKey.id)
    for key_id in db.session.scalars(revoked, execution_options={"synchronize_session": False}).all():
        audit.record(Event.KEY_REVOKED, user_id, str(key_id))
    recent = ApiKey.user_id == user_id, ApiKey.revoked_at > func.now() - settings().ended_session_life
    return list(db.session.scalars(select(ApiKey.id).where(*recent)))


@unit_of_work
def list_keys(user_id: UUID) -> Sequence[ApiKey]:
    """The keys of a user, newest first; at most MAX_LISTED, and valid keys before revoked keys."""
    listed = select(ApiKey).where(ApiKey.user_id == user_id).order_by(ApiKey.revoked_at.is_not(None), ApiKey.id.desc())
    return db.session.scalars(listed.limit(MAX_LISTED)).all()


@unit_of_work
def page(user_id: UUID, limit: int, before: UUID | None) -> Sequence[ApiKey]:
    """A page of all keys of a user, newest first, beginning after a cursor."""
    found = select(ApiKey).where(ApiKey.user_id == user_id).order_by(ApiKey.id.desc()).limit(limit)
    return db.session.scalars(found.where(ApiKey.id < before) if before else found).all()


@unit_of_work
def find_valid() -> Sequence[UUID]:
    """The newest valid keys of all users, at most MAX_LISTED."""
    found = select(ApiKey.id).join(User).where(*_is_valid()).order_by(ApiKey.id.desc()).limit(MAX_LISTED)
    return db.session.scalars(found).all()


@unit_of_work
def is_valid(key_id: UUID) -> bool:
    """Whether a key is valid."""
    return db.session.scalar(select(ApiKey.id).join(User).where(ApiKey.id == key_id, *_is_valid())) is not None


@unit_of_work
def find_recently_ended() -> list[UUID]:
    """Keys that processes may still remember as valid: they were revoked recently, or their account is not active."""
    is_recent = ApiKey.revoked_at > func.now() - settings().ended_session_life
    of_inactive = ~User.is_active & ApiKey.revoked_at.is_(None)
    return list(db.session.scalars(select(ApiKey.id).join(User).where(or_(is_recent, of_inactive))))


@unit_of_work
def delete_ended() -> int:
    """Delete keys that ended long ago; returns their number."""
    limit = func.now() - KEPT_AFTER_END
    ended = delete(ApiKey).where(or_(ApiKey.revoked_at < limit, ApiKey.expires_at < limit))
    return cast(CursorResult[Any], db.session.execute(ended)).rowcount


@unit_of_work
def _insert(key_id: UUID, key: str, user_id: UUID, verified_hash: str, grant: Grant) -> ApiKey:
    user = _lock_user(user_id, verified_hash)
    _check_number(user_id, key_id)
    if not user.is_superuser and (refused := ADMINISTRATOR_SCOPES & set(grant.scopes)):
        raise InvalidError(f"Only administrators may have keys with the scope {min(refused)}.", field="scopes")
    return _add(key_id, key, user_id, grant)


@unit_of_work
def _replace(new_id: UUID, key: str, user: User, key_id: UUID, overlap: timedelta) -> ApiKey:
    _lock_user(user.id, user.password_hash)
    # Locked, so that a key that is being revoked gets no successor.
    old = db.session.get(ApiKey, key_id, populate_existing=True, with_for_update=True)
    now = datetime.now(UTC)
    is_done = db.session.get(ApiKey, new_id) is not None  # this runs again after a lost answer
    if old is None or old.user_id != user.id or not (is_done or _has_not_ended(old, now)):
        raise NotFoundError
    life = old.expires_at - old.created_at if old.expires_at else None
    if not is_done:
        _check_number(user.id, key_id)
        if overlap:
            old.expires_at = min(now + overlap, old.expires_at or datetime.max.replace(tzinfo=UTC))
        else:
            old.revoked_at = now
            audit.record(Event.KEY_REVOKED, user.id, str(key_id))
    grant = Grant(old.name, old.scopes, old.networks, old.rate, life, old.rows_per_day, old.rows_per_month)
    return _add(new_id, key, user.id, grant)


def _has_not_ended(key: ApiKey, now: datetime) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


def _add(key_id: UUID, key: str, user_id: UUID, grant: Grant) -> ApiKey:
    values = {
        "id": key_id,
        "user_id": user_id,
        "name": grant.name,
        "hint": key[: len(PREFIX) + HINT_CHARACTERS],
        "key_hash": _hash(key),
        "scopes": sorted(set(grant.scopes)),
        "networks": list(grant.networks),
        "rate": grant.rate,
        "rows_per_day": grant.rows_per_day,
        "rows_per_month": grant.rows_per_month,
        "expires_at": datetime.now(UTC) + grant.life if grant.life else None,
    }
    db.session.execute(insert(ApiKey).values(values).on_conflict_do_nothing(index_elements=[ApiKey.id]))
    audit.record(Event.KEY_CREATED, user_id, f"{key_id}: {', '.join(sorted(set(grant.scopes)))}")
    return db.session.get_one(ApiKey, key_id, populate_existing=True)


def _lock_user(user_id: UUID, verified_hash: str) -> User:
    """Lock the account, so that two requests cannot exceed the limit on keys together."""
    user = db.session.get(User, user_id, populate_existing=True, with_for_update={"key_share": True})
    if user is None or not user.is_active or user.password_hash != verified_hash:
        raise NotFoundError
    return user


def _check_number(user_id: UUID, except_id: UUID) -> None:
    others = ApiKey.user_id == user_id, ApiKey.id != except_id
    valid = select(func.count()).select_from(ApiKey).join(User).where(*others, *_is_valid())
    if db.session.scalars(valid).one() >= MAX_KEYS:
        raise TooManyKeysError


@unit_of_work
def _revoke(user_id: UUID | None, key_id: UUID) -> None:
    key = db.session.get(ApiKey, key_id, populate_existing=True, with_for_update=True)
    if key is None or user_id not in (None, key.user_id):
        raise NotFoundError
    if key.revoked_at is None:
        key.revoked_at = datetime.now(UTC)
        audit.record(Event.KEY_REVOKED, key.user_id, str(key_id))


@unit_of_work
def _use(key_hash: bytes) -> ApiKey | None:
    used = update(ApiKey).where(ApiKey.key_hash == key_hash, ApiKey.user_id == User.id, *_is_valid())
    found = used.values(last_used_at=func.now()).returning(ApiKey)
    return db.session.scalars(found, execution_options={"synchronize_session": False}).one_or_none()


def _is_valid() -> tuple[ColumnElement[bool], ...]:
    """The conditions of a valid key, for a query that joins its user."""
    not_expired = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())
    return ApiKey.revoked_at.is_(None), not_expired, User.is_active.is_(True)


def _generate() -> str:
    key = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_CHARACTERS + CHECKSUM_CHARACTERS))
    return key[:-CHECKSUM_CHARACTERS] + _checksum(key)


def _checksum(key: str) -> str:
    """The CRC-32 of a key without its last characters, in base 62."""
    value = zlib.crc32(key[:-CHECKSUM_CHARACTERS].encode())
    digits = ""
    for _ in range(CHECKSUM_CHARACTERS):
        value, digit = divmod(value, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def _hash(key: str) -> bytes:
    return hmac.digest(settings().api_key_hash_key.encode(), key.encode(), hashlib.sha256)
