"""Quotas: limits on the rows that an account, or an API key, may score in a day or a month (UTC).

The limit of an account is its own, or else the setting's. A key can have limits in addition. 0 stands for no limit.

A counter in PostgreSQL has the rows of the period's usage records. A transaction that stores scores also raises the
counters that exist. If there is a quota, it first locks the counters, in a fixed order, and a row is refused if it has
no room beside the rows of waiting tasks. So requests at the same time, in different processes and hosts, cannot exceed
a quota together. A counter is created when a quota first needs it. A transaction that stores scores at that moment may
not see it: the reconciler corrects new counters within seconds, and all counters about every minute.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Date, cast, column, delete, func, or_, select, tuple_, update, values
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, scoped_session

from sentiment_app.errors import RateLimitedError, TooLargeError
from sentiment_app.infrastructure.app_state import AppKey, settings
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.infrastructure.refreshed import Refreshed
from sentiment_app.usage.models import QuotaCounter, UsageRecord
from sentiment_app.users.models import ApiKey, User
from sentiment_app.web.guard import Principal

PERIODS = ("day", "month")
# How soon every process knows the own quota of an account.
REFRESH_SECONDS = 10.0
CORRECTED_AFTER = dt.timedelta(minutes=1)
CORRECTED_TOGETHER, MAX_CORRECTIONS = 50, 200
KEPT_DAYS = 62
MAX_ROWS = 10**12

Sql = Connection | Session | scoped_session[Any]
"""What executes statements in the caller's transaction."""
CountPending = Callable[[Sql, Collection[UUID]], Mapping[UUID, int]]
"""Counts the rows of tasks that wait to be scored, by account and by API key."""

COUNTER = QuotaCounter.subject_id, QuotaCounter.period, QuotaCounter.starts_on


class Quota(NamedTuple):
    """A limit on the rows of an account, or of an API key, in a period."""

    subject_id: UUID
    period: str
    limit: int

    @property
    def counter(self) -> tuple[UUID, str]:
        """Identifies the counter of the current period."""
        return self.subject_id, self.period


class QuotaUse(NamedTuple):
    """A quota, the rows that are used of it, and when it begins anew."""

    quota: Quota
    used: int
    resets_at: dt.datetime


class QuotaExceededError(RateLimitedError):
    """The rows would exceed a quota."""

    kind = "quota-exceeded"

    def __init__(self, quota: Quota, rows: int, user_id: UUID) -> None:
        resets_at = next_start(quota.period)
        super().__init__(
            f"{_whose(quota, user_id)} may score {quota.limit:,} rows in a {quota.period}. With this request, {rows:,} "
            f"would be used or wait in tasks. The quota begins anew on {resets_at:%Y-%m-%d} at 00:00 UTC."
        )
        self.retry_after_seconds = max(1, int((resets_at - dt.datetime.now(dt.UTC)).total_seconds()) + 1)  # type: ignore[misc]  # other errors have a fixed time


class TaskExceedsQuotaError(TooLargeError):
    """The task alone exceeds a quota, so waiting would not help."""

    def __init__(self, quota: Quota, user_id: UUID) -> None:
        super().__init__(
            f"The task has too many rows. {_whose(quota, user_id)} may score {quota.limit:,} rows in a {quota.period}."
        )


def _whose(quota: Quota, user_id: UUID) -> str:
    return "Your account" if quota.subject_id == user_id else "This API key"


class Quotas:
    """The quotas of one application.

    Args:
        count_pending: see CountPending.
    """

    def __init__(self, count_pending: CountPending) -> None:
        self.count_pending = count_pending
        self._own = Refreshed("quotas", _find_own, seconds=REFRESH_SECONDS)

    def of_request(self, principal: Principal) -> Sequence[Quota]:
        """The quotas of a request."""
        own = self._own.get().get(principal.user_id, (None, None))
        of_key = principal.key.rows if principal.key else (None, None)
        return _combine(principal.user_id, own, principal.key_id, of_key)


QUOTAS = AppKey[Quotas]("quotas")


def of_request(principal: Principal) -> Sequence[Quota]:
    """The quotas of a request. This costs no query."""
    return QUOTAS.get().of_request(principal)


def refuse_excess(sql: Sql, rows: Sequence[Mapping[str, Any]]) -> list[QuotaExceededError | Sequence[QuotaUse]]:
    """Which rows exceed a quota, in the caller's transaction, which stores the other rows and raises the counters.

    Each row has its `user_id`, `key_id` and `quotas`, whose counters were created before. Returns for each row the
    error, or its quotas after it is stored.
    """
    subjects = {UUID(id_) for row in rows for id_ in (row["user_id"], row["key_id"]) if id_}
    used = _lock_counters(sql, subjects)
    pending = QUOTAS.get().count_pending(sql, {quota.subject_id for row in rows for quota in row["quotas"]})
    outcomes: list[QuotaExceededError | Sequence[QuotaUse]] = []
    for row in rows:
        needed = {quota: used[quota.counter] + pending.get(quota.subject_id, 0) + 1 for quota in row["quotas"]}
        full = next((quota for quota in row["quotas"] if needed[quota] > quota.limit), None)
        if full:
            outcomes.append(QuotaExceededError(full, needed[full], UUID(row["user_id"])))
            continue
        for quota in row["quotas"]:
            used[quota.counter] += 1
        outcomes.append([QuotaUse(quota, used[quota.counter], next_start(quota.period)) for quota in row["quotas"]])
    return outcomes


def create_counters(sql: Sql, owners: Mapping[Quota, UUID]) -> None:
    """Create the counters of these quotas, which belong to these users, unless they exist.

    This is a transaction of its own: a transaction that creates some counters and then locks others could deadlock.
    """
    wanted = values(
        column("subject_id", QuotaCounter.subject_id.type),
        column("period", QuotaCounter.period.type),
        column("user_id", QuotaCounter.user_id.type),
        name="wanted",
    ).data([(quota.subject_id, quota.period, user_id) for quota, user_id in owners.items()])
    found = select(QuotaCounter.subject_id).where(
        QuotaCounter.subject_id == wanted.c.subject_id, QuotaCounter.period == wanted.c.period, _is_current()
    )
    used = _count_usage(wanted.c.subject_id, wanted.c.period, wanted.c.user_id)
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


@unit_of_work
def prepare(user_id: UUID, key_id: UUID | None) -> bool:
    """Create the counters of the quotas of an account and a key. Returns whether there are quotas."""
    quotas = find(user_id, key_id)
    if quotas:
        create_counters(db.session, dict.fromkeys(quotas, user_id))
    return bool(quotas)


def check(user_id: UUID, key_id: UUID | None, rows: int = 0, *, task_rows: int = 0) -> None:
    """Check that the rows of waiting tasks, and more `rows`, fit into all quotas, within the caller's unit of work.

    The caller has called `prepare` before. A task that grows has stored its new rows before, so that they wait;
    `task_rows` is the number of all its rows.

    Raises:
        QuotaExceededError
        TaskExceedsQuotaError: the task alone exceeds a quota.
    """
    quotas = find(user_id, key_id)
    if not quotas:
        return
    used = _lock_counters(db.session, {user_id, key_id} - {None})
    pending = QUOTAS.get().count_pending(db.session, {quota.subject_id for quota in quotas})
    for quota in quotas:
        if task_rows > quota.limit:
            raise TaskExceedsQuotaError(quota, user_id)
        needed = used[quota.counter] + pending.get(quota.subject_id, 0) + rows
        if needed > quota.limit:
            raise QuotaExceededError(quota, needed, user_id)


def raise_counters(user_id: UUID, key_id: UUID | None, rows: int) -> None:
    """Count rows that are stored, within the caller's unit of work. Counters that do not exist are not created."""
    subjects = {user_id, key_id} - {None}
    if _lock_counters(db.session, subjects):
        raised = update(QuotaCounter).where(QuotaCounter.subject_id.in_(subjects), _is_current())
        db.session.execute(raised.values(rows=QuotaCounter.rows + rows), execution_options=UNSYNCHRONIZED)


@unit_of_work
def list_used(user_id: UUID, key_id: UUID | None = None) -> Sequence[QuotaUse]:
    """The quotas of an account, and of a key of it, with what is used of them."""
    found = []
    for quota in find(user_id, key_id):
        used = db.session.scalars(_count_usage(quota.subject_id, quota.period, user_id)).one()
        found.append(QuotaUse(quota, int(used), next_start(quota.period)))
    return found


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
    used = _count_usage(QuotaCounter.subject_id, QuotaCounter.period, QuotaCounter.user_id)
    corrected = update(QuotaCounter).where(tuple_(*COUNTER).in_([tuple(counter) for counter in locked]))
    new = {"rows": used.scalar_subquery(), "corrected_at": func.now()}
    db.session.execute(corrected.values(new), execution_options=UNSYNCHRONIZED)
    return len(locked)


@unit_of_work
def delete_counters(user_id: UUID) -> None:
    """Delete the counters of an account, before the account itself is deleted."""
    db.session.execute(delete(QuotaCounter).where(QuotaCounter.user_id == user_id), execution_options=UNSYNCHRONIZED)


@unit_of_work
def delete_expired() -> int:
    """Delete the counters of past periods; returns their number."""
    past = delete(QuotaCounter).where(QuotaCounter.starts_on < func.current_date() - KEPT_DAYS)
    return len(db.session.scalars(past.returning(QuotaCounter.rows), execution_options=UNSYNCHRONIZED).all())


def find(user_id: UUID, key_id: UUID | None) -> Sequence[Quota]:
    """The quotas of a user and a key, within the caller's unit of work."""
    own = db.session.execute(select(User.rows_per_day, User.rows_per_month).where(User.id == user_id)).one_or_none()
    of_key = select(ApiKey.rows_per_day, ApiKey.rows_per_month).where(ApiKey.id == key_id)
    found = db.session.execute(of_key).one_or_none() if key_id else None
    return _combine(user_id, own or (None, None), key_id, found or (None, None))


def next_start(period: str) -> dt.datetime:
    """When the next day or month begins in UTC."""
    today = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return today + dt.timedelta(days=1)
    return (today.replace(day=1) + dt.timedelta(days=32)).replace(day=1)


def _combine(
    user_id: UUID, own: Sequence[int | None], key_id: UUID | None, of_key: Sequence[int | None]
) -> Sequence[Quota]:
    defaults = settings().rows_per_day, settings().rows_per_month
    limits = [default if limit is None else limit for default, limit in zip(defaults, own, strict=True)]
    quotas = [Quota(user_id, period, limit) for period, limit in zip(PERIODS, limits, strict=True) if limit]
    if key_id:
        quotas += [Quota(key_id, period, limit) for period, limit in zip(PERIODS, of_key, strict=True) if limit]
    return quotas


def _lock_counters(sql: Sql, subjects: Collection[Any]) -> defaultdict[tuple[UUID, str], int]:
    """Lock all current counters of accounts and keys, in the same order everywhere, and return their rows.

    Also counters of quotas that are not known here: the statement that raises the counters would lock them later, in
    another order.
    """
    counters = select(QuotaCounter.subject_id, QuotaCounter.period, QuotaCounter.rows)
    counters = counters.where(QuotaCounter.subject_id.in_(subjects), _is_current()).order_by(*COUNTER)
    found = {(row.subject_id, row.period): row.rows for row in sql.execute(counters.with_for_update())}
    return defaultdict(int, found)


def _count_usage(subject_id: Any, period: Any, user_id: Any) -> Any:
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


@unit_of_work
def _find_own() -> dict[UUID, tuple[int | None, int | None]]:
    has_own = or_(User.rows_per_day.is_not(None), User.rows_per_month.is_not(None))
    found = db.session.execute(select(User.id, User.rows_per_day, User.rows_per_month).where(has_own))
    return {row.id: (row.rows_per_day, row.rows_per_month) for row in found}
