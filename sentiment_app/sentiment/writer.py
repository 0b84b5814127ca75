"""Group commit: the rows of concurrent requests share one statement and one commit.

Under load, a commit for each row costs more than everything else in a request. A group waits a moment for the rows of
requests that have begun, which doubles its size. A request that arrives alone does not wait.
"""

import re
import threading
import time
from collections import ChainMap, defaultdict
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
    GROUP_CONNECTIONS,
    LOCK_NOT_AVAILABLE,
    UNKNOWN_STATEMENT,
    is_transient,
    retry_on_disconnect,
    sqlstate,
)
from sentiment_app.sentiment.models import SentimentRequest
from sentiment_app.usage import counters
from sentiment_app.usage.models import QuotaCounter, UsageRecord
from sentiment_app.usage.quotas import QuotaUse, owners, refuse_excess

# How much longer a request waits for its group than the group is retried.
GRACE_SECONDS = 5.0
# How long a group waits at most for the rows of requests that have begun.
MAX_DELAY_SECONDS = 0.008
# How long a request tries again while its account is locked, and for how long the requests after it try only once.
LOCKED_SECONDS, GIVEN_UP_SECONDS = 2.0, 5.0
# Which row PostgreSQL waited for, as the context of the error says. Without a tuple, it waited for a table.
LOCKED_ROW = re.compile(r'while locking tuple (\(\d+,\d+\)) in relation "(users|quota_counters)"')
FIND_OWNER = {
    "users": "SELECT id FROM users WHERE ctid = %s::tid",
    "quota_counters": "SELECT user_id FROM quota_counters WHERE ctid = %s::tid",
}
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


class AccountLockedError(UnavailableError):
    """Another process has locked the account, or the counters of its quotas."""

    detail = "Your account is locked by another process. Retry later. Nothing was stored."


class _State:
    """What is known about the attempts to store a group."""

    def __init__(self) -> None:
        self.has_begun = False
        """Whether the current attempt has sent a statement, so that it may have been carried out."""
        self.is_unknown = False
        """Whether such an attempt has ended without an answer."""

    def begin_attempt(self) -> None:
        """Note that the attempt before has ended without an answer, if it had begun."""
        self.is_unknown |= self.has_begun
        self.has_begun = False

    def explain(self, error: Exception) -> Exception:
        """The error for the requests of the group."""
        if self.is_unknown or self.has_begun:
            return OutcomeUnknownError() if isinstance(error, UnavailableError) else error
        is_temporary = is_transient(error) or sqlstate(error) == LOCK_NOT_AVAILABLE
        return UnavailableError(NOTHING_STORED) if is_temporary else error


class GroupWriter:
    """Writes rows in groups. `write` returns when its row is committed.

    A process that is frozen within a transaction keeps its locks. Each group waits for locks only for a moment, and
    then finds the account whose row, or whose counters, are locked. From then on, the rows of this account are written
    outside groups, until it is free, so that the rows of other accounts do not wait with them.

    Args:
        connect: returns a database connection on which each statement is a transaction.
        begin: returns a database connection in a transaction, which is committed at the end.
        retry_seconds: how long a group is retried while the database does not answer.
    """

    def __init__(self, connect: Connect, begin: Connect, retry_seconds: float) -> None:
        self._connect, self._begin = connect, begin
        self._retry_seconds = retry_seconds
        self._locked: set[str] = set()
        """Accounts that another process has locked."""
        self._given_up_until: dict[str, float] = {}
        """Accounts that were locked until a request gave up."""
        self._alone: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        """For each locked account: held by the request that tries again."""
        self._places = threading.BoundedSemaphore(GROUP_CONNECTIONS - 1)
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
            OutcomeUnknownError: nobody knows whether the row was stored.
            sqlalchemy.exc.DBAPIError: the database refused this row, or does not answer.
        """
        if row["user_id"] in self._locked:
            self.withdraw()
            return self._write_alone(row)
        try:
            return self._rows.submit(row)
        except TimeoutError:
            raise OutcomeUnknownError from None
        except AccountLockedError:  # only the group of this row has found it out
            return self._write_alone(row)

    def _write_alone(self, row: Row) -> Sequence[QuotaUse]:
        """Commit a row of an account that is locked, as soon as the account is free.

        One request of the account tries at a time. After a request has given up, the others try only once.
        """
        account, deadline = row["user_id"], time.monotonic() + LOCKED_SECONDS
        while True:
            tries_once = self._given_up_until.get(account, 0.0) > time.monotonic()
            outcome: Outcome = AccountLockedError()
            if self._alone[account].acquire(timeout=0 if tries_once else LOCKED_SECONDS):
                try:
                    with self._places:
                        (outcome,) = self._store([row], _State())
                finally:
                    self._alone[account].release()
            if not isinstance(outcome, AccountLockedError):
                self._locked.discard(account)
                self._given_up_until.pop(account, None)
            elif not tries_once and time.monotonic() < deadline:
                continue
            else:
                self._given_up_until[account] = time.monotonic() + GIVEN_UP_SECONDS
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

    def _process(self, rows: list[Row]) -> list[Outcome]:
        return self._store(rows, _State())

    def _store(self, rows: list[Row], state: _State) -> list[Outcome]:
        deadline = time.monotonic() + self._retry_seconds
        while True:
            try:
                outcomes = retry_on_disconnect(self._retry_seconds, self._insert, rows, state)
            except (IntegrityError, DataError) as error:
                state.has_begun = False
                # One row is not acceptable: insert each row alone, so that the others do not fail with it.
                return [error] if len(rows) == 1 else [out for row in rows for out in self._store([row], state)]
            except Exception as error:  # noqa: BLE001  # each waiting request raises it
                if sqlstate(error) == LOCK_NOT_AVAILABLE:
                    state.has_begun = False
                    if _is_row_locked(error):
                        return self._store_others(rows, self._find_locked_account(error), state)
                    if time.monotonic() < deadline:  # until then, the lock of a whole table may become free
                        continue
                return [state.explain(error)] * len(rows)
            else:
                metrics.commit_rows.observe(len(rows))
                return outcomes

    def _find_locked_account(self, error: Exception) -> str | None:
        """The account whose row, or whose counter, the group waited for; None if it waited for another row."""
        found = LOCKED_ROW.search(_context(error))
        if found is None:
            return None
        with self._connect() as connection:
            id_ = connection.exec_driver_sql(FIND_OWNER[found[2]], (found[1],)).scalar()
        return id_ and str(id_)

    def _store_others(self, rows: list[Row], locked: str | None, state: _State) -> list[Outcome]:
        """Store the rows of the accounts that are not locked. If the account is not known, halves find it."""
        accounts = list(dict.fromkeys(row["user_id"] for row in rows))
        if locked not in accounts:
            locked = accounts[0] if len(accounts) == 1 else None
        if locked:
            self._locked.add(locked)
            parts = [[account for account in accounts if account != locked]]
        else:
            middle = len(accounts) // 2
            parts = [accounts[:middle], accounts[middle:]]
        refused = OutcomeUnknownError() if state.is_unknown else AccountLockedError()
        outcomes: dict[int, Outcome] = {index: refused for index, _ in enumerate(rows)}
        for part in map(set, parts):
            indexes = [index for index, row in enumerate(rows) if row["user_id"] in part]
            if indexes:
                outcomes |= zip(indexes, self._store([rows[index] for index in indexes], state), strict=True)
        return list(outcomes.values())

    def _insert(self, rows: list[Row], state: _State | None = None) -> list[Outcome]:
        state = state or _State()
        state.begin_attempt()
        if not any(row["quotas"] for row in rows):
            with self._connect() as connection:
                state.has_begun = True
                self._execute(connection, rows)
            return [[] for _ in rows]
        distinct = {row["id"]: row for row in rows}  # a request that Nginx repeats may be here twice
        with self._connect() as connection:
            wanted = [owners(row["quotas"], UUID(row["user_id"])) for row in rows]
            counters.create(connection, dict(ChainMap(*wanted)))
        with self._begin() as connection:
            state.has_begun = True
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


def _context(error: Exception) -> str:
    """Where PostgreSQL was when it raised an error."""
    diagnosis = getattr(getattr(error, "orig", None), "diag", None)
    return getattr(diagnosis, "context", None) or ""


def _is_row_locked(error: Exception) -> bool:
    return " tuple " in _context(error)


WRITER = AppKey[GroupWriter]("writer")


def writer() -> GroupWriter:
    """The group writer of the current application."""
    return WRITER.get()
