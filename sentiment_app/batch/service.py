"""Tasks that are there: watched, read, cancelled, retried, deleted."""

import math
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, cast, func, select, update
from sqlalchemy.dialects.postgresql import JSONPATH
from sqlalchemy.exc import SQLAlchemyError

from sentiment_app.batch import engine, limits, reconcile
from sentiment_app.batch.models import OPEN, SETTLED, UNFINISHED, Chunk, Delivery, Task
from sentiment_app.errors import AppError, ConflictError, NotFoundError
from sentiment_app.extensions import QUEUE, WEBHOOKS, db, unit_of_work
from sentiment_app.ml.runtime import LABELS, Scores

INLINE_ROWS = 1_000


class ExpiredError(AppError):
    """The task's results were kept as long as results are kept."""

    status, kind = 410, "expired"
    detail = "The results of this task have been deleted: it had ended long ago."


class TaskStateError(ConflictError):
    """Not from the status in which the task is."""

    kind = "task-state"


class ResultsChangedError(ConflictError):
    """The task was retried or deleted while its results were read."""

    kind = "results-changed"
    detail = "The task was retried or deleted while its results were read. Read them again."


class Result(NamedTuple):
    """A row's outcome: scores, or why there are none."""

    place: int
    line: int
    custom_id: str | None
    scores: Scores | None
    error: str | None


@unit_of_work
def get(user_id: UUID | None, task_id: UUID) -> Task:
    """A task; of any user if none is named.

    Raises:
        NotFoundError: there is none of that id, or it is somebody else's.
    """
    found = db.session.get(Task, task_id, populate_existing=True)
    if found is None or found.deleted_at or found.status == "uploading" or user_id not in (None, found.user_id):
        raise NotFoundError
    return found


@unit_of_work
def page(user_id: UUID | None, limit: int, before: UUID | None, *, status: str | None = None) -> Sequence[Task]:
    """Tasks, newest first, `limit` at most, beginning after a cursor; of all users if none is named."""
    chosen = select(Task).where(Task.deleted_at.is_(None), Task.status != "uploading")
    if user_id:
        chosen = chosen.where(Task.user_id == user_id)
    if before:
        chosen = chosen.where(Task.id < before)
    if status:
        chosen = chosen.where(Task.status == status)
    return db.session.scalars(
        chosen.order_by(Task.id.desc()).limit(limit), execution_options={"populate_existing": True}
    ).all()


def progress(task: Task) -> engine.Sums:
    """How far a task is."""
    if task.status in SETTLED:
        return engine.Sums(task.completed, task.failed, task.counts, task.confidence_sum, task.histogram)
    return _progress(task.id)


@unit_of_work
def _progress(task_id: UUID) -> engine.Sums:
    return engine.sums(task_id)


class _Scrape:
    """What PostgreSQL is asked at a scrape. One that hangs is left alone for a while: Prometheus waits ten seconds."""

    REST_SECONDS = 30.0
    rests_until = 0.0

    @classmethod
    def ask(cls, statement: Select[*tuple[Any, ...]]) -> Sequence[Any] | None:
        if time.monotonic() < cls.rests_until:
            return None
        try:
            return db.session.execute(statement).all()
        except SQLAlchemyError:
            cls.rests_until = time.monotonic() + cls.REST_SECONDS
            db.session.rollback()
            return None


def rows_found() -> dict[tuple[str, ...], float] | None:
    """Rows of the tasks that have ended, by sentiment and model version; None, at once, while PostgreSQL is away."""
    sums = [func.sum(Task.counts[place + 1]) for place in range(len(LABELS))]  # arrays begin at 1 there
    found = select(Task.model_version, *sums).where(Task.status.in_(SETTLED)).group_by(Task.model_version)
    rows = _Scrape.ask(found)
    if rows is None:
        return None
    return {
        (label, version): float(sum_) for version, *sums_ in rows for label, sum_ in zip(LABELS, sums_, strict=True)
    }


def longest_wait() -> dict[tuple[str, ...], float] | None:
    """Seconds by queue, 0 where nothing waits; None, at once, while PostgreSQL is away.

    Jobs would not tell: a task queues few chunks at a time, however many wait.
    """
    of_queue = {
        QUEUE: select(func.min(Chunk.queued_at))
        .join(Task, Task.id == Chunk.task_id)
        .where(Chunk.state == "queued", Task.status.in_(("uploading", *OPEN)), Task.deleted_at.is_(None)),
        WEBHOOKS: select(func.min(Delivery.next_at)).where(Delivery.state == "pending"),
    }
    waits = [func.extract("epoch", func.now() - oldest.scalar_subquery()) for oldest in of_queue.values()]
    rows = _Scrape.ask(select(*waits))
    if rows is None:
        return None
    return {(name,): max(0.0, float(one or 0)) for name, one in zip(of_queue, rows[0], strict=True)}


def describe(task: Task) -> dict[str, Any]:
    """A task as its owner sees it."""
    at = progress(task)
    seconds = _seconds(task)
    done = at.completed + at.failed
    done_in_run = done - task.rows_before_run  # after a retry, the rows of earlier runs took none of this time
    rate = done_in_run / seconds if seconds and seconds > 0 and done_in_run > 0 else None
    is_running = task.status in OPEN
    return {
        "task_id": task.id,
        "status": task.status,
        "request_counts": {"total": task.total, "completed": at.completed, "failed": at.failed},
        "percent": math.floor(10_000 * done / task.total) / 100 if task.total else 0.0,  # 100 only when all are done
        "rows_per_second": round(rate, 1) if rate else None,
        "seconds_left": round((task.total - done) / rate, 1) if rate and is_running else None,
        "model_version": task.model_version,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "expires_at": task.expires_at,
        "error": task.error,
        "summary": {
            "counts": dict(zip(LABELS, at.counts, strict=True)),
            "mean_confidence": at.confidence_sum / at.completed if at.completed else None,
            "histogram": at.histogram,
        },
    }


def _seconds(task: Task) -> float | None:
    if task.started_at is None:
        return None
    return ((task.finished_at or datetime.now(UTC)) - task.started_at).total_seconds()


def is_small(task: Task) -> bool:
    """Whether a task's results are handed out with it."""
    return task.status == "completed" and task.total <= INLINE_ROWS


class Results(NamedTuple):
    """Results in the order of the input, read chunk by chunk, and how the task was when they were opened."""

    status: str
    finished_at: datetime | None
    rows: Iterator[Result]


def results(user_id: UUID | None, task_id: UUID, after: int = -1) -> Results:
    """A task's results, beginning after an index. One statement decides which chunks they come from.

    While the task is unfinished, they end before the first chunk that is not done: a caller who goes on from the last
    index misses no row. Of a failed or cancelled task, chunks that are not done are left out.

    The iterator raises ResultsChangedError where a chunk is no longer what it was: a retry reopened it, or it is
    deleted. What was read until then is not the whole.

    Raises:
        NotFoundError: there is no task with this id, or it belongs to another user.
        ExpiredError: the results have been deleted.
    """
    chunks = _outline(user_id, task_id, after)
    status = chunks[0].status
    if status == "expired":
        raise ExpiredError
    return Results(status, chunks[0].finished_at, _results(status, chunks, after))


def _results(status: str, chunks: Sequence[Any], after: int) -> Iterator[Result]:
    for chunk in chunks:
        if chunk.state == "done":
            rows = _read(chunk.id, chunk.first, chunk.size, chunk.token)
            yield from (result for result in rows if result.place > after)
        elif status in UNFINISHED:
            return


@unit_of_work
def _outline(user_id: UUID | None, task_id: UUID, after: int) -> Sequence[Any]:
    """The task's chunks with the task's status: a row without a chunk where there are no chunks."""
    is_wanted = (Chunk.task_id == Task.id) & (Chunk.first + Chunk.size > after + 1)
    outline = (
        select(
            *(Task.user_id, Task.status, Task.finished_at),
            *(Chunk.id, Chunk.first, Chunk.size, Chunk.state, Chunk.token),
        )
        .outerjoin(Chunk, is_wanted)
        .where(Task.id == task_id, Task.deleted_at.is_(None), Task.status != "uploading")
        .order_by(Chunk.first)
    )
    chunks = db.session.execute(outline).all()
    if not chunks or user_id not in (None, chunks[0].user_id):
        raise NotFoundError
    return chunks


@unit_of_work
def _read(chunk_id: UUID, first: int, size: int, token: UUID | None) -> list[Result]:
    columns = Chunk.state, Chunk.token, Chunk.keys, Chunk.results, Chunk.errors
    row = db.session.execute(select(*columns).where(Chunk.id == chunk_id)).one_or_none()
    if row is None or row.state != "done" or row.token != token:  # another token is another run
        raise ResultsChangedError
    scores = engine.read_scores(row.results, size).tolist()
    return [
        Result(
            first + place,
            line,
            custom_id,
            None if str(place) in row.errors else Scores(*scores[place]),
            row.errors[str(place)]["detail"] if str(place) in row.errors else None,
        )
        for place, (line, custom_id) in enumerate(engine.unpack(row.keys))
    ]


def cancel(user_id: UUID | None, task_id: UUID) -> Task:
    """Stop a task; what is scored stays. A second time changes nothing.

    Raises:
        NotFoundError: there is none of that id, or it is somebody else's.
        TaskStateError: it has ended already.
    """
    task = get(user_id, task_id)
    if task.status not in ("cancelling", "cancelled"):
        if not _cancel(task_id):
            raise TaskStateError(f"The task has ended already: it is {get(user_id, task_id).status}.")
        engine.finish(task_id)
    return get(user_id, task_id)


@unit_of_work
def _cancel(task_id: UUID) -> bool:
    stopped = update(Task).where(Task.id == task_id, Task.status.in_((*OPEN, "cancelling")))
    if db.session.execute(stopped.values(status="cancelling").returning(Task.id)).first():
        return True
    return _status(task_id) == "cancelled"  # by somebody else at the same time, or by a first run of this


def delete(user_id: UUID | None, task_id: UUID) -> None:
    """Delete a task with its texts and results: nobody sees it from now on, and in seconds it is gone for good.

    Raises:
        NotFoundError: there is none of that id, or it is somebody else's.
    """
    get(user_id, task_id)
    _mark_deleted(task_id)
    reconcile.erase(task_id)


@unit_of_work
def _mark_deleted(task_id: UUID) -> None:
    gone = update(Task).where(Task.id == task_id)
    db.session.execute(gone.values(deleted_at=func.now(), idempotency_key=None))


def retry(user_id: UUID | None, task_id: UUID) -> Task:
    """Score again what failed to be scored; rows that were no texts stay failed.

    Raises:
        NotFoundError: there is none of that id, or it is somebody else's.
        TaskStateError: it has not ended, or has nothing that a retry could mend.
    """
    task = get(user_id, task_id)
    if task.status not in ("completed", "failed", "cancelled"):
        raise TaskStateError(f"Only a task that has ended can be retried; this one is {task.status}.")
    if not _reopen(task):
        raise TaskStateError("Nothing failed in this task that a retry could mend.")
    engine.dispatch(task_id)
    return get(user_id, task_id)


@unit_of_work
def _reopen(task: Task) -> bool:
    limits.reserve_task(task.user_id, task.id, task.total)
    can_mend = Chunk.task_id == task.id, _can_be_mended()
    ended = update(Task).where(
        Task.id == task.id,
        Task.status.in_(("completed", "failed", "cancelled")),
        Task.deleted_at.is_(None),
        select(Chunk.id).where(*can_mend).exists(),
    )
    fresh = dict.fromkeys(("error", "started_at", "finished_at", "expires_at"))
    reopened = ended.values(status="queued", **fresh).returning(Task.id)
    if db.session.execute(reopened).first() is None:
        return _status(task.id) in UNFINISHED  # done by a first run whose answer was lost
    again = update(Chunk).where(*can_mend)
    values = {"state": "waiting", "attempts": 0, "token": None}
    db.session.execute(again.values(values), execution_options={"synchronize_session": False})
    # Of a reopened chunk, the rows that have scores are kept, and are not scored again.
    kept = func.sum(Chunk.completed) + func.sum(Chunk.failed).filter(Chunk.state == "done")
    before = select(func.coalesce(kept, func.sum(Chunk.completed), 0)).where(Chunk.task_id == task.id)
    db.session.execute(update(Task).where(Task.id == task.id).values(rows_before_run=before.scalar_subquery()))
    return True


def _can_be_mended() -> ColumnElement[bool]:
    """Whether a chunk has rows that were not scored, or that failed in a way that may pass."""
    return (Chunk.state != "done") | func.jsonb_path_exists(Chunk.errors, cast("$.*.retryable", JSONPATH))


def _status(task_id: UUID) -> str | None:
    return db.session.scalar(select(Task.status).where(Task.id == task_id))


def wait(user_id: UUID, task_id: UUID, seconds: float) -> Task:
    """The task as soon as it has ended, or after some seconds as it is then."""
    deadline = time.monotonic() + seconds
    pause = 0.02
    while (task := get(user_id, task_id)).status in UNFINISHED and time.monotonic() + pause < deadline:
        db.session.remove()  # no connection is held while nothing is asked
        time.sleep(pause)
        pause = min(0.5, pause * 1.5)
    return task
