"""Quotas: the limits on a user's unfinished tasks, and on the rows in them. For rows in a day or month, see usage."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, union_all

from sentiment_app.errors import RateLimitedError, TooLargeError
from sentiment_app.infrastructure import queue
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import db, unit_of_work
from sentiment_app.tasks.models import UNFINISHED, Chunk, Task
from sentiment_app.usage import quotas as row_quotas
from sentiment_app.usage.counters import Sql

# While Redis does not answer, the limit on a user's unfinished tasks is multiplied by this. The quota of rows stays.
WAITING_FACTOR = 10


class TooManyTasksError(RateLimitedError):
    """The caller's quota of unfinished tasks, or of rows in them, is used up."""

    kind = "too-many-tasks"
    retry_after_seconds = 30


def check(user_id: UUID, key_id: UUID | None) -> None:
    """Check all quotas before an upload is read.

    Raises:
        TooManyTasksError, QuotaExceededError
    """
    row_quotas.prepare(user_id, key_id)
    _check(user_id, key_id)


@unit_of_work
def _check(user_id: UUID, key_id: UUID | None) -> None:
    tasks, rows = _unfinished(user_id)
    _refuse_task(tasks + 1)
    _refuse_rows(rows + 1)
    row_quotas.check(user_id, key_id, 1)


def reserve_task(user_id: UUID, task_id: UUID, rows: int) -> None:
    """Check the quotas for a task that is opened or reopened with `rows` rows, within the caller's unit of work.

    Other units of work for the same user wait here until this one ends, so that they count this task.

    Raises:
        TooManyTasksError
    """
    _lock(user_id)
    tasks, other_rows = _unfinished(user_id, except_task=task_id)
    _refuse_task(tasks + 1)
    _refuse_rows(other_rows + max(1, rows))


def reserve_rows(user_id: UUID, task_id: UUID, rows: int) -> None:
    """Check the quota of rows for a task that has grown to `rows` rows, within the caller's unit of work.

    Raises:
        TooManyTasksError
        TooLargeError: the task alone exceeds the quota, so waiting would not help.
    """
    if rows > (limit := settings().max_queued_rows):
        raise TooLargeError(f"The task has too many rows. The limit is {limit:,} rows. Split it.")
    _lock(user_id)
    _, other_rows = _unfinished(user_id, except_task=task_id)
    _refuse_rows(other_rows + rows)


def count_pending(sql: Sql, subjects: Collection[UUID]) -> dict[UUID, int]:
    """The rows of unfinished tasks that wait to be scored, by account and by API key."""
    is_unfinished = Task.status.in_(UNFINISHED) & Task.deleted_at.is_(None)
    rows = (Chunk.size - Chunk.completed).label("rows")
    # A chunk that runs when its task fails or is deleted may still be stored. There are few such chunks, and an index
    # has them: from the tasks, PostgreSQL would search all chunks of all tasks that have ended.
    running = select(Chunk.task_id, rows).where(Chunk.state.in_(("queued", "running")), Chunk.state == "running")
    late = running.cte("running")
    waiting: list[Select[Any]] = []
    for subject in (Task.user_id, Task.key_id):
        chosen = select(subject.label("subject"))
        of_tasks = chosen.add_columns(rows).join(Chunk, Task.id == Chunk.task_id)
        waiting += [
            of_tasks.where(subject.in_(subjects), is_unfinished, Chunk.state != "done"),
            chosen.add_columns(late.c.rows)
            .join(late, Task.id == late.c.task_id)
            .where(subject.in_(subjects), ~is_unfinished),
        ]
    found = union_all(*waiting).subquery()
    counted = select(found.c.subject, func.sum(found.c.rows)).group_by(found.c.subject)
    return {id_: int(rows) for id_, rows in sql.execute(counted)}


def _unfinished(user_id: UUID, except_task: UUID | None = None) -> tuple[int, int]:
    """The number of the user's unfinished tasks, and of the rows in them."""
    counted = select(func.count(), func.coalesce(func.sum(Task.total), 0)).where(
        Task.user_id == user_id,
        Task.status.in_(UNFINISHED),
        Task.deleted_at.is_(None),
        Task.id.is_distinct_from(except_task),
    )
    tasks, rows = db.session.execute(counted).one()
    return int(tasks), int(rows)


def _refuse_task(tasks: int) -> None:
    limit = settings().max_tasks
    # While Redis does not answer, no task can end. The limit is higher meanwhile, so that callers can store their data.
    if tasks > limit and not queue.is_available():
        limit *= WAITING_FACTOR
    if tasks > limit:
        raise TooManyTasksError(
            f"You have {tasks - 1} unfinished tasks, and the limit is {limit}. Wait until a task ends."
        )


def _refuse_rows(rows: int) -> None:
    limit = settings().max_queued_rows
    if rows > limit:
        raise TooManyTasksError(
            f"Your unfinished tasks would have more than {limit:,} rows together. Wait until a task ends."
        )


def _lock(user_id: UUID) -> None:
    db.session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(str(user_id), 0))))
