"""The lifecycle of a task: its next chunks are queued, and it ends when all chunks are done, or when it fails.

Only a few chunks of a task are queued at a time, and each chunk that is done queues the next. So tasks take turns, and
a small task does not wait behind a large one.
"""

from collections.abc import Sequence
from uuid import UUID

import structlog
import uuid_utils.compat as uuid
from sqlalchemy import case, func, select, update

from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.infrastructure.queue import enqueue
from sentiment_app.tasks import totals
from sentiment_app.tasks.models import OPEN, Chunk, Task
from sentiment_app.webhooks import outbox

JOB = "sentiment_app.tasks.jobs.score_chunk"
# How many chunks of a user's tasks are queued at a time: enough that no worker idles, few enough that users take turns.
QUEUED_CHUNKS = 8

log = structlog.get_logger()


def dispatch(task_id: UUID) -> None:
    """Queue the next chunks of a task, up to the limit."""
    for chunk_id in _queue_next(task_id):
        enqueue_chunk(chunk_id)


def enqueue_chunk(chunk_id: UUID) -> None:
    """Enqueue the job of a chunk. If Redis does not answer, the reconciler enqueues it later."""
    enqueue(JOB, str(chunk_id), job_id=str(chunk_id))


@unit_of_work
def _queue_next(task_id: UUID) -> Sequence[UUID]:
    outstanding = select(func.count()).where(Chunk.task_id == task_id, Chunk.state.in_(("queued", "running")))
    owner = select(Task.user_id).where(Task.id == task_id).scalar_subquery()
    is_active = Task.status.in_(("uploading", *OPEN)), Task.deleted_at.is_(None)
    tasks = select(func.greatest(1, QUEUED_CHUNKS // func.greatest(1, func.count())))
    limit = tasks.where(Task.user_id == owner, *is_active).scalar_subquery()
    chosen = (
        select(Chunk.id)
        .join(Task, Task.id == Chunk.task_id)
        .where(Chunk.task_id == task_id, Chunk.state == "waiting", *is_active)
        .order_by(Chunk.first)
        .limit(func.greatest(0, limit - outstanding.scalar_subquery()))
        .with_for_update(skip_locked=True, of=Chunk)
    )
    queued = update(Chunk).where(Chunk.id.in_(chosen.scalar_subquery()))
    statement = queued.values(state="queued", queued_at=func.now()).returning(Chunk.first, Chunk.id)
    rows = db.session.execute(statement, execution_options=UNSYNCHRONIZED)
    return [row.id for row in sorted(rows, key=lambda row: int(row.first))]


def finish(task_id: UUID) -> bool:
    """End a task if it has nothing left to do. Called after each commit of a chunk, so the last chunk ends the task."""
    has_ended = _finish(task_id)
    if has_ended:
        log.info("task_ended", task_id=str(task_id))
        outbox.send_new(task_id)
    return has_ended


@unit_of_work
def _finish(task_id: UUID) -> bool:
    if not _has_nothing_left(task_id):  # the usual case needs no lock
        return False
    # Lock the task, then look again. A single UPDATE with both conditions is wrong: if it waits for another finish and
    # a retry, PostgreSQL rereads the task's row but not the chunks, and the update ends a task that was just reopened
    # (PostgreSQL manual, section 13.2.1).
    db.session.execute(select(Task.id).where(Task.id == task_id).with_for_update())
    if not _has_nothing_left(task_id):
        return False
    ended = update(Task).where(Task.id == task_id)
    values = {
        "status": case((Task.status == "cancelling", "cancelled"), else_="completed"),
        "finished_at": func.now(),
        "expires_at": func.now() + settings().task_life,
        **totals.of_task(task_id)._asdict(),
    }
    db.session.execute(ended.values(values), execution_options=UNSYNCHRONIZED)
    announce_end(task_id)
    return True


def _has_nothing_left(task_id: UUID) -> bool:
    chunks = select(Chunk.id).where(Chunk.task_id == task_id)
    is_scored = Task.status.in_(OPEN) & ~chunks.where(Chunk.state != "done").exists()
    is_stopped = (Task.status == "cancelling") & ~chunks.where(Chunk.state == "running").exists()
    is_kept = Task.id == task_id, Task.deleted_at.is_(None)
    return db.session.scalar(select(Task.id).where(*is_kept, is_scored | is_stopped)) is not None


def fail(task_id: UUID, error: str) -> None:
    """End a task that cannot be scored at all."""
    if _fail(task_id, error):
        log.warning("task_failed", task_id=str(task_id))
        outbox.send_new(task_id)


@unit_of_work
def _fail(task_id: UUID, error: str) -> bool:
    # A task that is still being uploaded only stores the error, because its owner does not know the task yet. It
    # becomes failed when the upload ends.
    is_open = Task.status.in_(OPEN)
    ended = update(Task).where(Task.id == task_id, is_open | (Task.status == "uploading"))
    values = {
        "status": case((is_open, "failed"), else_=Task.status),
        "error": error,
        "finished_at": case((is_open, func.now())),
        "expires_at": case((is_open, func.now() + settings().task_life)),
    }
    statement = ended.values(values).returning(Task.status)
    status = db.session.execute(statement, execution_options=UNSYNCHRONIZED).scalar_one_or_none()
    if status != "failed":
        return False
    announce_end(task_id)
    return True


def announce_end(task_id: UUID) -> None:
    """Store the delivery to the task's webhook, in the transaction that ends the task."""
    columns = Task.user_id, Task.webhook_url, Task.status, Task.model_version
    task = db.session.execute(select(*columns).where(Task.id == task_id)).one_or_none()
    if task is None or task.webhook_url is None:
        return
    data = {"task_id": str(task_id), "status": task.status, "model_version": task.model_version}
    outbox.add(uuid.uuid7(), task_id, task.user_id, task.webhook_url, task.status, data)
