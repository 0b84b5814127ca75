"""Group commit: the rows of all requests in flight share one statement and one commit.

At high concurrency a commit for each row is what a request costs most. A group waits a moment for the rows of requests
that have begun, so that twice as many share a commit; a lone request waits for nobody.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DataError, IntegrityError

from sentiment_app import metrics
from sentiment_app.combining import Combiner
from sentiment_app.errors import UnavailableError
from sentiment_app.extensions import outlive_disconnect
from sentiment_app.sentiment.models import SentimentRequest

# Beyond the time that whoever writes goes on trying.
GRACE_SECONDS = 5.0
# That a group waits at most for the rows of requests that have begun.
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


class GroupWriter:
    """Writes rows; `write` returns once its row is committed.

    Args:
        connect: gives a database connection on which each statement is a transaction.
        retry_seconds: how long a group outlives a database that is away.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[Connection]], retry_seconds: float) -> None:
        self._connect = connect
        self._retry_seconds = retry_seconds
        self._rows = Combiner(self._store, patience=retry_seconds + GRACE_SECONDS, pause=PAUSE_SECONDS)

    def expect(self) -> None:
        """This thread's request has begun: its row comes, or `forget` is called."""
        self._rows.expect()

    def forget(self) -> None:
        """This thread's request has ended: no row comes that has not."""
        self._rows.forget()

    def write(self, row: Row) -> None:
        """Commit a row, along with whatever others have gathered.

        Raises:
            UnavailableError: whoever writes did not come back in time.
            sqlalchemy.exc.DBAPIError: the database refused this row, or stayed away.
        """
        try:
            self._rows.do(row)
        except TimeoutError:
            raise UnavailableError from None

    def _store(self, rows: list[Row]) -> list[Exception | None]:
        try:
            outlive_disconnect(self._retry_seconds, self._insert, rows)
        except (IntegrityError, DataError) as error:
            if len(rows) == 1:
                return [error]
            # One of them is not acceptable: the others shall not suffer for it.
            return [outcome for row in rows for outcome in self._store([row])]
        except Exception as error:  # noqa: BLE001  # each waiting request raises it
            return [error] * len(rows)
        metrics.commit_rows.observe(len(rows))
        return [None] * len(rows)

    def _insert(self, rows: list[Row]) -> None:
        columns = tuple(map(list, zip(*map(VALUES, rows), strict=True)))
        with self._connect() as connection:
            connection.exec_driver_sql(INSERT, columns)
