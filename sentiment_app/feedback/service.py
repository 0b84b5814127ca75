"""Store, list and delete feedback; and read the feedback of all accounts for training.

Feedback is kept until its user deletes it, or until the account is erased.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from uuid import UUID

import sqlalchemy as sa
import uuid_utils.compat as uuid
from sqlalchemy import ColumnElement, func, select

from sentiment_app.audit import service as audit
from sentiment_app.audit.service import Event
from sentiment_app.errors import ConflictError, InvalidError, InvalidTokenError, NotFoundError
from sentiment_app.feedback.models import Feedback
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.sentiment import history
from sentiment_app.users.models import User

MAX_TEXTS = 10_000
# Rows that are read or deleted in one transaction.
BATCH_ROWS = 1000


class UnknownRequestError(InvalidError):
    """The history of the user has no text with this id."""

    def __init__(self) -> None:
        detail = "Your history has no text with this id. It may have been deleted. Send the `text` instead."
        super().__init__(detail, field="request_id")


class TooMuchFeedbackError(ConflictError):
    """The user has given feedback on as many texts as an account can have."""

    kind = "too-much-feedback"
    detail = f"You have given feedback on {MAX_TEXTS:,} texts, which is the limit. Delete feedback first."


def store(user_id: UUID, label: str, *, text: str | None = None, request_id: UUID | None = None) -> Feedback:
    """Store the right label of a text. It replaces the label that the user gave to the same text before.

    Args:
        user_id: who gives the label.
        label: one of LABELS.
        text: in Unicode normalisation form C.
        request_id: the id of a text in the user's history, instead of the text.

    Raises:
        UnknownRequestError, TooMuchFeedbackError
        InvalidTokenError: the user was deleted.
    """
    given = _find_text(user_id, request_id) if request_id else text or ""
    return _store(uuid.uuid7(), user_id, given, label)


def _find_text(user_id: UUID, request_id: UUID) -> str:
    try:
        return history.get(user_id, request_id).text
    except NotFoundError:
        raise UnknownRequestError from None


@unit_of_work
def _store(id_: UUID, user_id: UUID, text: str, label: str) -> Feedback:
    # The lock on the account prevents that two requests exceed the limit together, or store the same text twice.
    user = db.session.get(User, user_id, populate_existing=True, with_for_update={"key_share": True})
    if user is None or user.deleted_at:
        raise InvalidTokenError
    digest = hashlib.sha256(text.encode()).digest()
    same_text = Feedback.user_id == user_id, Feedback.text_sha256 == digest
    found = db.session.scalar(select(Feedback).where(*same_text).execution_options(populate_existing=True))
    if found is None:
        if _count(user_id) >= MAX_TEXTS:
            raise TooMuchFeedbackError
        found = Feedback(id=id_, user_id=user_id, text=text, text_sha256=digest, label=label)
        db.session.add(found)
    elif found.label != label:
        found.label = label
        found.updated_at = db.session.scalars(select(func.now())).one()
    db.session.flush()
    return found


@unit_of_work
def page(user_id: UUID, limit: int, before: UUID | None) -> Sequence[Feedback]:
    """A page of a user's feedback, newest first, beginning after a cursor."""
    rows = select(Feedback).where(Feedback.user_id == user_id)
    if before:
        rows = rows.where(Feedback.id < before)
    return db.session.scalars(rows.order_by(Feedback.id.desc()).limit(limit)).all()


@unit_of_work
def count(user_id: UUID) -> int:
    """The number of texts that a user has given feedback on."""
    return _count(user_id)


def _count(user_id: UUID) -> int:
    return db.session.scalars(select(func.count()).select_from(Feedback).where(Feedback.user_id == user_id)).one()


def delete(user_id: UUID, feedback_id: UUID) -> None:
    """Delete feedback of a user.

    Raises:
        NotFoundError: it does not exist, or belongs to another user.
    """
    is_own = Feedback.user_id == user_id
    if not _delete(feedback_id, is_own):
        raise NotFoundError


@unit_of_work
def _delete(feedback_id: UUID, is_own: ColumnElement[bool]) -> bool:
    found = sa.delete(Feedback).where(Feedback.id == feedback_id, is_own).returning(Feedback.id)
    return db.session.execute(found, execution_options=UNSYNCHRONIZED).first() is not None


def delete_all(user_id: UUID, deadline: float) -> bool:
    """Delete all feedback of a user in small transactions. Returns whether it is complete at the deadline.

    The deadline is a moment of the monotonic clock.
    """
    while _delete_batch(user_id):
        if time.monotonic() > deadline:
            return count(user_id) == 0
    return True


@unit_of_work
def _delete_batch(user_id: UUID) -> int:
    batch = select(Feedback.id).where(Feedback.user_id == user_id).limit(BATCH_ROWS).scalar_subquery()
    deleted = sa.delete(Feedback).where(Feedback.id.in_(batch)).returning(Feedback.id)
    return len(db.session.scalars(deleted, execution_options=UNSYNCHRONIZED).all())


def read_all() -> Iterator[tuple[str, str]]:
    """The text and the label of all feedback of all accounts, the newest label first.

    The audit log has an entry for it.
    """
    audit.record_alone(Event.DATA_EXPORTED, detail="feedback of all accounts")
    ids = _list_ids()
    for start in range(0, len(ids), BATCH_ROWS):
        batch = ids[start : start + BATCH_ROWS]
        found = {row.id: row for row in _read_batch(batch)}
        yield from ((found[id_].text, found[id_].label) for id_ in batch if id_ in found)


@unit_of_work
def _list_ids() -> Sequence[UUID]:
    """The ids of all feedback, by the time of its label. A label that changes while it is read is not missed.

    Without the feedback of accounts that are deactivated, or deleted, whose data is about to be erased.
    """
    rows = select(Feedback.id).join(User).where(User.deleted_at.is_(None), User.is_active)
    return db.session.scalars(rows.order_by(Feedback.updated_at.desc(), Feedback.id.desc())).all()


@unit_of_work
def _read_batch(ids: Sequence[UUID]) -> Sequence[Feedback]:
    return db.session.scalars(
        select(Feedback).where(Feedback.id.in_(ids)), execution_options={"populate_existing": True}
    ).all()
