"""Quotas: how many unfinished tasks a user may have, and how many rows in them."""

from uuid import UUID

from sqlalchemy import func, select

from sentiment_app.batch.intake import TooLargeError
from sentiment_app.batch.models import UNFINISHED, Task
from sentiment_app.errors import RateLimitedError
from sentiment_app.extensions import db, settings, unit_of_work


class TooManyTasksError(RateLimitedError):
    """The caller has as many unfinished tasks, or rows in them, as the quota allows."""

    kind = "too-many-tasks"
    headers = {"Retry-After": "30"}  # noqa: RUF012  # as its parents have it


@unit_of_work
def check(user_id: UUID) -> None:
    """Refuse a caller whose quota is used up, before the upload is read.

    Raises:
        TooManyTasksError
    """
    tasks, rows = _unfinished(user_id)
    _refuse_task(tasks + 1)
    _refuse_rows(rows + 1)


def reserve_task(user_id: UUID, task_id: UUID, rows: int) -> None:
    """Check the quotas for a task that is opened, or opened again, with so many rows. Within a unit of work.

    Until the unit of work ends, other units of work of the same user wait here: what they count includes this task.

    Raises:
        TooManyTasksError
    """
    _lock(user_id)
    tasks, other_rows = _unfinished(user_id, except_task=task_id)
    _refuse_task(tasks + 1)
    _refuse_rows(other_rows + max(1, rows))


def reserve_rows(user_id: UUID, task_id: UUID, rows: int) -> None:
    """Check the quota of rows for a task that has grown to so many. Within a unit of work, as above.

    Raises:
        TooManyTasksError
        TooLargeError: the task alone has more rows than the quota; waiting would not help.
    """
    if rows > (limit := settings().max_queued_rows):
        raise TooLargeError(f"A task may have at most {limit:,} rows.")
    _lock(user_id)
    _, other_rows = _unfinished(user_id, except_task=task_id)
    _refuse_rows(other_rows + rows)


def _unfinished(user_id: UUID, except_task: UUID | None = None) -> tuple[int, int]:
    """The user's unfinished tasks, and the rows in them."""
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
    if tasks > limit:
        raise TooManyTasksError(f"You have {tasks - 1} unfinished tasks; the limit is {limit}. Wait until a task ends.")


def _refuse_rows(rows: int) -> None:
    limit = settings().max_queued_rows
    if rows > limit:
        raise TooManyTasksError(
            f"Your unfinished tasks would have more than {limit:,} rows together, which is the limit. "
            "Wait until a task ends."
        )


def _lock(user_id: UUID) -> None:
    db.session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(str(user_id), 0))))
