"""PostgreSQL: the declarative base, transactions that are retried, and an upper bound for every wait."""

import functools
import select
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import psycopg2
import tenacity
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from psycopg2 import extensions
from sqlalchemy import Connection, MetaData
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase

from sentiment_app.config import Settings
from sentiment_app.infrastructure.app_state import AppKey, settings

MIGRATIONS = Path(__file__).parents[2] / "migrations"
AUTOCOMMIT = "autocommit"
UTC = TIMESTAMP(timezone=True)

# SQLSTATEs (PostgreSQL manual, appendix A).
QUERY_CANCELED = "57014"
UNDEFINED_TABLE = "42P01"
UNKNOWN_STATEMENT = "26000"
CONFLICTS = ("40001", "40P01")  # serialization_failure, deadlock_detected: the transaction was rolled back

LOCK_NOT_AVAILABLE = "55P03"

CONNECT_SECONDS = 3.0
# A process that was frozen within a transaction keeps its locks, until the server ends its connection.
IDLE_SECONDS = 15.0
# How long the rows of a group wait for a lock, because the rows of all users wait with them.
GROUP_LOCK_SECONDS = 1.0
# Connections of the group writer: for the current group, and for rows of accounts that are locked.
GROUP_CONNECTIONS = 3
# How long the client waits after the statement timeout. Usually the server has enforced the timeout by then.
GRACE_SECONDS = 2.0
# A silent connection is probed after this many seconds, and closed after this many failed probes, one per second.
KEEPALIVE_IDLE_SECONDS, KEEPALIVE_PROBES = 5, 5

# For statements whose results the session does not need to know.
UNSYNCHRONIZED = {"synchronize_session": False}

P = ParamSpec("P")
T = TypeVar("T")


class Base(DeclarativeBase):
    """Declarative base of every table. Constraint names are fixed, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


db = SQLAlchemy(metadata=Base.metadata, session_options={"expire_on_commit": False})
migrate = Migrate(db=db, directory=str(MIGRATIONS))


def flask_config(settings: Settings) -> dict[str, Any]:
    """Flask-SQLAlchemy's configuration. Every wait has an upper bound (libpq, section 32.1.2)."""
    options: dict[str, Any] = {
        "hide_parameters": True,
        "pool_timeout": settings.database_retry_seconds,
        "connect_args": {
            "application_name": "sentiment",
            "tcp_user_timeout": int(settings.database_retry_seconds * 1000) or 1,
            "keepalives_idle": KEEPALIVE_IDLE_SECONDS,
            "keepalives_interval": 1,
            "keepalives_count": KEEPALIVE_PROBES,
            # Planning a prepared statement anew each time takes longer than any plan could save.
            "options": f"-c statement_timeout={settings.database_statement_seconds * 1000:.0f} "
            f"-c idle_in_transaction_session_timeout={IDLE_SECONDS * 1000:.0f} -c plan_cache_mode=force_generic_plan "
            "-c timezone=UTC",
        },
    }
    size = settings.database_pool_size
    # For the group writer.
    arguments = options["connect_args"]
    autocommit = {
        "url": settings.database_url,
        "isolation_level": "AUTOCOMMIT",
        "pool_size": 1,
        "max_overflow": GROUP_CONNECTIONS - 1,
        "connect_args": {
            **arguments,
            "options": f"{arguments['options']} -c lock_timeout={GROUP_LOCK_SECONDS * 1000:.0f}",
        },
    }
    return {
        "SQLALCHEMY_DATABASE_URI": settings.database_url,
        "SQLALCHEMY_ENGINE_OPTIONS": {**options, "pool_size": size, "max_overflow": size},
        "SQLALCHEMY_BINDS": {AUTOCOMMIT: {**options, **autocommit}},
    }


def init_app(app: Flask, settings: Settings) -> None:
    """Connect the application to PostgreSQL."""
    install_wait_timeout(settings)
    db.init_app(app)
    migrate.init_app(app)
    RESOURCE_ERRORS.set(app, ResourceErrors())


def autocommit() -> AbstractContextManager[Connection]:
    """A connection, separate from the session, on which each statement is a transaction and takes one round trip."""
    return db.engines[AUTOCOMMIT].connect()


@contextmanager
def transaction() -> Iterator[Connection]:
    """The same connection, in a transaction that is committed at the end."""
    with autocommit() as connection:
        connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin():
            yield connection


def install_wait_timeout(settings: Settings) -> None:
    """Limit how long this process waits for an answer.

    A server that was stopped (SIGSTOP, a frozen virtual machine) keeps its connections open: its statement timeout
    cannot run, and TCP does not notice. psycopg2 closes a connection whose wait callback raised an error (psycopg2
    manual, "Support for coroutine libraries").
    """

    def wait(connection: Any) -> None:
        is_connecting = connection.status == extensions.STATUS_SETUP
        seconds = CONNECT_SECONDS if is_connecting else settings.database_statement_seconds + GRACE_SECONDS
        deadline = time.monotonic() + seconds
        while (state := connection.poll()) != extensions.POLL_OK:
            socket = select.poll()
            socket.register(connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
            if not socket.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise psycopg2.OperationalError("the server does not answer")

    extensions.set_wait_callback(wait)


def disable_wait_timeout() -> None:
    """Wait without a limit in this process: a migration may take long."""
    extensions.set_wait_callback(None)


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of a database error; None if the server did not answer with an error."""
    return getattr(error.orig, "pgcode", None) if isinstance(error, DBAPIError) else None


def is_disconnect(error: BaseException) -> bool:
    """Whether a database error means that the server is unavailable, rather than that the statement is wrong.

    SQLSTATE class 08 is "connection exception", 57P is "operator intervention" (shutting down, starting up). No
    SQLSTATE at all means that no server answered (PostgreSQL manual, appendix A).
    """
    if not isinstance(error, DBAPIError):
        return False
    state = sqlstate(error)
    return error.connection_invalidated or (
        isinstance(error, OperationalError) and (state is None or state.startswith(("08", "57P")))
    )


def is_overload(error: BaseException) -> bool:
    """Whether the server answers too slowly: no connection or lock became free, or a statement was cancelled."""
    return isinstance(error, PoolTimeoutError) or sqlstate(error) in (QUERY_CANCELED, LOCK_NOT_AVAILABLE)


def is_out_of_resources(error: BaseException) -> bool:
    """Whether the server lacks disk, memory or connections (SQLSTATE class 53, "insufficient resources")."""
    return (sqlstate(error) or "").startswith("53")


class ResourceErrors:
    """Remembers whether the database lacked disk, memory or connections a short time ago."""

    RECENT_SECONDS = 60

    def __init__(self) -> None:
        self._last = -float(self.RECENT_SECONDS)

    def record(self) -> None:
        """Record that the database refused a statement for this reason."""
        self._last = time.monotonic()

    def are_recent(self) -> bool:
        """Whether this happened within the last RECENT_SECONDS."""
        return time.monotonic() - self._last < self.RECENT_SECONDS


RESOURCE_ERRORS = AppKey[ResourceErrors]("resource_errors")


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is repeated: after a disconnect, deadlock or conflict.

    Or because a prepared statement is missing, which is then prepared again.
    """
    return is_disconnect(error) or sqlstate(error) in (*CONFLICTS, UNKNOWN_STATEMENT)


def retry_on_disconnect(seconds: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work`, which must be safe to repeat, and repeat it after transient errors for at most `seconds`."""
    try:
        return work(*args, **kwargs)  # nearly always succeeds, and saves the cost of a retry loop
    except DBAPIError as error:
        if not is_transient(error):
            raise
    return _retrying(seconds)(work, *args, **kwargs)


@functools.cache
def _retrying(seconds: float) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        wait=tenacity.wait_exponential_jitter(multiplier=0.02, max=0.5, jitter=0.05),
        stop=tenacity.stop_after_delay(seconds),
        reraise=True,
    )


def unit_of_work(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function as one transaction: commit when it returns, roll back when it raises.

    After a lost connection it runs again, for `database_retry_seconds`. The lost answer may be that of the commit, so
    a unit of work must be idempotent: its caller chooses the keys of the rows that it inserts.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return retry_on_disconnect(settings().database_retry_seconds, attempt, *args, **kwargs)

    def attempt(*args: Any, **kwargs: Any) -> T:
        try:
            result = function(*args, **kwargs)
            db.session.commit()
        except BaseException:
            db.session.rollback()
            raise
        return result

    return run
