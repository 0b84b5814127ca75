"""The work queue: RQ on Redis. Jobs contain only ids; the work itself is in PostgreSQL."""

from collections.abc import Callable
from typing import Any, cast

import structlog
from flask import Flask
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from sentiment_app.infrastructure.app_state import SETTINGS, AppKey
from sentiment_app.infrastructure.circuit_breaker import CircuitBreaker
from sentiment_app.infrastructure.logs import origin

TASKS_QUEUE, WEBHOOKS_QUEUE = "default", "webhooks"
QUEUES = (TASKS_QUEUE, WEBHOOKS_QUEUE)
# The timeout of a job. A chunk takes a second or two, and its lease expires long before this timeout.
JOB_SECONDS = 600
# How long RQ keeps the record of a job that failed.
FAILED_JOB_SECONDS = 3600

# While Redis does not answer, requests use their fallbacks, and ask Redis again once in this time.
REDIS_PAUSE_SECONDS = 1.0

REDIS = AppKey[Redis]("redis")
REDIS_BREAKER = AppKey[CircuitBreaker]("redis_breaker")

log = structlog.get_logger()


def init_app(app: Flask) -> None:
    """Give the application its Redis client. Its timeout is short, and it never retries by itself."""
    settings = SETTINGS.get(app)
    client = Redis.from_url(
        settings.redis_url,
        socket_timeout=settings.redis_timeout_seconds,
        socket_connect_timeout=settings.redis_timeout_seconds,
        retry=Retry(NoBackoff(), 0),
    )
    REDIS.set(app, client)
    REDIS_BREAKER.set(app, CircuitBreaker("redis", REDIS_PAUSE_SECONDS))


def redis() -> Redis:
    """The Redis client of the current application."""
    return REDIS.get()


def queue(name: str = TASKS_QUEUE) -> Queue:
    """A queue by its name. Its messages are JSON. RQ's default, pickle, would run code from a message."""
    return Queue(name, connection=redis(), serializer=JSONSerializer)


def is_available() -> bool:
    """Whether Redis answers."""
    try:
        redis().ping()
    except RedisError:
        return False
    return True


def count_jobs() -> dict[tuple[str, ...], float] | None:
    """Waiting jobs by queue; None while Redis does not answer."""
    try:
        return {(name,): float(queue(name).count) for name in QUEUES}
    except RedisError:
        return None


def enqueue(
    job: Callable[..., Any] | str,
    *ids: str,
    job_id: str | None = None,
    queue_name: str = TASKS_QUEUE,
    timeout: int = JOB_SECONDS,
) -> bool:
    """Enqueue a job with the ids that it works on. Returns False if Redis does not answer.

    The job also gets the ids of the request that caused it, for the log. The description is fixed because RQ's default
    description quotes the arguments, and RQ logs it.
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
            failure_ttl=FAILED_JOB_SECONDS,
            meta=origin(),
        )
    except RedisError as error:
        log.warning("job_not_enqueued", job=name, error=type(error).__name__)
        return False
    return True
