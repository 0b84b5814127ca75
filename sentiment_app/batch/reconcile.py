"""Puts back what was lost: PostgreSQL knows what is to be done, whatever became of Redis and the workers."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import structlog
from redis.exceptions import RedisError
from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from sentiment_app.batch import engine, webhooks
from sentiment_app.batch.models import OPEN, Chunk, Delivery, Task
from sentiment_app.errors import UnavailableError
from sentiment_app.extensions import QUEUE, WEBHOOKS, db, queue, settings, unit_of_work
from sentiment_app.sentiment import service as history
from sentiment_app.users import sessions

# With the lease (8 s) and a round each EVERY_SECONDS, work goes on within 15 seconds of whatever happened.
EVERY_SECONDS = 5.0
# A queued chunk without a job in Redis for longer than this has lost it.
GRACE = timedelta(seconds=3)
UPLOAD_LIFE = timedelta(minutes=5)
KEY_LIFE = timedelta(hours=24)
BATCH = 50
# How long it is looked for what an interrupted purge has left behind.
LEFTOVER = timedelta(days=2)

log = structlog.get_logger()


class PurgeError(UnavailableError):
    """Some of what is to be deleted could not be."""


def reconcile() -> dict[str, int]:
    """One round; says how many of what it put back. Two at once do no harm: each step may be done twice."""
    done = {
        "leases": _put_back_expired(),
        "jobs": _send_lost_jobs(),
        "tasks": _move_on(),
        "uploads": give_up_uploads(UPLOAD_LIFE),
        "deliveries": _send_due_deliveries(),
    }
    if any(done.values()):
        log.info("reconciled", **done)
    return done


def try_to_reconcile() -> None:
    """One round of many: what is away now is there in a later one."""
    try:
        reconcile()
    except (SQLAlchemyError, RedisError) as error:
        log.warning("not_reconciled", reason=type(error).__name__)


def purge() -> dict[str, int]:
    """Delete what has been kept long enough, or was deleted, in batches that block nobody.

    Raises:
        PurgeError: a step failed; the others were done.
    """
    steps = {
        "expired": _expire,
        "deleted": _delete_deleted,
        "forgotten": _forget_expired,
        "keys": _forget_keys,
        "history": history.forget_old,
        "sessions": sessions.forget_expired,
    }
    done, failed = {}, []
    for name, step in steps.items():
        try:
            done[name] = step()
        except SQLAlchemyError as error:
            log.error("not_purged", step=name, reason=type(error).__name__)  # noqa: TRY400  # it might quote a row
            failed.append(name)
    if failed:
        raise PurgeError(f"Not deleted: {', '.join(failed)}. The rest was: {done}.")
    return done


@unit_of_work
def _put_back_expired() -> int:
    # To "waiting": the task's turn decides when it is queued again. A chunk that somebody has locked changes anyway;
    # who locks many chunks at once must never wait for a lock, or two of them wait for each other.
    expired = (
        select(Chunk.id)
        .where(Chunk.state == "running", Chunk.lease_until < func.now())
        .with_for_update(skip_locked=True)
    )
    late = update(Chunk).where(Chunk.id.in_(expired.scalar_subquery())).values(state="waiting", token=None)
    return len(db.session.scalars(late.returning(Chunk.id), execution_options={"synchronize_session": False}).all())


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


def give_up_uploads(age: timedelta, *ids: UUID) -> int:
    """Delete uploads that nothing was heard of for some time, of these tasks or of all; returns how many."""
    stale = _mark_stale(age, *ids)
    for task_id in stale:
        erase(task_id)
    return len(stale)


@unit_of_work
def _mark_stale(age: timedelta, *ids: UUID) -> Sequence[UUID]:
    # In one statement, so that an upload that ends at this moment either is lost or is not.
    stale = update(Task).where(Task.status == "uploading", Task.touched_at < func.now() - age)
    stale = stale.where(Task.id.in_(ids)) if ids else stale
    marked = stale.values(deleted_at=func.now()).returning(Task.id)
    return db.session.scalars(marked, execution_options={"synchronize_session": False}).all()


def _send_due_deliveries() -> int:
    due = _without_job(_due(), WEBHOOKS)
    for delivery_id in due:
        webhooks.enqueue_delivery(delivery_id)
    return len(due)


@unit_of_work
def _due() -> Sequence[UUID]:
    return db.session.scalars(
        select(Delivery.id)
        .join(Task, Task.id == Delivery.task_id)
        .where(Delivery.state == "pending", Delivery.next_at <= func.now(), Task.deleted_at.is_(None))
        .limit(1000)
    ).all()


def _expire() -> int:
    number = 0
    for task_id in _tasks(Task.expires_at < func.now(), Task.status != "expired"):
        number += _mark_expired(task_id)
    # And of those that a purge which was cut off had marked.
    lately = Task.status == "expired", Task.expires_at > func.now() - LEFTOVER
    for task_id in _tasks(*lately, select(Chunk.id).where(Chunk.task_id == Task.id).exists()):
        _drop_chunks(task_id)
    return number


def _forget_expired() -> int:
    """Delete what is known of tasks whose results expired as long ago as results are kept."""
    old = _tasks(Task.status == "expired", Task.expires_at < func.now() - max(LEFTOVER, settings().task_life))
    for task_id in old:
        erase(task_id)
    return len(old)


@unit_of_work
def _tasks(*conditions: ColumnElement[bool]) -> Sequence[UUID]:
    return db.session.scalars(select(Task.id).where(*conditions).order_by(Task.id)).all()


@unit_of_work
def _mark_expired(task_id: UUID) -> bool:
    """Before its chunks go, so that no retry revives half a task; what they add up to is kept."""
    old = update(Task).where(Task.id == task_id, Task.expires_at < func.now(), Task.status != "expired")
    done = old.values(status="expired", **engine.sums(task_id)._asdict())
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
