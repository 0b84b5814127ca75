"""Quotas: limits on the rows that an account, or an API key, may score in a day or a month (UTC).

The limit of an account is its own, or else the setting's. A key can have limits in addition. 0 stands for no limit. If
there is a quota, a transaction that stores scores first locks its counters (`counters`), and a row is refused if it has
no room beside the rows of waiting tasks. So requests at the same time, in different processes and hosts, cannot exceed
a quota together.
"""

import datetime as dt
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import or_, select

from sentiment_app.errors import RateLimitedError, TooLargeError
from sentiment_app.infrastructure.app_state import AppKey, settings
from sentiment_app.infrastructure.database import db, unit_of_work
from sentiment_app.infrastructure.refreshed import Refreshed
from sentiment_app.usage import counters
from sentiment_app.usage.counters import Counter, Sql
from sentiment_app.users.models import ApiKey, User
from sentiment_app.web.guard import Principal

PERIODS = ("day", "month")
# How soon every process knows the own quota of an account.
REFRESH_SECONDS = 10.0
# When to try again if only rows that wait in tasks have used up a quota.
WAITING_SECONDS = 60

CountPending = Callable[[Sql, Collection[UUID]], Mapping[UUID, int]]
"""Counts the rows of tasks that wait to be scored, by account and by API key."""


class Quota(NamedTuple):
    """A limit on the rows of an account, or of an API key, in a period."""

    subject_id: UUID
    period: str
    limit: int

    @property
    def counter(self) -> Counter:
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

    def __init__(self, quota: Quota, rows: int, user_id: UUID, *, is_waiting: bool) -> None:
        resets_at = next_start(quota.period)
        detail = (
            f"{_whose(quota, user_id)} may score {quota.limit:,} rows in a {quota.period}. With this request, {rows:,} "
            "would be used or wait in tasks. "
        )
        seconds = max(1, int((resets_at - dt.datetime.now(dt.UTC)).total_seconds()) + 1)
        if is_waiting:
            super().__init__(f"{detail}Rows that wait may still be cancelled or fail. Retry in a minute.")
            seconds = min(seconds, WAITING_SECONDS)
        else:
            super().__init__(f"{detail}The quota begins anew on {resets_at:%Y-%m-%d} at 00:00 UTC.")
        self.retry_after_seconds = seconds  # type: ignore[misc]  # other errors have a fixed time


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


def owners(quotas: Iterable[Quota], user_id: UUID) -> dict[Counter, UUID]:
    """The counters of quotas, which belong to this user."""
    return {quota.counter: user_id for quota in quotas}


def refuse_excess(sql: Sql, rows: Sequence[Mapping[str, Any]]) -> list[QuotaExceededError | Sequence[QuotaUse]]:
    """Which rows exceed a quota, in the caller's transaction, which stores the other rows and raises the counters.

    Each row has its `user_id`, `key_id` and `quotas`, whose counters were created before. Returns for each row the
    error, or its quotas after it is stored.
    """
    subjects = {UUID(id_) for row in rows for id_ in (row["user_id"], row["key_id"]) if id_}
    wanted = [owners(row["quotas"], UUID(row["user_id"])) for row in rows]
    used = counters.lock(sql, subjects, dict(ChainMap(*wanted)))
    pending = QUOTAS.get().count_pending(sql, {quota.subject_id for row in rows for quota in row["quotas"]})
    outcomes: list[QuotaExceededError | Sequence[QuotaUse]] = []
    for row in rows:
        error = _find_excess(row["quotas"], used, pending, 1, UUID(row["user_id"]))
        if error:
            outcomes.append(error)
            continue
        for quota in row["quotas"]:
            used[quota.counter] += 1
        outcomes.append([QuotaUse(quota, used[quota.counter], next_start(quota.period)) for quota in row["quotas"]])
    return outcomes


@unit_of_work
def prepare(user_id: UUID, key_id: UUID | None) -> bool:
    """Create the counters of the quotas of an account and a key. Returns whether there are quotas."""
    quotas = find(user_id, key_id)
    if quotas:
        counters.create(db.session, owners(quotas, user_id))
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
    for quota in quotas:
        if task_rows > quota.limit:
            raise TaskExceedsQuotaError(quota, user_id)
    used = counters.lock(db.session, {user_id, key_id} - {None}, owners(quotas, user_id))
    pending = QUOTAS.get().count_pending(db.session, {quota.subject_id for quota in quotas})
    error = _find_excess(quotas, used, pending, rows, user_id, own_rows=task_rows)
    if error:
        raise error


def _find_excess(
    quotas: Sequence[Quota],
    used: Mapping[Counter, int],
    pending: Mapping[UUID, int],
    rows: int,
    user_id: UUID,
    *,
    own_rows: int = 0,
) -> QuotaExceededError | None:
    """The error for more `rows`; of several quotas that they exceed, for the quota that begins anew last.

    `own_rows` of the pending rows belong to the same request.
    """
    needed = {quota: used[quota.counter] + pending.get(quota.subject_id, 0) + rows for quota in quotas}
    exceeded = [quota for quota in quotas if needed[quota] > quota.limit]
    if not exceeded:
        return None
    full = [quota for quota in exceeded if used[quota.counter] + max(rows, own_rows) > quota.limit]
    last = max(full or exceeded, key=lambda quota: next_start(quota.period))
    return QuotaExceededError(last, needed[last], user_id, is_waiting=not full)


@unit_of_work
def list_used(user_id: UUID, key_id: UUID | None = None) -> Sequence[QuotaUse]:
    """The quotas of an account, and of a key of it, with what is used of them."""
    found = []
    for quota in find(user_id, key_id):
        used = db.session.scalars(counters.count_usage(quota.subject_id, quota.period, user_id)).one()
        found.append(QuotaUse(quota, int(used), next_start(quota.period)))
    return found


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


@unit_of_work
def _find_own() -> dict[UUID, tuple[int | None, int | None]]:
    has_own = or_(User.rows_per_day.is_not(None), User.rows_per_month.is_not(None))
    found = db.session.execute(select(User.id, User.rows_per_day, User.rows_per_month).where(has_own))
    return {row.id: (row.rows_per_day, row.rows_per_month) for row in found}
