"""The secrets that sign the webhooks of a user. A secret that was replaced stays valid for a while."""

import secrets
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import ColumnElement, delete, func, or_, select, update

from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.webhooks.models import WebhookSecret

KEY_BYTES = 32


def get_or_create(user_id: UUID) -> bytes:
    """The current secret of a user; a random secret at the first call."""
    return _get_or_create(user_id, uuid.uuid7(), secrets.token_bytes(KEY_BYTES))


@unit_of_work
def _get_or_create(user_id: UUID, id_: UUID, key: bytes) -> bytes:
    current = select(WebhookSecret.key).where(*_is_current(user_id))
    if (found := db.session.scalar(current)) is not None:
        return found
    _lock(user_id)
    if (found := db.session.scalar(current)) is None:  # otherwise another request was faster
        db.session.add(WebhookSecret(id=id_, user_id=user_id, key=key))
    return found or key


def rotate(user_id: UUID, overlap: timedelta) -> bytes:
    """Replace the secret of a user. Webhooks are signed with both secrets during the overlap.

    Of several secrets that were replaced, only the newest signs: each adds a signature to the header.
    """
    return _rotate(user_id, overlap, uuid.uuid7(), secrets.token_bytes(KEY_BYTES))


@unit_of_work
def _rotate(user_id: UUID, overlap: timedelta, id_: UUID, key: bytes) -> bytes:
    _lock(user_id)
    if db.session.get(WebhookSecret, id_) is None:  # otherwise this runs again after a lost answer
        replaced = WebhookSecret.user_id == user_id, WebhookSecret.expires_at.is_not(None)
        db.session.execute(delete(WebhookSecret).where(*replaced), execution_options=UNSYNCHRONIZED)
        old = update(WebhookSecret).where(*_is_current(user_id)).values(expires_at=func.now() + overlap)
        db.session.execute(old, execution_options=UNSYNCHRONIZED)
        db.session.add(WebhookSecret(id=id_, user_id=user_id, key=key))
    return key


def _lock(user_id: UUID) -> None:
    """Make other changes of this user's secrets wait for the end of this transaction."""
    db.session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"webhook-secret:{user_id}", 0))))


@unit_of_work
def find_valid(user_id: UUID) -> Sequence[bytes]:
    """All secrets of a user that are valid, newest first."""
    is_valid = or_(WebhookSecret.expires_at.is_(None), WebhookSecret.expires_at > func.now())
    found = select(WebhookSecret.key).where(WebhookSecret.user_id == user_id, is_valid)
    return db.session.scalars(found.order_by(WebhookSecret.id.desc())).all()


def _is_current(user_id: UUID) -> tuple[ColumnElement[bool], ...]:
    return WebhookSecret.user_id == user_id, WebhookSecret.expires_at.is_(None)
