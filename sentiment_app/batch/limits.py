"""How much one user may have waiting."""

from uuid import UUID

from sqlalchemy import func, select, text

from sentiment_app.batch.models import UNFINISHED, Task
from sentiment_app.errors import RateLimitedError
from sentiment_app.extensions import db, settings, unit_of_work


class TooManyTasksError(RateLimitedError):
    """The caller has as many unfinished tasks, or queued rows, as one may have."""

    kind = "too-many-tasks"
    headers = {"Retry-After": "30"}  # noqa: RUF012  # as its parents have it


@unit_of_work
def check(user_id: UUID) -> None:
    """Refuse a caller who has enough to wait for, before the upload is read.

    Raises:
        TooManyTasksError
    """
    refuse_too_many(user_id)


def refuse_too_many(user_id: UUID, but: UUID | None = None) -> None:
    """The same inside a unit of work; `but` is the task's own row, which is there when that runs again.

    Raises:
        TooManyTasksError
    """
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


def one_at_a_time(user_id: UUID) -> None:
    """Of two units of work of one user that come together, the second sees what the first one did."""
    lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:user, 0))")
    db.session.execute(lock, {"user": str(user_id)})
