"""Puts back what was lost: PostgreSQL knows what is to be done, whatever became of Redis and the workers."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import structlog
from redis.exceptions import RedisError
from sqlalchemy import ColumnElement, delete, func, select, update

from sentiment_app.batch import engine, webhooks
from sentiment_app.batch.models import OPEN, Chunk, Delivery, Task
from sentiment_app.extensions import QUEUE, WEBHOOKS, db, queue, unit_of_work
from sentiment_app.sentiment import service as history
from sentiment_app.users import sessions

# With the lease (8 s) and a round each EVERY_SECONDS, work goes on within 15 seconds of whatever happened.
EVERY_SECONDS = 5.0
# A queued chunk without a job in Redis for longer than this has lost it.
GRACE = timedelta(seconds=3)
UPLOAD_LIFE = timedelta(minutes=5)
KEY_LIFE = timedelta(hours=24)
BATCH = 50

log = structlog.get_logger()


def reconcile() -> dict[str, int]:
    """One round; says how many of what it put back. Two at once do no harm: each step may be done twice."""
    done = {
        "leases": _put_back_expired(),
        "jobs": _send_lost_jobs(),
        "tasks": _move_on(),
        "uploads": _forget_stale_uploads(),
        "deliveries": _send_due_deliveries(),
    }
    if any(done.values()):
        log.info("reconciled", **done)
    return done


def purge() -> dict[str, int]:
    """Delete what has been kept long enough, or was deleted, in batches that block nobody."""
    return {
        "expired": _expire(),
        "deleted": _delete_deleted(),
        "keys": _forget_keys(),
        "history": history.forget_old(),
        "sessions": sessions.forget_expired(),
    }


@unit_of_work
def _put_back_expired() -> int:
    # To "waiting": the task's turn decides when it is queued again.
    late = update(Chunk).where(Chunk.state == "running", Chunk.lease_until < func.now())
    return len(db.session.scalars(late.values(state="waiting", token=None).returning(Chunk.id)).all())


def _send_lost_jobs() -> int:
    lost = _without_job(_queued(), QUEUE)
    for chunk_id in lost:
        engine.enqueue_chunk(chunk_id)
    return len(lost)


def _without_job(ids: Sequence[UUID], name: str) -> Sequence[UUID]:
    try:
        known = set(queue(name).job_ids) if ids else set()
    except RedisError:
        return []
    return [one for one in ids if str(one) not in known]


@unit_of_work
def _queued() -> Sequence[UUID]:
    old = select(Chunk.id).join(Task, Task.id == Chunk.task_id)
    old = old.where(Chunk.state == "queued", Chunk.queued_at < func.now() - GRACE)
    alive = old.where(Task.status.in_(("uploading", *OPEN)), Task.deleted_at.is_(None))
    return db.session.scalars(alive.order_by(Chunk.queued_at)).all()


def _move_on() -> int:
    """End tasks that have nothing left, and queue chunks of those that have too few queued."""
    moved = 0
    for task_id in _tasks(Task.status.in_((*OPEN, "cancelling")), Task.deleted_at.is_(None)):
        moved += engine.finish(task_id)
        engine.dispatch(task_id)
    return moved


def _forget_stale_uploads() -> int:
    stale = _tasks(Task.status == "uploading", Task.touched_at < func.now() - UPLOAD_LIFE)
    for task_id in stale:
        erase(task_id)
    return len(stale)


def _send_due_deliveries() -> int:
    due = _without_job(_due(), WEBHOOKS)
    for delivery_id in due:
        webhooks.enqueue_delivery(delivery_id)
    return len(due)


@unit_of_work
def _due() -> Sequence[UUID]:
    return db.session.scalars(
        select(Delivery.id).where(Delivery.state == "pending", Delivery.next_at <= func.now()).limit(1000)
    ).all()


def _expire() -> int:
    number = 0
    for task_id in _tasks(Task.expires_at < func.now(), Task.status != "expired"):
        number += _mark_expired(task_id)
    for task_id in _tasks(Task.status == "expired", select(Chunk.id).where(Chunk.task_id == Task.id).exists()):
        _drop_chunks(task_id)
    return number


@unit_of_work
def _tasks(*conditions: ColumnElement[bool]) -> Sequence[UUID]:
    return db.session.scalars(select(Task.id).where(*conditions).order_by(Task.id)).all()


@unit_of_work
def _mark_expired(task_id: UUID) -> bool:
    """Before its chunks go, so that no retry revives half a task; how many rows there were is kept."""
    rows = select(func.coalesce(func.sum(Chunk.completed), 0), func.coalesce(func.sum(Chunk.failed), 0))
    completed, failed = db.session.execute(rows.where(Chunk.task_id == task_id)).one()
    old = update(Task).where(Task.id == task_id, Task.expires_at < func.now(), Task.status != "expired")
    done = old.values(status="expired", completed=completed, failed=failed)
    return db.session.execute(done.returning(Task.id)).first() is not None


def _delete_deleted() -> int:
    gone = _tasks(Task.deleted_at.is_not(None))
    for task_id in gone:
        erase(task_id)
    return len(gone)


def erase(task_id: UUID) -> None:
    """Delete a task with its inputs and results, for good."""
    _drop_chunks(task_id)
    _drop(task_id)


def _drop_chunks(task_id: UUID) -> None:
    while _drop_some_chunks(task_id):
        pass


@unit_of_work
def _drop_some_chunks(task_id: UUID) -> int:
    some = select(Chunk.id).where(Chunk.task_id == task_id).limit(BATCH)
    dropped = delete(Chunk).where(Chunk.id.in_(some.scalar_subquery())).returning(Chunk.id)
    return len(db.session.scalars(dropped, execution_options={"synchronize_session": False}).all())


@unit_of_work
def _drop(task_id: UUID) -> None:
    db.session.execute(delete(Task).where(Task.id == task_id))


@unit_of_work
def _forget_keys() -> int:
    old = update(Task).where(Task.idempotency_key.is_not(None), Task.created_at < func.now() - KEY_LIFE)
    forgotten = old.values(idempotency_key=None, fingerprint=None).returning(Task.id)
    return len(db.session.scalars(forgotten, execution_options={"synchronize_session": False}).all())
