"""Tokens that can be used once: invitations, and password resets that an administrator starts."""

import enum
import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import CursorResult, delete, func, or_, select, update

from sentiment_app.audit import service as audit
from sentiment_app.audit.service import Event
from sentiment_app.errors import ForbiddenError
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.users.models import OneTimeToken

RANDOM_BYTES = 32
# How long tokens are kept after they have expired.
KEPT_AFTER_END = timedelta(days=30)


class Purpose(enum.StrEnum):
    """What a token allows."""

    INVITATION = "invitation"
    PASSWORD_RESET = "password reset"  # noqa: S105  # a purpose, not a password


class InvalidOneTimeTokenError(ForbiddenError):
    """The token is unknown, expired, or was used before."""

    kind = "invalid-one-time-token"
    detail = "The token is not valid. It has expired, or it was used before. Ask for another one."


class NewToken(NamedTuple):
    """A new token: the token itself, which is shown once, and its record."""

    token: str
    record: OneTimeToken


def create(purpose: Purpose, user_id: UUID | None, life: timedelta) -> NewToken:
    """Make a token; for a password reset, of a user."""
    token = secrets.token_urlsafe(RANDOM_BYTES)
    return NewToken(token, _insert(uuid.uuid7(), purpose, user_id, _hash(token), datetime.now(UTC) + life))


@unit_of_work
def _insert(id_: UUID, purpose: Purpose, user_id: UUID | None, token_hash: bytes, expires_at: datetime) -> OneTimeToken:
    audit.record(Event.KEY_CREATED, user_id, f"{id_}: {purpose}")
    return db.session.merge(
        OneTimeToken(id=id_, purpose=purpose, user_id=user_id, token_hash=token_hash, expires_at=expires_at)
    )


def use(purpose: Purpose, token: str, use_id: UUID) -> UUID:
    """Use up a token, within the caller's unit of work. Returns the id of the token.

    `use_id` identifies the use, so that the unit of work can run again after a lost answer.

    Raises:
        InvalidOneTimeTokenError
    """
    unused = OneTimeToken.used_at.is_(None) & (OneTimeToken.expires_at > func.now())
    chosen = update(OneTimeToken).where(OneTimeToken.token_hash == _hash(token), OneTimeToken.purpose == purpose)
    used = chosen.where(or_(unused, OneTimeToken.use_id == use_id)).values(used_at=func.now(), use_id=use_id)
    token_id: UUID | None = db.session.scalar(used.returning(OneTimeToken.id), execution_options=UNSYNCHRONIZED)
    if token_id is None:
        raise InvalidOneTimeTokenError
    return token_id


def cancel(user_id: UUID) -> None:
    """Make all password resets of a user that were started before useless, within the caller's unit of work."""
    unused = update(OneTimeToken).where(OneTimeToken.user_id == user_id, OneTimeToken.used_at.is_(None))
    db.session.execute(unused.values(used_at=func.now()), execution_options=UNSYNCHRONIZED)


def find_user(purpose: Purpose, token: str) -> UUID:
    """The user of a token that can still be used, within the caller's unit of work.

    Raises:
        InvalidOneTimeTokenError
    """
    found = select(OneTimeToken.user_id).where(
        OneTimeToken.token_hash == _hash(token),
        OneTimeToken.purpose == purpose,
        OneTimeToken.used_at.is_(None),
        OneTimeToken.expires_at > func.now(),
    )
    user_id = db.session.scalar(found)
    if user_id is None:
        raise InvalidOneTimeTokenError
    return user_id


@unit_of_work
def delete_expired() -> int:
    """Delete tokens that expired long ago; returns their number."""
    expired = delete(OneTimeToken).where(OneTimeToken.expires_at < func.now() - KEPT_AFTER_END)
    return cast(CursorResult[Any], db.session.execute(expired)).rowcount


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
