"""Tasks: submitted, watched, cancelled, retried, deleted."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from sentiment_app.batch import engine, reconcile, webhooks
from sentiment_app.batch.intake import Item
from sentiment_app.batch.models import OPEN, SETTLED, UNFINISHED, Chunk, Delivery, Task
from sentiment_app.errors import (
    AppError,
    ConflictError,
    InvalidError,
    InvalidTokenError,
    NotFoundError,
    RateLimitedError,
)
from sentiment_app.extensions import QUEUE, WEBHOOKS, db, settings, unit_of_work
from sentiment_app.ml.runtime import LABELS, Scores
from sentiment_app.sentiment.serving import UnknownModelError, serving

# So many that a worker spends its time on scoring, and so few that tasks take turns several times a second.
CHUNK_ROWS = 5_000
# And no larger than what takes a second or two to score.
CHUNK_CHARACTERS = 2_000_000
INLINE_ROWS = 1_000
STALE = timedelta(seconds=60)
TOUCH_SECONDS = 10.0


class TooManyTasksError(RateLimitedError):
    """The caller has as many unfinished tasks, or queued rows, as one may have."""

    kind = "too-many-tasks"
    headers = {"Retry-After": "30"}  # noqa: RUF012  # as its parents have it


class StillRunningError(ConflictError):
    """The first request with this Idempotency-Key has not been answered yet."""

    kind = "idempotency-in-progress"
    detail = "A request with this Idempotency-Key is still running."


class UploadLostError(ConflictError):
    """The upload took so long that it was given up, or its owner deleted it meanwhile."""

    kind = "upload-lost"
    detail = "The upload was given up; send it again."


class UploadTooSlowError(AppError):
    """The upload did not arrive within UPLOAD_SECONDS."""

    status, kind = 408, "upload-too-slow"
    detail = "The upload took too long to arrive; send it in parts."


class ExpiredError(AppError):
    """The task's results were kept as long as results are kept."""

    status, kind = 410, "expired"
    detail = "The results of this task have been deleted: it had ended long ago."


class KeyReusedError(AppError):
    """The Idempotency-Key came before, with another body."""

    status, kind = 422, "idempotency-key-reused"
    detail = "This Idempotency-Key was used for another request."


class TaskStateError(ConflictError):
    """Not from the status in which the task is."""

    kind = "task-state"


class Submission(NamedTuple):
    """What is to be done with the items."""

    user_id: UUID
    model: str | None = None
    webhook_url: str | None = None
    idempotency_key: str | None = None
    given_in: str = "body"
    """Where model and webhook_url were given: for the pointers of errors."""


class Result(NamedTuple):
    """A row's outcome: scores, or why there are none."""

    place: int
    line: int
    custom_id: str | None
    scores: Scores | None
    error: str | None


def replayed(submission: Submission, fingerprint: str) -> Task | None:
    """The task that an earlier request with the same Idempotency-Key made; None if this is the first.

    draft-ietf-httpapi-idempotency-key-header-07, section 2.6.

    Raises:
        StillRunningError: that request has not been answered.
        KeyReusedError: it had another body.
    """
    found = known(submission)
    if found is None:
        return None
    if found.fingerprint != fingerprint:
        raise KeyReusedError
    return found


def known(submission: Submission) -> Task | None:
    """The task of the caller's Idempotency-Key, if there is one.

    Raises:
        StillRunningError: the request that makes it has not been answered.
    """
    if submission.idempotency_key is None:
        return None
    found = _by_key(submission.user_id, submission.idempotency_key)
    if found is None:
        return None
    if found.deleted_at or found.created_at < datetime.now(UTC) - reconcile.KEY_LIFE:
        _release_key(found.id)
        return None
    if found.status == "uploading":
        if not reconcile.give_up_uploads(STALE, found.id):
            raise StillRunningError
        return None  # whoever uploaded it is gone
    return found


@unit_of_work
def _by_key(user_id: UUID, key: str) -> Task | None:
    return db.session.scalar(
        select(Task).where(Task.user_id == user_id, Task.idempotency_key == key),
        execution_options={"populate_existing": True},
    )


@unit_of_work
def _release_key(task_id: UUID) -> None:
    db.session.execute(update(Task).where(Task.id == task_id).values(idempotency_key=None, fingerprint=None))


def submit(submission: Submission, items: Iterable[Item], fingerprint: Callable[[], str]) -> Task:
    """Take in the items of a task and have workers score them; all of it, or nothing.

    Args:
        submission: for whom, and how.
        items: read one by one, and stored chunk by chunk.
        fingerprint: asked, after the last item, what identifies the request.

    Raises:
        UnknownModelError, NoModelError: there is no such model.
        TooManyTasksError: the caller has enough to wait for.
        InvalidError: there are no items.
    """
    version = _model_version(submission)
    if submission.webhook_url:
        webhooks.check_url(submission.webhook_url, submission.given_in)
    task_id = open_task(submission, version)
    try:
        total = 0
        for part in _chunks(_heard(task_id, items)):
            _add_chunk(uuid.uuid7(), task_id, total, part)
            total += len(part)
            engine.dispatch(task_id)  # workers begin while the rest is still on its way
        _close(task_id, total, fingerprint())
    except BaseException:
        reconcile.erase(task_id)
        raise
    engine.finish(task_id)  # they may have been faster than the upload
    return get(submission.user_id, task_id)


def _model_version(submission: Submission) -> str:
    if submission.model is None:
        return serving().current().version
    try:
        return serving().pinned(submission.model).version
    except UnknownModelError as error:
        for one in error.errors or []:
            one["in"] = submission.given_in
        raise


def open_task(submission: Submission, version: str) -> UUID:
    """Note that a task is being uploaded, if its owner may have one more.

    Raises:
        TooManyTasksError: the caller has enough to wait for.
        StillRunningError: a request with the same Idempotency-Key came first.
    """
    task_id = uuid.uuid7()
    try:
        _open(task_id, submission, version)
    except IntegrityError as error:
        if "idempotency_key" in str(error.orig):
            raise StillRunningError from None
        raise InvalidTokenError from None  # the account was deleted under a living token
    return task_id


@unit_of_work
def _open(task_id: UUID, submission: Submission, version: str) -> None:
    _one_at_a_time(submission.user_id)
    _refuse_too_many(submission.user_id, but=task_id)
    values = {
        "id": task_id,
        "user_id": submission.user_id,
        "model_version": version,
        "webhook_url": submission.webhook_url,
        "idempotency_key": submission.idempotency_key,
    }
    db.session.execute(insert(Task).values(values).on_conflict_do_nothing(index_elements=[Task.id]))


def _one_at_a_time(user_id: UUID) -> None:
    """Of two units of work of one user that come together, the second sees what the first one did."""
    lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:user, 0))")
    db.session.execute(lock, {"user": str(user_id)})


@unit_of_work
def check_limits(user_id: UUID) -> None:
    """Refuse a caller who has enough to wait for, before the upload is read.

    Raises:
        TooManyTasksError
    """
    _refuse_too_many(user_id)


def _refuse_too_many(user_id: UUID, but: UUID | None = None) -> None:
    # "but" is the task's own row, which is there when its unit of work runs again.
    counted = select(func.count(), func.coalesce(func.sum(Task.total), 0)).where(
        Task.user_id == user_id,
        Task.status.in_(UNFINISHED),
        Task.deleted_at.is_(None),
        Task.id.is_distinct_from(but),
    )
    tasks, queued = db.session.execute(counted).one()
    if tasks >= settings().max_tasks:
        raise TooManyTasksError(f"You have {tasks} unfinished tasks, of {settings().max_tasks} that you may have.")
    if queued >= settings().max_queued_rows:
        raise TooManyTasksError(
            f"You have {queued:,} rows waiting, of {settings().max_queued_rows:,} that you may have."
        )


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    part: list[Item] = []
    characters = 0
    for item in items:
        part.append(item)
        characters += len(item.text or "")
        if len(part) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part


def _heard(task_id: UUID, items: Iterable[Item]) -> Iterator[Item]:
    """The items, noting now and then that they still come: a slow upload is not a dead one."""
    noted = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - noted > TOUCH_SECONDS:
            _touch(task_id)
            noted = time.monotonic()


@unit_of_work
def _touch(task_id: UUID, **values: Any) -> None:
    alive = update(Task).where(Task.id == task_id, Task.deleted_at.is_(None))
    if db.session.execute(alive.values(touched_at=func.now(), **values).returning(Task.id)).first() is None:
        raise UploadLostError


@unit_of_work
def _add_chunk(chunk_id: UUID, task_id: UUID, first: int, items: Sequence[Item]) -> None:
    errors = {str(place): {"detail": item.error} for place, item in enumerate(items) if item.error}
    values = {
        "id": chunk_id,
        "task_id": task_id,
        "first": first,
        "size": len(items),
        "texts": engine.pack([item.text for item in items]),
        "keys": engine.pack([[item.line, item.custom_id] for item in items]),
        "errors": errors,
    }
    # One that failed meanwhile, for want of its model, takes no more.
    alive = update(Task).where(Task.id == task_id, Task.status == "uploading", Task.deleted_at.is_(None))
    alive = alive.values(touched_at=func.now(), total=first + len(items))
    if db.session.execute(alive.returning(Task.id)).first() is None:
        raise UploadLostError
    db.session.execute(insert(Chunk).values(values).on_conflict_do_nothing(index_elements=[Chunk.id]))


@unit_of_work
def _close(task_id: UUID, total: int, fingerprint: str) -> None:
    if not total:
        raise InvalidError("There are no texts in it.")
    # Once: this may run again after a lost answer, when workers have ended the task already.
    closed = update(Task).where(Task.id == task_id, Task.status == "uploading", Task.deleted_at.is_(None))
    status = text("CASE WHEN started_at IS NULL THEN 'queued' ELSE 'running' END")
    db.session.execute(closed.values(status=status, total=total, fingerprint=fingerprint))
    kept = select(Task.id).where(Task.id == task_id, Task.deleted_at.is_(None))
    if db.session.scalar(kept) is None:
        raise UploadLostError


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


def rows_found() -> dict[tuple[str, ...], float] | None:
    """Rows of the tasks that have ended, by sentiment and model version; None, at once, while PostgreSQL is away."""
    sums = [func.sum(Task.counts[place + 1]) for place in range(len(LABELS))]  # arrays begin at 1 there
    found = select(Task.model_version, *sums).where(Task.status.in_(SETTLED)).group_by(Task.model_version)
    try:
        rows = db.session.execute(found).all()
    except SQLAlchemyError:
        db.session.rollback()
        return None
    return {
        (label, version): float(sum_) for version, *sums_ in rows for label, sum_ in zip(LABELS, sums_, strict=True)
    }


def longest_wait() -> dict[tuple[str, ...], float] | None:
    """Seconds by queue, 0 where nothing waits; None, at once, while PostgreSQL is away.

    Jobs would not tell: a task queues few chunks at a time, however many wait.
    """
    of_queue = {
        QUEUE: select(func.min(Chunk.queued_at)).where(Chunk.state == "queued"),
        WEBHOOKS: select(func.min(Delivery.next_at)).where(Delivery.state == "pending"),
    }
    waits = [func.extract("epoch", func.now() - oldest.scalar_subquery()) for oldest in of_queue.values()]
    try:
        found = db.session.execute(select(*waits)).one()
    except SQLAlchemyError:
        db.session.rollback()
        return None
    return {(name,): max(0.0, float(seconds or 0)) for name, seconds in zip(of_queue, found, strict=True)}


def describe(task: Task) -> dict[str, Any]:
    """A task as its owner sees it."""
    at = progress(task)
    seconds = _seconds(task)
    done = at.completed + at.failed
    rate = done / seconds if seconds and done else None
    is_running = task.status in OPEN
    return {
        "task_id": task.id,
        "status": task.status,
        "request_counts": {"total": task.total, "completed": at.completed, "failed": at.failed},
        "percent": round(100 * done / task.total, 2) if task.total else 0.0,
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


def results(task: Task, after: int = -1) -> Iterator[Result]:
    """A task's results in the order of its input, beginning after an index; chunk by chunk in memory.

    While it runs, they end before the first chunk that is not done: whoever goes on from the last index misses none.

    Raises:
        ExpiredError: there are none any more.
    """
    if task.status == "expired":
        raise ExpiredError
    return _results(task, after)


def _results(task: Task, after: int) -> Iterator[Result]:
    is_final = task.status not in UNFINISHED
    for chunk_id, first, size, state in _outline(task.id, after):
        if state == "done":
            yield from (one for one in _read(chunk_id, first, size) if one.place > after)
        elif not is_final:
            return


@unit_of_work
def _outline(task_id: UUID, after: int) -> list[tuple[UUID, int, int, str]]:
    chosen = select(Chunk.id, Chunk.first, Chunk.size, Chunk.state)
    rows = db.session.execute(
        chosen.where(Chunk.task_id == task_id, Chunk.first + Chunk.size > after + 1).order_by(Chunk.first)
    )
    return [(row.id, row.first, row.size, row.state) for row in rows]


@unit_of_work
def _read(chunk_id: UUID, first: int, size: int) -> list[Result]:
    columns = Chunk.keys, Chunk.results, Chunk.errors
    row = db.session.execute(select(*columns).where(Chunk.id == chunk_id)).one_or_none()
    if row is None:  # deleted while it was read: what was sent must not look whole
        raise NotFoundError
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
    return db.session.execute(stopped.values(status="cancelling").returning(Task.id)).first() is not None


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
    if not _reopen(task_id, task.user_id):
        raise TaskStateError("Nothing failed in this task that a retry could mend.")
    engine.dispatch(task_id)
    return get(user_id, task_id)


@unit_of_work
def _reopen(task_id: UUID, user_id: UUID) -> bool:
    _one_at_a_time(user_id)
    _refuse_too_many(user_id, but=task_id)
    mendable = text("state <> 'done' OR jsonb_path_exists(errors, '$.*.retryable')")
    ended = update(Task).where(
        Task.id == task_id,
        Task.status.in_(("completed", "failed", "cancelled")),
        Task.deleted_at.is_(None),
        select(Chunk.id).where(Chunk.task_id == task_id, mendable).exists(),
    )
    fresh = dict.fromkeys(("error", "started_at", "finished_at", "expires_at"))
    reopened = ended.values(status="queued", **fresh).returning(Task.id)
    if db.session.execute(reopened).first() is None:
        return _status(task_id) in UNFINISHED  # done by a first run whose answer was lost
    again = update(Chunk).where(Chunk.task_id == task_id, mendable)
    values = {"state": "waiting", "attempts": 0, "token": None}
    db.session.execute(again.values(values), execution_options={"synchronize_session": False})
    return True


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
