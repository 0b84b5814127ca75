"""Quotas: limits on the rows that an account, or an API key, may score in a day or a month (UTC).

The limit of an account is its own, or else the setting's. A key can have limits in addition. 0 stands for no limit.

A counter in PostgreSQL has the rows that were scored, or are being scored, in the period. A request locks the counters
of its quotas, in a fixed order, adds its rows, and is refused if the rows of waiting tasks have no room beside them. So
requests at the same time, in different processes and hosts, cannot exceed a quota together.
"""

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Date, cast, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from sentiment_app.errors import RateLimitedError
from sentiment_app.infrastructure.app_state import AppKey, settings
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.infrastructure.refreshed import Refreshed
from sentiment_app.usage.models import QuotaCounter, UsageRecord
from sentiment_app.users.models import ApiKey, User

PERIODS = ("day", "month")
# How soon every process knows the first own quota of an account or a key.
REFRESH_SECONDS = 10.0
KEPT_DAYS = 62
MAX_ROWS = 10**12

CountPending = Callable[[UUID, UUID | None], int]
"""Counts the rows of a user's tasks that wait to be scored; with a key, of tasks that were sent with it."""


class Quota(NamedTuple):
    """A limit on the rows of an account, or of an API key, in a period."""

    subject_id: UUID
    period: str
    limit: int


class QuotaUse(NamedTuple):
    """A quota, the rows that are used of it, and when it begins anew."""

    quota: Quota
    used: int
    resets_at: dt.datetime


class QuotaExceededError(RateLimitedError):
    """The rows would exceed a quota."""

    kind = "quota-exceeded"

    def __init__(self, quota: Quota, rows: int, user_id: UUID) -> None:
        whose = "Your account" if quota.subject_id == user_id else "This API key"
        resets_at = next_start(quota.period)
        super().__init__(
            f"{whose} may score {quota.limit:,} rows in a {quota.period}. With this request, {rows:,} would be used or "
            f"wait in tasks. The quota begins anew on {resets_at:%Y-%m-%d} at 00:00 UTC."
        )
        self.retry_after_seconds = max(1, int((resets_at - dt.datetime.now(dt.UTC)).total_seconds()) + 1)  # type: ignore[misc]  # other errors have a fixed time


class Quotas:
    """The quotas of one application.

    Args:
        count_pending: see CountPending.
    """

    def __init__(self, count_pending: CountPending) -> None:
        self.count_pending = count_pending
        self._own = Refreshed("quotas", _find_subjects_with_own, seconds=REFRESH_SECONDS)

    def may_apply(self, user_id: UUID, key_id: UUID | None) -> bool:
        """Whether an account or a key may have a quota. This costs no query."""
        has_default = settings().rows_per_day or settings().rows_per_month
        return bool(has_default) or not self._own.get().isdisjoint((user_id, key_id))


QUOTAS = AppKey[Quotas]("quotas")


@contextlib.contextmanager
def reserved(user_id: UUID, key_id: UUID | None, rows: int) -> Iterator[Sequence[QuotaUse]]:
    """Count rows under the quotas of a request while they are scored. If the block fails, they do not count.

    Raises:
        QuotaExceededError
    """
    if not QUOTAS.get().may_apply(user_id, key_id):
        yield []
        return
    used = _reserve(user_id, key_id, rows)
    try:
        yield used
    except BaseException:
        _add(user_id, [use.quota for use in used], -rows)
        raise


@unit_of_work
def _reserve(user_id: UUID, key_id: UUID | None, rows: int) -> Sequence[QuotaUse]:
    # The rows need not be on disk when the request goes on: it commits its scores later.
    db.session.execute(select(func.set_config("synchronous_commit", "off", True)))
    return check(user_id, key_id, rows, adds=True)


@unit_of_work
def _add(user_id: UUID, quotas: Sequence[Quota], rows: int) -> None:
    for quota in quotas:
        _count(user_id, quota, rows)


def check(user_id: UUID, key_id: UUID | None, rows: int, *, adds: bool = False) -> Sequence[QuotaUse]:
    """Check that more rows fit into all quotas, within the caller's unit of work. With `adds`, they count at once.

    Rows that wait in tasks are always included: the caller has stored the rows of a new chunk before, and adds none.

    Raises:
        QuotaExceededError
    """
    quotas = find(user_id, key_id)
    used = [_count(user_id, quota, rows if adds else 0) for quota in quotas]
    for quota, total in zip(quotas, used, strict=True):  # after all counters are locked
        pending = QUOTAS.get().count_pending(user_id, None if quota.subject_id == user_id else key_id)
        needed = total + pending + (0 if adds else rows)
        if needed > quota.limit:
            raise QuotaExceededError(quota, needed, user_id)
    return [QuotaUse(quota, total, next_start(quota.period)) for quota, total in zip(quotas, used, strict=True)]


def record_scored(user_id: UUID, key_id: UUID | None, rows: int) -> None:
    """Count rows of a task that are scored and no longer wait, within the caller's unit of work."""
    for quota in find(user_id, key_id):
        _count(user_id, quota, rows)


@unit_of_work
def list_used(user_id: UUID, key_id: UUID | None = None) -> Sequence[QuotaUse]:
    """The quotas of an account, and of a key of it, with what is used of them."""
    return [QuotaUse(quota, _count(user_id, quota, 0), next_start(quota.period)) for quota in find(user_id, key_id)]


@unit_of_work
def delete_expired() -> int:
    """Delete the counters of past periods; returns their number."""
    past = delete(QuotaCounter).where(QuotaCounter.starts_on < func.current_date() - KEPT_DAYS)
    return len(db.session.scalars(past.returning(QuotaCounter.rows), execution_options=UNSYNCHRONIZED).all())


def find(user_id: UUID, key_id: UUID | None) -> Sequence[Quota]:
    """The quotas of a request in the order in which their counters are locked, within the caller's unit of work."""
    defaults = {"day": settings().rows_per_day, "month": settings().rows_per_month}
    own = db.session.execute(select(User.rows_per_day, User.rows_per_month).where(User.id == user_id)).one_or_none()
    limits = {(user_id, period): own_limit for period, own_limit in zip(PERIODS, own or (None, None), strict=True)}
    found = {key: defaults[key[1]] if limit is None else limit for key, limit in limits.items()}
    if key_id is not None:
        of_key = select(ApiKey.rows_per_day, ApiKey.rows_per_month).where(ApiKey.id == key_id)
        own = db.session.execute(of_key).one_or_none()
        found |= {(key_id, period): limit or 0 for period, limit in zip(PERIODS, own or (0, 0), strict=True)}
    return [Quota(subject, period, limit) for (subject, period), limit in sorted(found.items()) if limit]


def next_start(period: str) -> dt.datetime:
    """When the next day or month begins in UTC."""
    today = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return today + dt.timedelta(days=1)
    return (today.replace(day=1) + dt.timedelta(days=32)).replace(day=1)


def _count(user_id: UUID, quota: Quota, rows: int) -> int:
    """Add rows to a counter, and lock it until the caller's unit of work ends. Returns its rows."""
    starts_on = cast(func.date_trunc(quota.period, func.timezone("UTC", func.now())), Date)
    counter = (
        QuotaCounter.subject_id == quota.subject_id,
        QuotaCounter.period == quota.period,
        QuotaCounter.starts_on == starts_on,
    )
    added = update(QuotaCounter).where(*counter).values(rows=func.greatest(0, QuotaCounter.rows + rows))
    added = added.returning(QuotaCounter.rows)
    found = db.session.execute(added, execution_options=UNSYNCHRONIZED).scalar_one_or_none()
    if found is not None:
        return found
    # The first request of a period. A task's rows may be stored at this moment, and are then counted there or here.
    scored = select(func.coalesce(func.sum(UsageRecord.rows), 0)).where(
        UsageRecord.user_id == user_id,
        or_(UsageRecord.key_id == quota.subject_id, UsageRecord.user_id == quota.subject_id),
        UsageRecord.day >= starts_on,
    )
    values = {
        "subject_id": quota.subject_id,
        "period": quota.period,
        "starts_on": starts_on,
        "user_id": user_id,
        "rows": scored.scalar_subquery(),
    }
    db.session.execute(insert(QuotaCounter).values(values).on_conflict_do_nothing())
    return db.session.execute(added, execution_options=UNSYNCHRONIZED).scalar_one()


@unit_of_work
def _find_subjects_with_own() -> frozenset[UUID]:
    found: set[UUID] = set()
    for table in (User, ApiKey):
        has_own = or_(table.rows_per_day.is_not(None), table.rows_per_month.is_not(None))
        found |= set(db.session.scalars(select(table.id).where(has_own)))
    return frozenset(found)
