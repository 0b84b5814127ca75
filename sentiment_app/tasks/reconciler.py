"""The reconciler repairs tasks and webhooks after a worker, Redis or a web process failed.

PostgreSQL knows all work. The reconciler compares it with the leases and with the jobs in Redis. Two reconcilers at the
same time do no harm: each step is safe to repeat. The reconciler also adds up usage, and corrects counters of quotas.
"""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import structlog
from redis.exceptions import RedisError
from sqlalchemy import JSON, Row, cast, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.infrastructure.queue import TASKS_QUEUE, WEBHOOKS_QUEUE, queue
from sentiment_app.tasks import lifecycle, retention
from sentiment_app.tasks.models import OPEN, Chunk, Task
from sentiment_app.usage import counters
from sentiment_app.usage import service as usage
from sentiment_app.webhooks import outbox
from sentiment_app.webhooks.models import Delivery

# A chunk that has been queued for longer than this without a job in Redis has lost its job.
JOB_GRACE = timedelta(seconds=3)
# An upload is abandoned if no data has arrived for this long.
UPLOAD_LIFE = timedelta(minutes=5)

log = structlog.get_logger()


def reconcile() -> dict[str, int]:
    """Run one round, and return how many items each step repaired."""
    done = {
        "leases": _end_expired_leases(),
        "jobs": _send_lost_jobs(),
        "tasks": _advance_tasks(),
        "uploads": give_up_uploads(UPLOAD_LIFE),
        "deliveries": _send_due_deliveries(),
    }
    usage.add_up()
    counters.correct()
    if any(done.values()):
        log.info("reconciled", **done)
    return done


def try_reconcile() -> None:
    """Run one round of a loop. If a dependency does not answer, a later round does the work."""
    try:
        reconcile()
    except (SQLAlchemyError, RedisError) as error:
        log.warning("not_reconciled", reason=type(error).__name__)


def _end_expired_leases() -> int:
    released = _release_expired_leases()
    for chunk in released:
        log.warning("lease_expired", task_id=str(chunk.task_id), chunk_id=str(chunk.id))
    return len(released)


@unit_of_work
def _release_expired_leases() -> Sequence[Row[UUID, UUID]]:
    # The new state is "waiting", so that a chunk is queued again when its task has a turn. Locked chunks are skipped:
    # another transaction is changing them, and two statements that wait for locks on many chunks could deadlock.
    expired = (
        select(Chunk.id)
        .where(Chunk.state == "running", Chunk.lease_until < func.now())
        .with_for_update(skip_locked=True)
    )
    released = update(Chunk).where(Chunk.id.in_(expired.scalar_subquery())).values(state="waiting", token=None)
    statement = released.returning(Chunk.id, Chunk.task_id)
    return db.session.execute(statement, execution_options=UNSYNCHRONIZED).all()


def _send_lost_jobs() -> int:
    lost = _without_job(_find_queued(), TASKS_QUEUE)
    for chunk_id in lost:
        lifecycle.enqueue_chunk(chunk_id)
    return len(lost)


def _without_job(ids: Sequence[UUID], queue_name: str) -> Sequence[UUID]:
    try:
        job_ids = set(queue(queue_name).job_ids) if ids else set()
    except RedisError:
        return []
    return [id_ for id_ in ids if str(id_) not in job_ids]


@unit_of_work
def _find_queued() -> Sequence[UUID]:
    queued = select(Chunk.id).join(Task, Task.id == Chunk.task_id)
    queued = queued.where(Chunk.state == "queued", Chunk.queued_at < func.now() - JOB_GRACE)
    queued = queued.where(Task.status.in_(("uploading", *OPEN)), Task.deleted_at.is_(None))
    return db.session.scalars(queued.order_by(Chunk.queued_at)).all()


def _advance_tasks() -> int:
    """End tasks that have nothing left to do, and queue chunks of tasks that have too few queued."""
    moved = 0
    for task_id in retention.find(Task.status.in_((*OPEN, "cancelling")), Task.deleted_at.is_(None)):
        moved += lifecycle.finish(task_id)
        lifecycle.dispatch(task_id)
    return moved


def give_up_uploads(age: timedelta, *task_ids: UUID) -> int:
    """Erase uploads of these tasks, or of all tasks, if no data has arrived for `age`. Returns their number."""
    stale = _mark_stale(age, *task_ids)
    for task_id in stale:
        retention.erase(task_id)
    return len(stale)


@unit_of_work
def _mark_stale(age: timedelta, *task_ids: UUID) -> Sequence[UUID]:
    # In one statement, so that an upload that ends at this moment is either given up or not.
    stale = update(Task).where(Task.status == "uploading", Task.touched_at < func.now() - age)
    stale = stale.where(Task.id.in_(task_ids)) if task_ids else stale
    marked = stale.values(deleted_at=func.now()).returning(Task.id)
    return db.session.scalars(marked, execution_options=UNSYNCHRONIZED).all()


def _send_due_deliveries() -> int:
    _complete_deliveries()
    due = _without_job(outbox.find_due(), WEBHOOKS_QUEUE)
    for delivery_id in due:
        outbox.send(delivery_id)
    return len(due)


@unit_of_work
def _complete_deliveries() -> None:
    """Fill in the columns of migration 0008 in pending deliveries that an older release stored."""
    incomplete = (
        select(Delivery.id)
        .join(Task, Task.id == Delivery.task_id)
        .where(Delivery.state == "pending", Delivery.url.is_(None), Task.deleted_at.is_(None))
        .with_for_update(of=Delivery, skip_locked=True)
    )
    data = func.json_build_object(
        *("task_id", Task.id, "status", Delivery.event, "model_version", Task.model_version), type_=JSON
    )
    payload = func.json_build_object("type", cast("task.", db.String) + Delivery.event, "data", data, type_=JSON)
    completed = update(Delivery).where(Delivery.id.in_(incomplete.scalar_subquery()), Task.id == Delivery.task_id)
    values = {"user_id": Task.user_id, "url": Task.webhook_url, "payload": payload}
    db.session.execute(completed.values(values), execution_options=UNSYNCHRONIZED)
