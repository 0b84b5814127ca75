"""Group commit: the rows of all requests in flight share one statement and one commit.

At high concurrency a commit for each row is what a request costs most. Here the first request that comes becomes the
writer of what has gathered; those that come while it writes gather behind it, and one of them writes next. Before it
writes, it waits a moment for the rows of requests that have begun: so twice as many share a commit. There is no thread
to start or to lose, and a lone request waits for nobody.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DataError, IntegrityError

from sentiment_app import metrics
from sentiment_app.errors import UnavailableError
from sentiment_app.extensions import outlive_disconnect
from sentiment_app.sentiment.models import SentimentRequest

# Beyond the time that the writer itself goes on trying.
GRACE_SECONDS = 5.0
# That a writer waits at most for the rows of requests that have begun.
PAUSE_SECONDS = 0.008


@dataclass(frozen=True, slots=True)
class Row:
    """A row of sentiment_requests. Its id makes the insert idempotent: it may run again after a lost answer."""

    id: str
    user_id: str
    created_at: datetime
    text: str
    sentiment: str
    negative: float
    neutral: float
    positive: float
    model_version: str
    processing_time: float


COLUMNS = tuple(one.name for one in fields(Row))
DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy has no types here
VALUES = attrgetter(*COLUMNS)


def _insert_statement() -> str:
    columns = SentimentRequest.__table__.columns
    arrays = (f"%s::{columns[name].type.compile(DIALECT)}[]" for name in COLUMNS)
    return f"""
        INSERT INTO {SentimentRequest.__tablename__} ({", ".join(COLUMNS)})
        SELECT * FROM unnest({", ".join(arrays)}) ON CONFLICT (id) DO NOTHING
    """  # noqa: S608  # every name in it is ours


INSERT = _insert_statement()


class _Waiting:
    """A row and the request that waits for it, until it is called: its row is written, or it is to write."""

    __slots__ = ("_gate", "error", "is_written", "row")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.is_written = False
        self.error: Exception | None = None
        self._gate = threading.Lock()  # an Event does the same at five times the cost
        self._gate.acquire()

    def wait(self, seconds: float) -> bool:
        return self._gate.acquire(timeout=seconds)

    def call(self) -> None:
        self._gate.release()


class GroupWriter:
    """Writes rows; `write` returns once its row is committed.

    Args:
        connect: gives a database connection on which each statement is a transaction.
        retry_seconds: how long a group outlives a database that is away.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[Connection]], retry_seconds: float) -> None:
        self._connect = connect
        self._retry_seconds = retry_seconds
        self._lock = threading.Condition(threading.Lock())
        self._expected: set[int] = set()
        """Threads whose requests have begun, and have neither brought their row nor ended without one."""
        self._gathered: list[_Waiting] = []
        self._is_writing = False

    def expect(self) -> None:
        """This thread's request has begun: a row comes, or `forget` is called."""
        with self._lock:
            self._expected.add(threading.get_ident())

    def forget(self, _error: BaseException | None = None) -> None:
        """This thread's request has ended, and no row comes that has not."""
        if threading.get_ident() in self._expected:
            with self._lock:
                self._no_more_expected()

    def _no_more_expected(self) -> None:
        self._expected.discard(threading.get_ident())
        if not self._expected:
            self._lock.notify()  # of all who hold it only a writer waits on it

    def write(self, row: Row) -> None:
        """Commit a row, along with whatever others have gathered.

        Raises:
            UnavailableError: its writer did not come back in time.
            sqlalchemy.exc.DBAPIError: the database refused this row, or stayed away.
        """
        mine = _Waiting(row)
        with self._lock:
            self._gathered.append(mine)
            self._no_more_expected()
            is_follower, self._is_writing = self._is_writing, True
        if is_follower:
            self._follow(mine)
        if not mine.is_written:
            self._write_gathered(mine)
        if mine.error:
            raise mine.error

    def _follow(self, mine: _Waiting) -> None:
        """Wait to be called; a row that nobody took in time is withdrawn, so that "nothing was stored" is true."""
        if mine.wait(self._retry_seconds + GRACE_SECONDS):
            return
        with self._lock:
            was_called = mine.wait(0)
            if not was_called and mine in self._gathered:
                self._gathered.remove(mine)
                raise UnavailableError
        # It is being written just now: what came of it is known within one more round.
        if not was_called and not mine.wait(self._retry_seconds + GRACE_SECONDS):
            raise UnavailableError

    def _write_gathered(self, mine: _Waiting) -> None:
        with self._lock:
            self._lock.wait_for(lambda: not self._expected, PAUSE_SECONDS)
            group, self._gathered = self._gathered, []
        try:
            self._store(group)
        finally:
            with self._lock:
                next_writer = self._gathered[0] if self._gathered else None
                self._is_writing = next_writer is not None
                if next_writer:
                    next_writer.call()
            for one in group:
                one.is_written = True
                if one is not mine:
                    one.call()

    def _store(self, group: list[_Waiting]) -> None:
        try:
            outlive_disconnect(self._retry_seconds, self._insert, [one.row for one in group])
            metrics.commit_rows.observe(len(group))
        except (IntegrityError, DataError) as error:
            if len(group) == 1:
                group[0].error = error
            else:  # one of them is not acceptable: the others shall not suffer for it
                for one in group:
                    self._store([one])
        except Exception as error:  # noqa: BLE001  # each waiting request raises it
            for one in group:
                one.error = error

    def _insert(self, rows: list[Row]) -> None:
        columns = tuple(map(list, zip(*map(VALUES, rows), strict=True)))
        with self._connect() as connection:
            connection.exec_driver_sql(INSERT, columns)
