"""Extension objects, unbound; `app.create_app` binds them. And the one way to write to the database."""

import functools
import ipaddress
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import structlog
import tenacity
from flask import Flask, current_app
from flask_jwt_extended import JWTManager
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import Connection, MetaData
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase

from sentiment_app import metrics
from sentiment_app.config import Settings

log = structlog.get_logger()

QUEUE, WEBHOOKS = "default", "webhooks"
QUEUES = (QUEUE, WEBHOOKS)
# Of a job; a chunk takes a second or two, and its lease knows better.
JOB_SECONDS = 600
AUTOCOMMIT = "autocommit"
# SQLSTATEs (PostgreSQL manual, appendix A).
QUERY_CANCELED = "57014"
CONFLICTS = ("40001", "40P01")  # serialization_failure, deadlock_detected: the transaction was rolled back
UTC = TIMESTAMP(timezone=True)

P = ParamSpec("P")
T = TypeVar("T")


class Base(DeclarativeBase):
    """Declarative base of every table; constraint names are fixed, so that migrations can name them."""

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
migrate = Migrate(db=db, directory=str(Path(__file__).parent.parent / "migrations"))
jwt = JWTManager()


def client_network() -> str:
    """Who is limited together: an IPv4 address, or the /64 of which an IPv6 client has every address."""
    try:
        address = ipaddress.ip_address(get_remote_address())
    except ValueError:  # what a proxy that we trust says need not be an address alone
        return get_remote_address()
    if isinstance(address, ipaddress.IPv6Address) and not address.ipv4_mapped:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)


class _Limiter(Limiter):
    """Counts in memory while Redis is away. The library leaves its error to whoever asks as another finds that out."""

    def _check_request_limit(self, *arguments: Any, **options: Any) -> None:
        if self._storage_dead:
            metrics.limiter_fallbacks.inc()
        try:
            super()._check_request_limit(*arguments, **options)
        except RedisError:
            self.context.seen_limits.clear()
            self._check_request_limit(*arguments, **options)


limiter = _Limiter(client_network)


def settings() -> Settings:
    """The settings of the running application."""
    return cast(Settings, current_app.extensions["settings"])


def redis() -> Redis:
    """The application's Redis client: bounded by a short timeout, never retrying by itself."""
    return cast(Redis, current_app.extensions["redis"])


def queue(name: str = QUEUE) -> Queue:
    """The work queue. Its messages are JSON: a pickled one would run any code, where these name a function of ours."""
    return Queue(name, connection=redis(), serializer=JSONSerializer)


def queue_depth() -> dict[tuple[str, ...], float] | None:
    """Jobs that wait for a worker, by queue; None while Redis is away."""
    try:
        return {(name,): float(queue(name).count) for name in QUEUES}
    except RedisError:
        return None


def autocommit() -> AbstractContextManager[Connection]:
    """A connection apart from the request's session, on which each statement is a transaction: one round trip."""
    return db.engines[AUTOCOMMIT].connect()


def enqueue(
    job: Callable[..., Any] | str,
    *ids: str,
    job_id: str | None = None,
    queue_name: str = QUEUE,
    timeout: int = JOB_SECONDS,
) -> bool:
    """Hand a job to the workers, naming what it works on by ids alone; False when Redis is away.

    The description is fixed because RQ's default quotes the arguments, and logs them.
    """
    name = job if isinstance(job, str) else job.__name__
    try:
        queue(queue_name).enqueue_call(
            cast(Any, job),
            args=ids,
            job_id=job_id,
            description=name,
            timeout=timeout,
            result_ttl=0,
            failure_ttl=3600,
        )
    except RedisError as error:
        log.warning("job_not_enqueued", job=name, error=type(error).__name__)
        return False
    return True


def init_app(app: Flask) -> None:
    """Bind every extension to the application."""
    config: Settings = app.extensions["settings"]
    app.extensions["redis"] = Redis.from_url(
        config.redis_url,
        socket_timeout=config.redis_timeout_seconds,
        socket_connect_timeout=config.redis_timeout_seconds,
        retry=Retry(NoBackoff(), 0),
    )
    # Its hooks on every request serve limits for all routes; ours are on views, which check for themselves.
    app.extensions["limiter"] = {limiter}
    for extension in (db, migrate, jwt, limiter):
        extension.init_app(app)


def is_disconnect(error: BaseException) -> bool:
    """Whether a database error says that the server is away, rather than that the work is wrong.

    SQLSTATE class 57P is "operator intervention" (shutting down, starting up); no SQLSTATE at all means
    that no server answered (PostgreSQL manual, appendix A).
    """
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "pgcode", None)
    return error.connection_invalidated or (
        isinstance(error, OperationalError) and (state is None or state.startswith(("08", "57P")))
    )


def is_overload(error: BaseException) -> bool:
    """Whether the database is there and too slow: no connection came free, or a statement took too long."""
    return isinstance(error, PoolTimeoutError) or (
        isinstance(error, DBAPIError) and getattr(error.orig, "pgcode", None) == QUERY_CANCELED
    )


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed when it is done again: the server was away, or ended a deadlock."""
    return is_disconnect(error) or (isinstance(error, DBAPIError) and getattr(error.orig, "pgcode", None) in CONFLICTS)


def outlive_disconnect(seconds: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work that may safely run twice; for so many seconds, do it again where it failed for a passing reason."""
    try:
        return work(*args, **kwargs)  # nearly always the only attempt: it costs nothing more
    except DBAPIError as error:
        if not is_transient(error):
            raise
    return _until_back(seconds)(work, *args, **kwargs)


@functools.cache
def _until_back(seconds: float) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        wait=tenacity.wait_exponential_jitter(multiplier=0.02, max=0.5, jitter=0.05),
        stop=tenacity.stop_after_delay(seconds),
        reraise=True,
    )


def unit_of_work(service: Callable[P, T]) -> Callable[P, T]:
    """Run a service as one transaction: commit at its end, roll back when it raises.

    A lost connection starts it again for `database_retry_seconds`, and the answer to a commit may be what was
    lost. So a unit of work must be idempotent: its caller chooses the keys of the rows that it makes.
    """

    @functools.wraps(service)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return outlive_disconnect(settings().database_retry_seconds, attempt, *args, **kwargs)

    def attempt(*args: Any, **kwargs: Any) -> T:
        try:
            result = service(*args, **kwargs)
            db.session.commit()
        except BaseException:
            db.session.rollback()
            raise
        return result

    return run
