"""Existing tasks: progress, results, cancel, retry and delete."""

import math
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, cast, func, select, update
from sqlalchemy.dialects.postgresql import JSONPATH

from sentiment_app.errors import ConflictError, GoneError, InvalidError, NotFoundError
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.ml.runtime import LABELS, Scores
from sentiment_app.sentiment import warnings
from sentiment_app.sentiment.warnings import LOW_COVERAGE, OTHER_LANGUAGE
from sentiment_app.tasks import chunks, lifecycle, quotas, retention, totals
from sentiment_app.tasks.kept_columns import Column
from sentiment_app.tasks.models import OPEN, SETTLED, UNFINISHED, Chunk, Task
from sentiment_app.tasks.totals import Totals
from sentiment_app.usage import quotas as row_quotas
from sentiment_app.webhooks import outbox

# A completed task of at most this many rows is returned with its results.
INLINE_ROWS = 1_000


COVERAGE_DIGITS = 6  # of a float32


class ExpiredError(GoneError):
    """The results were deleted after the retention time."""

    kind = "expired"
    detail = "The results of this task were deleted because their retention time is over."


class TaskStateError(ConflictError):
    """The status of the task does not allow this."""

    kind = "task-state"


class TaskNotCompletedError(ConflictError):
    """The results are not complete, because the task has not completed."""

    kind = "task-not-completed"

    def __init__(self, status: str, done: int, total: int) -> None:
        wait = "Wait until it has completed" if status in UNFINISHED else "Retry the task"
        super().__init__(
            f"The task is {status}, and {done:,} of {total:,} rows are done. {wait}, or send ?partial=true to get the "
            "results of these rows."
        )


class ResultsChangedError(ConflictError):
    """The task was retried or deleted while its results were read."""

    kind = "results-changed"
    detail = "The task was retried or deleted while its results were read. Read them again."


class ColumnsNotKeptError(InvalidError):
    """The results cannot include the columns of the file, because they were not kept."""

    def __init__(self) -> None:
        detail = (
            "The columns of this task were not kept. Upload the file with ?keep=columns to get them with the results."
        )
        super().__init__(detail, field="include")


class Included(NamedTuple):
    """What the results of a task include: the texts, and the columns that were kept (None if they are not included)."""

    text: bool = False
    columns: list[Column] | None = None


class Result(NamedTuple):
    """The outcome of a row: its scores, or the reason why it has no scores."""

    row_index: int
    line: int
    custom_id: str | None
    scores: Scores | None
    coverage: float | None
    error: str | None
    text: str | None = None
    """The text that was scored, if it was requested."""
    columns: dict[str, Any] | None = None
    """The columns that were kept, if they were requested."""
    language: str | None = None
    """The code of the language of the text, if it is another language than the model's."""

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """Reasons to doubt the scores."""
        return warnings.find(self.coverage, self.language) if self.scores else []


@unit_of_work
def get(user_id: UUID | None, task_id: UUID) -> Task:
    """A task of a user; without a user, of any user.

    Raises:
        NotFoundError: it does not exist, or belongs to another user.
    """
    found = db.session.get(Task, task_id, populate_existing=True)
    if found is None or found.deleted_at or found.status == "uploading" or user_id not in (None, found.user_id):
        raise NotFoundError
    return found


@unit_of_work
def page(user_id: UUID | None, limit: int, before: UUID | None, *, status: str | None = None) -> Sequence[Task]:
    """A page of tasks, newest first, beginning after a cursor; without a user, of all users."""
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


def progress(task: Task) -> Totals:
    """The totals of the rows that are done."""
    if task.status in SETTLED:
        return Totals(
            task.completed,
            task.failed,
            task.counts,
            task.confidence_sum,
            task.histogram,
            task.warned,
            task.other_language,
        )
    return _progress(task.id)


@unit_of_work
def _progress(task_id: UUID) -> Totals:
    return totals.of_task(task_id)


def describe(task: Task) -> dict[str, Any]:
    """The fields of TaskSchema, without results."""
    done_rows = progress(task)
    seconds = _seconds(task)
    done = done_rows.completed + done_rows.failed
    done_in_run = done - task.rows_before_run  # `seconds` does not include earlier runs
    rate = done_in_run / seconds if seconds and seconds > 0 and done_in_run > 0 else None
    is_running = task.status in OPEN
    return {
        "task_id": task.id,
        "status": task.status,
        "request_counts": {"total": task.total, "completed": done_rows.completed, "failed": done_rows.failed},
        "percent": math.floor(10_000 * done / task.total) / 100 if task.total else 0.0,  # 100 only if all rows are done
        "rows_per_second": round(rate, 1) if rate else None,
        "seconds_left": round((task.total - done) / rate, 1) if rate and is_running else None,
        "model_version": task.model_version,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "expires_at": task.expires_at,
        "error": task.error,
        "format": task.format,
        "summary": {
            "counts": dict(zip(LABELS, done_rows.counts, strict=True)),
            "mean_confidence": done_rows.confidence_sum / done_rows.completed if done_rows.completed else None,
            "histogram": done_rows.histogram,
            "warnings": {LOW_COVERAGE: done_rows.warned, OTHER_LANGUAGE: done_rows.other_language},
        },
    }


def _seconds(task: Task) -> float | None:
    if task.started_at is None:
        return None
    return ((task.finished_at or datetime.now(UTC)) - task.started_at).total_seconds()


def is_small(task: Task) -> bool:
    """Whether a task is returned with its results."""
    return task.status == "completed" and task.total <= INLINE_ROWS


Choice = Literal["negative", "neutral", "positive", "failed", "warned"]
"""Selects results: a label, rows with an error, or rows with a warning."""


class Results(NamedTuple):
    """Results in the order of the input, read chunk by chunk; and the state of the task when they were opened."""

    status: str
    finished_at: datetime | None
    rows: Iterator[Result]
    included: Included


def results(
    user_id: UUID | None,
    task_id: UUID,
    after: int = -1,
    *,
    partial: bool = False,
    with_gaps: bool = False,
    include: Collection[Literal["text", "columns"]] = (),
    choice: Choice | None = None,
) -> Results:
    """The results of a task, beginning after an index. One statement decides which chunks they come from.

    With `choice`, only some of the results; chunks without such rows are not read.

    With `partial`, the task need not be completed. While it is unfinished, the results end before the first chunk that
    is not done, so that a caller who continues after the last index misses no row. Chunks of a failed or cancelled task
    that are not done are left out, and `with_gaps` leaves them out of an unfinished task, too.

    The iterator raises ResultsChangedError if a chunk was reopened by a retry, or deleted, since the results were
    opened: what was read before is not complete.

    Raises:
        NotFoundError: it does not exist, or belongs to another user.
        ExpiredError: the results have been deleted.
        TaskNotCompletedError: the task is not completed, and the caller did not ask for partial results.
        ColumnsNotKeptError: the results cannot include columns.
    """
    outline = _outline(user_id, task_id, after, choice)
    status = outline[0].status
    if status == "expired":
        raise ExpiredError
    if status != "completed" and not partial:
        task = get(user_id, task_id)
        done = progress(task)
        raise TaskNotCompletedError(task.status, done.completed + done.failed, task.total)
    ends_at_gap = status in UNFINISHED and not with_gaps
    included = Included("text" in include, _kept_columns(user_id, task_id) if "columns" in include else None)
    rows = _results(outline, after, included, ends_at_gap=ends_at_gap)
    if choice:
        rows = (result for result in rows if _is_chosen(result, choice))
    return Results(status, outline[0].finished_at, rows, included)


def _kept_columns(user_id: UUID | None, task_id: UUID) -> list[Column]:
    format_ = get(user_id, task_id).format or {}
    if "kept_columns" not in format_:
        raise ColumnsNotKeptError
    return [Column(**column) for column in format_["kept_columns"]]


def _results(outline: Sequence[Any], after: int, included: Included, *, ends_at_gap: bool) -> Iterator[Result]:
    for chunk in outline:
        if chunk.state == "done":
            rows = _read(chunk.id, chunk.first, chunk.size, chunk.token, included)
            yield from (result for result in rows if result.row_index > after)
        elif ends_at_gap:
            return


def _is_chosen(result: Result, choice: Choice) -> bool:
    if choice == "failed":
        return result.scores is None
    if choice == "warned":
        return bool(result.warnings)
    return result.scores is not None and result.scores.label == choice


@unit_of_work
def _outline(user_id: UUID | None, task_id: UUID, after: int, choice: Choice | None = None) -> Sequence[Any]:
    """The chunks of a task, each with the status of the task. A task without chunks has a row without a chunk."""
    is_wanted = (Chunk.task_id == Task.id) & (Chunk.first + Chunk.size > after + 1)
    if choice in LABELS:
        is_wanted &= Chunk.counts[LABELS.index(choice) + 1] > 0
    elif choice:
        is_wanted &= (Chunk.failed if choice == "failed" else Chunk.warned + Chunk.other_language) > 0
    statement = (
        select(
            *(Task.user_id, Task.status, Task.finished_at),
            *(Chunk.id, Chunk.first, Chunk.size, Chunk.state, Chunk.token),
        )
        .outerjoin(Chunk, is_wanted)
        .where(Task.id == task_id, Task.deleted_at.is_(None), Task.status != "uploading")
        .order_by(Chunk.first)
    )
    outline = db.session.execute(statement).all()
    if not outline or user_id not in (None, outline[0].user_id):
        raise NotFoundError
    return outline


@unit_of_work
def _read(chunk_id: UUID, first: int, size: int, token: UUID | None, included: Included) -> list[Result]:
    columns = [Chunk.state, Chunk.token, Chunk.keys, Chunk.results, Chunk.coverage, Chunk.languages, Chunk.errors]
    columns += [Chunk.texts] if included.text else []
    columns += [Chunk.columns] if included.columns else []
    row = db.session.execute(select(*columns).where(Chunk.id == chunk_id)).one_or_none()
    if row is None or row.state != "done" or row.token != token:  # another token means that another run stored it
        raise ResultsChangedError
    found = chunks.read(row.results, row.coverage, row.languages, size)
    scores, coverage = found.scores.tolist(), found.coverage.round(COVERAGE_DIGITS).tolist()
    texts = chunks.unpack(row.texts) if included.text else [None] * size
    kept = chunks.unpack(row.columns) if included.columns and row.columns else [None] * size
    return [
        Result(
            first + index,
            line,
            custom_id,
            None if str(index) in row.errors else Scores(*scores[index]),
            None if math.isnan(coverage[index]) else coverage[index],
            row.errors[str(index)]["detail"] if str(index) in row.errors else None,
            texts[index],
            kept[index],
            found.languages.get(index),
        )
        for index, (line, custom_id) in enumerate(chunks.unpack(row.keys))
    ]


def unscored(task_id: UUID) -> Iterator[Result]:
    """The rows of a task that are not scored yet, or never were, with their texts and columns."""
    for chunk_id in _find_unscored(task_id):
        yield from _read_unscored(chunk_id)


@unit_of_work
def _find_unscored(task_id: UUID) -> Sequence[UUID]:
    found = select(Chunk.id).where(Chunk.task_id == task_id, Chunk.state != "done")
    return db.session.scalars(found.order_by(Chunk.first)).all()


@unit_of_work
def _read_unscored(chunk_id: UUID) -> list[Result]:
    columns = Chunk.first, Chunk.size, Chunk.keys, Chunk.texts, Chunk.columns
    row = db.session.execute(select(*columns).where(Chunk.id == chunk_id)).one_or_none()
    if row is None:
        return []
    texts = chunks.unpack(row.texts)
    kept = chunks.unpack(row.columns) if row.columns else [None] * row.size
    return [
        Result(row.first + index, line, custom_id, None, None, None, texts[index], kept[index])
        for index, (line, custom_id) in enumerate(chunks.unpack(row.keys))
    ]


def cancel(user_id: UUID | None, task_id: UUID) -> Task:
    """Stop a task. Finished results stay. A second cancel changes nothing.

    Raises:
        NotFoundError: it does not exist, or belongs to another user.
        TaskStateError: it has ended.
    """
    task = get(user_id, task_id)
    if task.status not in ("cancelling", "cancelled"):
        if not _cancel(task_id):
            raise TaskStateError(
                f"Only an unfinished task can be cancelled. This task is {get(user_id, task_id).status}."
            )
        lifecycle.finish(task_id)
    return get(user_id, task_id)


@unit_of_work
def _cancel(task_id: UUID) -> bool:
    stopped = update(Task).where(Task.id == task_id, Task.status.in_((*OPEN, "cancelling")))
    if db.session.execute(stopped.values(status="cancelling").returning(Task.id)).first():
        return True
    return _status(task_id) == "cancelled"  # by another request, or by an earlier attempt whose answer was lost


def delete(user_id: UUID | None, task_id: UUID) -> None:
    """Delete a task with its texts, results and deliveries. It is invisible at once, and erased within seconds.

    Raises:
        NotFoundError: it does not exist, or belongs to another user.
    """
    get(user_id, task_id)
    _mark_deleted(task_id)
    retention.erase(task_id)


@unit_of_work
def mark_all_deleted(user_id: UUID) -> None:
    """Make all tasks of a user invisible at once. Workers stop scoring them, and their webhooks are not sent."""
    marked = update(Task).where(Task.user_id == user_id, Task.deleted_at.is_(None))
    db.session.execute(marked.values(deleted_at=func.now(), idempotency_key=None), execution_options=UNSYNCHRONIZED)
    outbox.withdraw(select(Task.id).where(Task.user_id == user_id))


def erase_all(user_id: UUID, deadline: float) -> bool:
    """Delete all tasks of a user, for good. Returns whether that is done before a moment of the monotonic clock."""
    mark_all_deleted(user_id)
    return all(retention.erase(task_id, deadline) for task_id in retention.find(Task.user_id == user_id))


@unit_of_work
def _mark_deleted(task_id: UUID) -> None:
    deleted = update(Task).where(Task.id == task_id)
    db.session.execute(deleted.values(deleted_at=func.now(), idempotency_key=None))
    outbox.withdraw(select(Task.id).where(Task.id == task_id))


def retry(user_id: UUID | None, task_id: UUID) -> Task:
    """Score the failed and unscored rows of a task again. Rows without an acceptable text stay failed.

    Raises:
        NotFoundError: it does not exist, or belongs to another user.
        TaskStateError: it has not ended, or it has no row that a retry could score.
        TooManyTasksError, QuotaExceededError: a quota of the owner is used up.
    """
    task = get(user_id, task_id)
    if task.status not in ("completed", "failed", "cancelled"):
        raise TaskStateError(f"Only a task that has ended can be retried. This task is {task.status}.")
    row_quotas.prepare(task.user_id, task.key_id)
    if not _reopen(task):
        raise TaskStateError("The task has no failed rows that a retry could score.")
    lifecycle.dispatch(task_id)
    return get(user_id, task_id)


@unit_of_work
def _reopen(task: Task) -> bool:
    quotas.reserve_task(task.user_id, task.id, task.total)
    is_retryable = Chunk.task_id == task.id, _is_retryable()
    ended = update(Task).where(
        Task.id == task.id,
        Task.status.in_(("completed", "failed", "cancelled")),
        Task.deleted_at.is_(None),
        select(Chunk.id).where(*is_retryable).exists(),
    )
    fresh = dict.fromkeys(("error", "started_at", "finished_at", "expires_at"))
    reopened = ended.values(status="queued", **fresh).returning(Task.id)
    if db.session.execute(reopened).first() is None:
        return _status(task.id) in UNFINISHED  # an earlier attempt reopened it, but its answer was lost
    again = update(Chunk).where(*is_retryable)
    values = {"state": "waiting", "attempts": 0, "token": None}
    db.session.execute(again.values(values), execution_options=UNSYNCHRONIZED)
    # Rows of a reopened chunk that have scores keep them.
    kept = func.sum(Chunk.completed) + func.sum(Chunk.failed).filter(Chunk.state == "done")
    before = select(func.coalesce(kept, func.sum(Chunk.completed), 0)).where(Chunk.task_id == task.id)
    db.session.execute(update(Task).where(Task.id == task.id).values(rows_before_run=before.scalar_subquery()))
    row_quotas.check(task.user_id, task.key_id)
    return True


def _is_retryable() -> ColumnElement[bool]:
    """Whether a chunk has rows that were not scored, or whose error may not occur again."""
    return (Chunk.state != "done") | func.jsonb_path_exists(Chunk.errors, cast("$.*.retryable", JSONPATH))


def _status(task_id: UUID) -> str | None:
    return db.session.scalar(select(Task.status).where(Task.id == task_id))


def wait(user_id: UUID, task_id: UUID, seconds: float) -> Task:
    """Wait until a task has ended, but at most `seconds`, and return it."""
    deadline = time.monotonic() + seconds
    pause = 0.02
    while (task := get(user_id, task_id)).status in UNFINISHED and time.monotonic() + pause < deadline:
        db.session.remove()  # hold no database connection while sleeping
        time.sleep(pause)
        pause = min(0.5, pause * 1.5)
    return task
