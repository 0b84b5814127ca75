"""Retention: results expire, and deleted tasks are erased."""

import math
import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, update

from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.tasks import totals
from sentiment_app.tasks.models import Chunk, Task

IDEMPOTENCY_KEY_LIFE = timedelta(hours=24)
BATCH_CHUNKS = 50
# How long each purge looks for remaining chunks of an expired task, in case an earlier purge was interrupted.
LEFTOVER_LIFE = timedelta(days=2)


def erase(task_id: UUID, deadline: float = math.inf) -> bool:
    """Delete a task with its texts and results, for good. Returns whether that is done before the deadline.

    The deadline is a moment of the monotonic clock.
    """
    while _delete_some_chunks(task_id):
        if time.monotonic() > deadline:
            return False
    _delete_task(task_id)
    return True


def expire_results() -> int:
    """Delete texts and results of tasks that were kept for TASK_DAYS; returns the number of tasks."""
    expired = 0
    for task_id in find(Task.expires_at < func.now(), Task.status != "expired"):
        expired += _mark_expired(task_id)
    # Also delete the chunks of tasks that an interrupted purge marked as expired.
    recent = Task.status == "expired", Task.expires_at > func.now() - LEFTOVER_LIFE
    for task_id in find(*recent, select(Chunk.id).where(Chunk.task_id == Task.id).exists()):
        while _delete_some_chunks(task_id):
            pass
    return expired


def erase_expired() -> int:
    """Erase tasks whose results expired TASK_DAYS ago; returns their number."""
    life = max(LEFTOVER_LIFE, settings().task_life)
    return _erase_all(find(Task.status == "expired", Task.expires_at < func.now() - life))


def erase_deleted() -> int:
    """Erase tasks that were marked as deleted; returns their number."""
    return _erase_all(find(Task.deleted_at.is_not(None)))


@unit_of_work
def forget_idempotency_keys() -> int:
    """Delete idempotency keys that are older than a day; returns their number."""
    old = Task.idempotency_key.is_not(None), Task.created_at < func.now() - IDEMPOTENCY_KEY_LIFE
    forgotten = update(Task).where(*old).values(idempotency_key=None, fingerprint=None).returning(Task.id)
    return len(db.session.scalars(forgotten, execution_options=UNSYNCHRONIZED).all())


@unit_of_work
def find(*conditions: ColumnElement[bool]) -> Sequence[UUID]:
    """Ids of the tasks that meet all conditions, oldest first."""
    return db.session.scalars(select(Task.id).where(*conditions).order_by(Task.id)).all()


def _erase_all(task_ids: Sequence[UUID]) -> int:
    for task_id in task_ids:
        erase(task_id)
    return len(task_ids)


@unit_of_work
def _mark_expired(task_id: UUID) -> bool:
    """Mark a task before its chunks are deleted, so that a retry cannot reopen it with missing chunks. Keeps totals."""
    old = update(Task).where(Task.id == task_id, Task.expires_at < func.now(), Task.status != "expired")
    marked = old.values(status="expired", **totals.of_task(task_id)._asdict())
    return db.session.execute(marked.returning(Task.id)).first() is not None


@unit_of_work
def _delete_some_chunks(task_id: UUID) -> int:
    some = select(Chunk.id).where(Chunk.task_id == task_id).limit(BATCH_CHUNKS)
    deleted = delete(Chunk).where(Chunk.id.in_(some.scalar_subquery())).returning(Chunk.id)
    return len(db.session.scalars(deleted, execution_options=UNSYNCHRONIZED).all())


@unit_of_work
def _delete_task(task_id: UUID) -> None:
    db.session.execute(delete(Task).where(Task.id == task_id))


RETENTION_STEPS = {
    "expired": expire_results,
    "deleted": erase_deleted,
    "erased": erase_expired,
    "keys": forget_idempotency_keys,
}
