"""The history of scored texts."""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import ColumnElement, select

from sentiment_app.errors import NotFoundError
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.sentiment.models import SentimentRequest
from sentiment_app.users.models import User

# Rows that are deleted in one transaction. Small transactions do not block other requests.
BATCH_ROWS = 1000


@unit_of_work
def page(
    user_id: UUID,
    limit: int,
    before: UUID | None,
    *,
    sentiment: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Sequence[SentimentRequest]:
    """A page of a user's scored texts, newest first, beginning after a cursor.

    Bounds in time are also bounds of the id, which begins with the milliseconds (RFC 9562, section 5.7).
    """
    rows = select(SentimentRequest).where(SentimentRequest.user_id == user_id)
    if before:
        rows = rows.where(SentimentRequest.id < before)
    if sentiment:
        rows = rows.where(SentimentRequest.sentiment == sentiment)
    if since:
        rows = rows.where(SentimentRequest.id >= _first_id_at(since), SentimentRequest.created_at >= since)
    if until:
        after = _first_id_at(until, milliseconds_later=1)  # an id has no more precision than milliseconds
        rows = rows.where(SentimentRequest.id < after, SentimentRequest.created_at < until)
    return db.session.scalars(rows.order_by(SentimentRequest.id.desc()).limit(limit)).all()


@unit_of_work
def get(user_id: UUID, request_id: UUID) -> SentimentRequest:
    """A scored text of a user.

    Raises:
        NotFoundError: it does not exist, or belongs to another user.
    """
    found = db.session.scalar(select(SentimentRequest).where(*_is_own(user_id, request_id)))
    if found is None:
        raise NotFoundError
    return found


def delete(user_id: UUID, request_id: UUID) -> None:
    """Delete a scored text of a user.

    Raises:
        NotFoundError: it does not exist, or belongs to another user.
    """
    get(user_id, request_id)
    _delete(user_id, request_id)


@unit_of_work
def _delete(user_id: UUID, request_id: UUID) -> None:
    db.session.execute(sa.delete(SentimentRequest).where(*_is_own(user_id, request_id)))


class Deleted(NamedTuple):
    """How many texts were deleted, and whether no others remain."""

    number: int
    is_complete: bool


def delete_all(user_id: UUID, deadline: float) -> Deleted:
    """Delete all scored texts of a user in small transactions, until a moment of the monotonic clock."""
    return _delete_while(SentimentRequest.user_id == user_id, deadline)


def delete_expired() -> int:
    """Delete scored texts that are older than HISTORY_DAYS, or than their user wants; returns their number."""
    total = 0
    for user_id, days in [(None, settings().history_days), *_find_own_limits()]:
        is_old = SentimentRequest.id < _first_id_at(datetime.now(UTC) - timedelta(days=days))
        is_chosen = is_old if user_id is None else is_old & (SentimentRequest.user_id == user_id)
        total += _delete_while(is_chosen, math.inf).number
    return total


def _delete_while(is_chosen: ColumnElement[bool], deadline: float) -> Deleted:
    total = 0
    while True:
        deleted = _delete_batch(is_chosen)
        total += deleted
        # Another request may have deleted the rows of this batch at the same time. So a batch of 0 is not the end.
        if not deleted and not _has_any(is_chosen):
            return Deleted(total, is_complete=True)
        if time.monotonic() > deadline:
            return Deleted(total, is_complete=False)


@unit_of_work
def _has_any(is_chosen: ColumnElement[bool]) -> bool:
    return db.session.scalar(select(SentimentRequest.id).where(is_chosen).limit(1)) is not None


@unit_of_work
def _find_own_limits() -> list[tuple[UUID, int]]:
    own = select(User.id, User.history_days).where(User.history_days < settings().history_days)
    return [(user_id, cast(int, days)) for user_id, days in db.session.execute(own)]


@unit_of_work
def _delete_batch(is_chosen: ColumnElement[bool]) -> int:
    batch = select(SentimentRequest.id).where(is_chosen)
    batch = batch.order_by(SentimentRequest.id).limit(BATCH_ROWS)
    old = sa.delete(SentimentRequest).where(SentimentRequest.id.in_(batch.scalar_subquery()))
    return len(db.session.scalars(old.returning(SentimentRequest.id), execution_options=UNSYNCHRONIZED).all())


def _is_own(user_id: UUID, request_id: UUID) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return SentimentRequest.id == request_id, SentimentRequest.user_id == user_id


def make_id(milliseconds: int, random: int) -> UUID:
    """A UUIDv7 from milliseconds since 1970 and at least 74 random bits (RFC 9562, section 5.7)."""
    high, low = random >> 62 & 0xFFF, random & (1 << 62) - 1
    return UUID(int=(milliseconds & (1 << 48) - 1) << 80 | 7 << 76 | high << 64 | 2 << 62 | low)


def time_of_id(id_: UUID) -> datetime:
    """The time in a UUIDv7."""
    return datetime.fromtimestamp((id_.int >> 80) / 1000, UTC)


def _first_id_at(moment: datetime, milliseconds_later: int = 0) -> UUID:
    """The smallest id at a moment plus some milliseconds, which may be later than the last moment of datetime."""
    milliseconds = max(0, int(moment.timestamp() * 1000) + milliseconds_later)
    return UUID(int=milliseconds << 80)
