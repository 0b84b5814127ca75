"""The secrets that sign the webhooks of a user. A secret that was replaced stays valid for a while."""

import secrets
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.webhooks.models import WebhookSecret

KEY_BYTES = 32


def get_or_create(user_id: UUID) -> bytes:
    """The current secret of a user; a random secret at the first call."""
    return _get_or_create(user_id, uuid.uuid7(), secrets.token_bytes(KEY_BYTES))


@unit_of_work
def _get_or_create(user_id: UUID, id_: UUID, key: bytes) -> bytes:
    # If another request was faster, its secret counts.
    new = insert(WebhookSecret).values(id=id_, user_id=user_id, key=key).on_conflict_do_nothing()
    db.session.execute(new)
    return db.session.scalars(select(WebhookSecret.key).where(*_is_current(user_id))).one()


def rotate(user_id: UUID, overlap: timedelta) -> bytes:
    """Replace the secret of a user. Webhooks are signed with both secrets during the overlap."""
    return _rotate(user_id, overlap, uuid.uuid7(), secrets.token_bytes(KEY_BYTES))


@unit_of_work
def _rotate(user_id: UUID, overlap: timedelta, id_: UUID, key: bytes) -> bytes:
    # Two rotations at the same time wait for each other here, so that each finds a current secret or none.
    db.session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"webhook-secret:{user_id}", 0))))
    if (found := db.session.get(WebhookSecret, id_)) is None:  # otherwise this runs again after a lost answer
        old = update(WebhookSecret).where(*_is_current(user_id)).values(expires_at=func.now() + overlap)
        db.session.execute(old, execution_options=UNSYNCHRONIZED)
        found = WebhookSecret(id=id_, user_id=user_id, key=key)
        db.session.add(found)
        db.session.execute(
            delete(WebhookSecret).where(WebhookSecret.user_id == user_id, WebhookSecret.expires_at <= func.now()),
            execution_options=UNSYNCHRONIZED,
        )
    return found.key


@unit_of_work
def find_valid(user_id: UUID) -> Sequence[bytes]:
    """All secrets of a user that are valid, newest first."""
    is_valid = or_(WebhookSecret.expires_at.is_(None), WebhookSecret.expires_at > func.now())
    found = select(WebhookSecret.key).where(WebhookSecret.user_id == user_id, is_valid)
    return db.session.scalars(found.order_by(WebhookSecret.id.desc())).all()


def _is_current(user_id: UUID) -> tuple[ColumnElement[bool], ...]:
    return WebhookSecret.user_id == user_id, WebhookSecret.expires_at.is_(None)
