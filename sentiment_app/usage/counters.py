"""Counters of quotas: the rows of the usage records of an account, or of an API key, in the current day or month.

A transaction that stores scores also raises the counters that exist. All transactions lock counters in the same order.
A counter is created when a quota first needs it. A transaction that stores scores at that moment may not see it: the
reconciler corrects new counters within seconds, and all counters about every minute.
"""

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Date,
    cast,
    column,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, scoped_session

from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.usage.models import QuotaCounter, UsageRecord
from sentiment_app.users.models import User

CORRECTED_AFTER = dt.timedelta(minutes=1)
CORRECTED_TOGETHER, MAX_CORRECTIONS = 50, 200
KEPT_DAYS = 62

Sql = Connection | Session | scoped_session[Any]
"""What executes statements in the caller's transaction."""
Counter = tuple[UUID, str]
"""The account or the API key, and the period."""

COUNTER = QuotaCounter.subject_id, QuotaCounter.period, QuotaCounter.starts_on


def create(sql: Sql, owners: Mapping[Counter, UUID]) -> None:
    """Create these counters, which belong to these users, unless they exist.

    This is a transaction of its own: a transaction that creates some counters and then locks others could deadlock.
    """
    wanted = values(
        column("subject_id", QuotaCounter.subject_id.type),
        column("period", QuotaCounter.period.type),
        column("user_id", QuotaCounter.user_id.type),
        name="wanted",
    ).data([(*counter, user_id) for counter, user_id in owners.items()])
    found = select(QuotaCounter.subject_id).where(
        QuotaCounter.subject_id == wanted.c.subject_id, QuotaCounter.period == wanted.c.period, _is_current()
    )
    used = count_usage(wanted.c.subject_id, wanted.c.period, wanted.c.user_id)
    # Corrected soon, because a transaction that stores scores at this moment does not see the counter.
    due = func.now() - CORRECTED_AFTER
    missing = (
        select(wanted.c.subject_id, wanted.c.period, _begin_of(wanted.c.period), User.id, used.scalar_subquery(), due)
        .join(User, User.id == wanted.c.user_id)  # a deleted account gets no counter
        .where(~found.exists())
        .order_by(wanted.c.subject_id, wanted.c.period)
    )
    names = ["subject_id", "period", "starts_on", "user_id", "rows", "corrected_at"]
    sql.execute(insert(QuotaCounter).from_select(names, missing).on_conflict_do_nothing())


def lock(sql: Sql, subjects: Collection[Any], owners: Mapping[Counter, UUID] | None = None) -> dict[Counter, int]:
    """Lock all current counters of accounts and keys, in the same order everywhere, and return their rows.

    Also counters of quotas that are not known here: the statement that raises the counters would lock them later, in
    another order. A counter of `owners` that does not exist, because its period has begun or its quota was set a moment
    ago, is counted.
    """
    counters = select(QuotaCounter.subject_id, QuotaCounter.period, QuotaCounter.rows)
    counters = counters.where(QuotaCounter.subject_id.in_(subjects), _is_current()).order_by(*COUNTER)
    found = {(row.subject_id, row.period): row.rows for row in sql.execute(counters.with_for_update())}
    return _count_missing(sql, found, owners or {})


def _count_missing(sql: Sql, found: dict[Counter, int], owners: Mapping[Counter, UUID]) -> dict[Counter, int]:
    for counter, user_id in owners.items():
        if counter not in found:
            found[counter] = int(sql.scalar(count_usage(*counter, user_id)) or 0)
    return found


def increase(user_id: UUID, key_id: UUID | None, rows: int) -> None:
    """Count rows that are stored, within the caller's unit of work. Counters that do not exist are not created."""
    subjects = {user_id, key_id} - {None}
    if lock(db.session, subjects):
        raised = update(QuotaCounter).where(QuotaCounter.subject_id.in_(subjects), _is_current())
        db.session.execute(raised.values(rows=QuotaCounter.rows + rows), execution_options=UNSYNCHRONIZED)


def correct() -> None:
    """Set counters that were not corrected for a minute to the sum of their usage records."""
    for _ in range(MAX_CORRECTIONS):
        if not _correct_batch():
            return


@unit_of_work
def _correct_batch() -> int:
    due = QuotaCounter.corrected_at <= func.now() - CORRECTED_AFTER
    chosen = select(*COUNTER).where(due, _is_current()).order_by(QuotaCounter.corrected_at).limit(CORRECTED_TOGETHER)
    locked = db.session.execute(chosen.with_for_update(skip_locked=True)).all()
    # A new statement sees what was committed before the counters were locked.
    used = count_usage(QuotaCounter.subject_id, QuotaCounter.period, QuotaCounter.user_id)
    corrected = update(QuotaCounter).where(tuple_(*COUNTER).in_([tuple(counter) for counter in locked]))
    new = {"rows": used.scalar_subquery(), "corrected_at": func.now()}
    db.session.execute(corrected.values(new), execution_options=UNSYNCHRONIZED)
    return len(locked)


@unit_of_work
def delete_all_of(user_id: UUID) -> None:
    """Delete the counters of an account, before the account itself is deleted."""
    db.session.execute(delete(QuotaCounter).where(QuotaCounter.user_id == user_id), execution_options=UNSYNCHRONIZED)


@unit_of_work
def delete_expired() -> int:
    """Delete the counters of past periods; returns their number."""
    past = delete(QuotaCounter).where(QuotaCounter.starts_on < func.current_date() - KEPT_DAYS)
    return len(db.session.scalars(past.returning(QuotaCounter.rows), execution_options=UNSYNCHRONIZED).all())


def count_usage(subject_id: Any, period: Any, user_id: Any) -> Any:
    """The rows of an account or a key in the current period."""
    is_account = cast(subject_id, UsageRecord.user_id.type) == UsageRecord.user_id
    return select(func.coalesce(func.sum(UsageRecord.rows), 0)).where(
        UsageRecord.user_id == user_id,
        or_(is_account, UsageRecord.key_id == subject_id),
        UsageRecord.day >= _begin_of(period),
    )


def _begin_of(period: Any) -> ColumnElement[dt.date]:
    return cast(func.date_trunc(period, func.timezone("UTC", func.now())), Date)


def _is_current() -> ColumnElement[bool]:
    return QuotaCounter.starts_on == _begin_of(QuotaCounter.period)
