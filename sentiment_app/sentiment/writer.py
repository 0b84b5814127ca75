"""Group commit: the rows of concurrent requests share one statement and one commit.

Under load, a commit for each row costs more than everything else in a request. A group waits a moment for the rows of
requests that have begun, which doubles its size. A request that arrives alone does not wait.
"""

import re
import time
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from operator import itemgetter
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select, union
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from sentiment_app.errors import OutcomeUnknownError, UnavailableError
from sentiment_app.infrastructure import metrics
from sentiment_app.infrastructure.app_state import AppKey
from sentiment_app.infrastructure.coalescing import Coalescer
from sentiment_app.infrastructure.database import (
    LOCK_NOT_AVAILABLE,
    UNKNOWN_STATEMENT,
    is_transient,
    retry_on_disconnect,
    sqlstate,
)
from sentiment_app.sentiment.models import SentimentRequest
from sentiment_app.usage import counters
from sentiment_app.usage.models import QuotaCounter, UsageRecord
from sentiment_app.usage.quotas import AccountLockedError, QuotaUse, owners, refuse_excess

# How much longer a request waits for its group than the group is retried.
GRACE_SECONDS = 5.0
# How long a group waits at most for the rows of requests that have begun.
MAX_DELAY_SECONDS = 0.008
# How long, and how often, a request tries again while its account is locked. Afterwards, requests of the account try
# only once, until it is free or this time is over.
LOCKED_SECONDS, LOCKED_PAUSE_SECONDS, REMEMBERED_SECONDS = 2.0, 0.05, 5.0
# Where PostgreSQL waited for a lock on an account, as it says in the context of the error.
LOCKED_ACCOUNT = re.compile(r'while locking tuple (\(\d+,\d+\)) in relation "users"')

NOTHING_STORED = "The database does not answer. Nothing was stored. Retry later."

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy has no types here
# A column with a default in the database needs no value.
COLUMNS = tuple(column.name for column in SentimentRequest.__table__.columns if column.server_default is None)
VALUES = itemgetter(*COLUMNS, "key_id", "is_stored")


def _prepare_statement() -> str:
    """Prepare the statement that stores and counts rows: planning it takes longer than running it.

    It inserts the rows that are stored, and counts all rows for usage, unless they were counted before. A row that is
    not stored has a usage record of its own, whose id tells whether it was counted. At last it raises the counters of
    quotas, if there are any, in the order in which all transactions lock them.
    """
    types = _types()
    names = ", ".join(COLUMNS)
    arrays = ", ".join(f"${number}" for number, _ in enumerate(types, 1))
    return f"""
        PREPARE store_rows ({", ".join(types)}) AS
        WITH given AS (
            SELECT * FROM unnest({arrays}) AS given({names}, key_id, is_stored)
        ), stored AS (
            INSERT INTO {SentimentRequest.__tablename__} ({names}) SELECT {names} FROM given WHERE is_stored
            ON CONFLICT (id) DO NOTHING RETURNING id
        ), scored AS (
            SELECT DISTINCT ON (id) given.*, CASE WHEN NOT is_stored THEN id END AS own
            FROM given LEFT JOIN stored USING (id) WHERE stored.id IS NOT NULL OR NOT is_stored
        ), counted AS (
            INSERT INTO {UsageRecord.__tablename__} (id, user_id, key_id, model_version, day, rows)
            SELECT (array_agg(id))[1], user_id, key_id, model_version, (now() AT TIME ZONE 'UTC')::date, count(*)
            FROM scored GROUP BY user_id, key_id, model_version, own ON CONFLICT (id) DO NOTHING
            RETURNING user_id, key_id, rows
        ), locked AS (
            SELECT subject_id, period, starts_on FROM {QuotaCounter.__tablename__}
            WHERE subject_id IN (SELECT user_id FROM counted UNION SELECT key_id FROM counted)
            AND starts_on = date_trunc(period, now() AT TIME ZONE 'UTC')::date
            ORDER BY subject_id, period, starts_on FOR UPDATE
        )
        UPDATE {QuotaCounter.__tablename__} AS counter SET rows = rows + (
            SELECT sum(counted.rows) FROM counted WHERE counter.subject_id IN (counted.user_id, counted.key_id)
        )
        FROM locked WHERE counter.subject_id = locked.subject_id AND counter.period = locked.period
        AND counter.starts_on = locked.starts_on
    """  # noqa: S608  # it contains only names of our own columns


def _types() -> list[str]:
    columns = SentimentRequest.__table__.columns
    return [*(f"{columns[name].type.compile(DIALECT)}[]" for name in COLUMNS), "uuid[]", "boolean[]"]


PREPARE = _prepare_statement()
EXECUTE = f"EXECUTE store_rows ({', '.join(f'%s::{type_}' for type_ in _types())})"
IS_PREPARED = "store_rows_is_prepared"

Connect = Callable[[], AbstractContextManager[Connection]]
Outcome = Sequence[QuotaUse] | Exception
Row = Mapping[str, Any]
"""The columns of sentiment_requests, `key_id`, the `quotas` of the request, and whether the row `is_stored`.

A row that is not stored only counts for usage. The id makes the insert idempotent: it may run again after a lost
answer.
"""


class GroupWriter:
    """Writes rows in groups. `write` returns when its row is committed.

    A process that is frozen within a transaction keeps its locks. A group never waits for the lock of a single account,
    because the rows of all users would wait with it: the request itself tries again, in a later group.

    Args:
        connect: returns a database connection on which each statement is a transaction.
        begin: returns a database connection in a transaction, which is committed at the end.
        retry_seconds: how long a group is retried while the database does not answer.
    """

    def __init__(self, connect: Connect, begin: Connect, retry_seconds: float) -> None:
        self._connect, self._begin = connect, begin
        self._retry_seconds = retry_seconds
        self._has_begun = False
        """Whether a statement of the current group was sent, so that it may have been carried out."""
        self._locked_until: dict[tuple[str, str | None], float] = {}
        """Accounts, with the API key of the request, that were locked until a request gave up."""
        self._rows = Coalescer(self._process, timeout=retry_seconds + GRACE_SECONDS, max_delay=MAX_DELAY_SECONDS)

    def announce(self) -> None:
        """Announce that this thread's request will write a row, or withdraw."""
        self._rows.announce()

    def withdraw(self) -> None:
        """Withdraw this thread's announcement, unless it has written its row."""
        self._rows.withdraw()

    def write(self, row: Row) -> Sequence[QuotaUse]:
        """Commit a row, together with the rows of concurrent requests. Returns what is used of its quotas.

        Raises:
            QuotaExceededError: the row exceeds a quota.
            AccountLockedError: another process has locked the account, or the counters of its quotas.
            UnavailableError: the database does not answer, and nothing was stored.
            OutcomeUnknownError: the thread that writes the group did not finish in time.
            sqlalchemy.exc.DBAPIError: the database refused this row, or does not answer.
        """
        account = row["user_id"], row["key_id"]
        deadline = time.monotonic() + LOCKED_SECONDS
        while True:
            try:
                used = self._rows.submit(row)
            except TimeoutError:
                raise OutcomeUnknownError from None
            except AccountLockedError:
                now = time.monotonic()
                if now > deadline:
                    self._locked_until[account] = now + REMEMBERED_SECONDS
                if self._locked_until.get(account, 0) > now:
                    raise
                time.sleep(LOCKED_PAUSE_SECONDS)
            else:
                self._locked_until.pop(account, None)
                return used

    def _process(self, rows: list[Row]) -> list[Outcome]:
        deadline = time.monotonic() + self._retry_seconds
        checks_locks = self._has_begun = False
        while True:
            try:
                outcomes = retry_on_disconnect(self._retry_seconds, self._insert, rows, checks_locks=checks_locks)
            except (IntegrityError, DataError) as error:
                # One row is not acceptable: insert each row alone, so that the others do not fail with it.
                return [error] if len(rows) == 1 else [outcome for row in rows for outcome in self._process([row])]
            except Exception as error:  # noqa: BLE001  # each waiting request raises it
                if not self._has_begun and is_transient(error):
                    return [UnavailableError(NOTHING_STORED)] * len(rows)
                if sqlstate(error) != LOCK_NOT_AVAILABLE:
                    return [error] * len(rows)
                checks_locks = True  # an account may have counters whose quotas this process does not know
                if locked := self._find_locked_account(error):
                    return self._process_others(rows, locked)
                if time.monotonic() > deadline:  # until then, the lock of a whole table may become free
                    return [error] * len(rows)
            else:
                metrics.commit_rows.observe(len(rows))
                return outcomes

    def _find_locked_account(self, error: Exception) -> str | None:
        """The account whose lock the group waited for; None if it waited for something else."""
        diagnosis = getattr(getattr(error, "orig", None), "diag", None)
        found = LOCKED_ACCOUNT.search(getattr(diagnosis, "context", None) or "")
        if found is None:
            return None
        with self._connect() as connection:
            id_ = connection.exec_driver_sql("SELECT id FROM users WHERE ctid = %s::tid", (found[1],)).scalar()
        return id_ and str(id_)

    def _process_others(self, rows: list[Row], locked: str) -> list[Outcome]:
        """Store the rows of other accounts."""
        others = [row for row in rows if row["user_id"] != locked]
        outcomes = iter(self._process(others) if others else [])
        return [AccountLockedError() if row["user_id"] == locked else next(outcomes) for row in rows]

    def _insert(self, rows: list[Row], *, checks_locks: bool = False) -> list[Outcome]:
        has_quotas = any(row["quotas"] for row in rows)
        if not (has_quotas or checks_locks):
            with self._connect() as connection:
                self._has_begun = True
                self._execute(connection, rows)
            return [[] for _ in rows]
        distinct = {row["id"]: row for row in rows}  # a request that Nginx repeats may be here twice
        if has_quotas:
            with self._connect() as connection:
                wanted = [owners(row["quotas"], UUID(row["user_id"])) for row in rows]
                counters.create(connection, dict(ChainMap(*wanted)))
        with self._begin() as connection:
            self._has_begun = True
            outcomes = self._refuse_excess(connection, distinct)
            refused = {id_ for id_, outcome in outcomes.items() if isinstance(outcome, Exception)}
            self._execute(connection, [row for id_, row in distinct.items() if id_ not in refused])
        return [outcomes[row["id"]] for row in rows]

    def _refuse_excess(self, connection: Connection, rows: dict[str, Row]) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = dict(zip(rows, refuse_excess(connection, list(rows.values())), strict=True))
        if not any(isinstance(outcome, Exception) for outcome in outcomes.values()):
            return outcomes
        # Rows that were stored before, when the answer was lost, need no place in the quota.
        stored = self._find_stored(connection, rows)
        if stored:
            new = {id_: row for id_, row in rows.items() if id_ not in stored}
            outcomes = dict.fromkeys(stored, ()) | self._refuse_excess(connection, new)
        return outcomes

    def _find_stored(self, connection: Connection, ids: Collection[str]) -> set[str]:
        found = union(*(select(table.id).where(table.id.in_(ids)) for table in (SentimentRequest, UsageRecord)))
        return {str(id_) for id_ in connection.scalars(found)}

    def _execute(self, connection: Connection, rows: list[Row]) -> None:
        if rows:
            columns = tuple(map(list, zip(*map(VALUES, rows), strict=True)))
            if IS_PREPARED not in connection.info:  # it lasts as long as the connection
                connection.exec_driver_sql(PREPARE)
                connection.info[IS_PREPARED] = True
            try:
                connection.exec_driver_sql(EXECUTE, columns)
            except DBAPIError as error:
                if sqlstate(error) == UNKNOWN_STATEMENT:  # somebody has run DISCARD ALL; the group is repeated
                    connection.info.pop(IS_PREPARED)
                raise


WRITER = AppKey[GroupWriter]("writer")


def writer() -> GroupWriter:
    """The group writer of the current application."""
    return WRITER.get()
