"""JSON logs on stderr: a line for each request with its id, user and route, and never its text, token or password."""

import functools
import json
import logging
import logging.config
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import orjson
import structlog
import uuid_utils.compat as uuid
from flask import Flask, Response, g, request

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# What a job takes over from the request that caused it. For traceparent, see W3C Trace Context.
ORIGIN = {"request_id": REQUEST_ID, "traceparent": re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")}

log = structlog.get_logger("access")


def _to_json(line: Any, **_: Any) -> str:
    try:
        return orjson.dumps(line, default=repr).decode()
    except orjson.JSONEncodeError:  # a lone surrogate, which UTF-8 cannot encode
        return json.dumps(line, separators=(",", ":"), default=repr)


_shared: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def dict_config(level: str) -> dict[str, Any]:
    """Standard library logging (gunicorn, alembic, rq) in the same JSON lines, for `logging.config`."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*_shared, structlog.stdlib.add_logger_name],
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.format_exc_info,
                    structlog.processors.JSONRenderer(_to_json),
                ],
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "gunicorn.error": {"level": level, "propagate": True, "handlers": []},
            "alembic.runtime.plugins": {"level": "WARNING"},
            "urllib3": {"level": "ERROR"},  # at lower levels it logs the URLs of webhooks
        },
    }


def configure(level: str) -> None:
    """Write the log lines of the application and of every library to stderr as JSON."""
    logging.config.dictConfig(dict_config(level))
    structlog.configure(
        processors=[
            *_shared,
            structlog.processors.JSONRenderer(_to_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def origin() -> dict[str, str]:
    """The ids of the current request, or of the request that caused the current job, for the jobs that it enqueues."""
    return {name: value for name, value in structlog.contextvars.get_contextvars().items() if name in ORIGIN}


@contextmanager
def job_context(origin: Any, **ids: str) -> Iterator[None]:
    """Add ids, and the ids of the request that caused a job, to all log lines of the job.

    Whoever can write to Redis chooses `origin`, so it is checked.
    """
    given = origin if isinstance(origin, dict) else {}
    known = {name: given.get(name) for name in ORIGIN}
    valid = {name: id_ for name, id_ in known.items() if isinstance(id_, str) and ORIGIN[name].fullmatch(id_)}
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**ids, **valid)
    try:
        yield
    finally:
        structlog.contextvars.clear_contextvars()


def bind_task(task_id: UUID) -> None:
    """Add the id of a task to all further log lines of the current request or job."""
    structlog.contextvars.bind_contextvars(task_id=str(task_id))


def init_app(app: Flask) -> None:
    """Give each request an id, and write a log line when it is answered."""
    app.before_request(_start)
    app.after_request(functools.partial(_finish, log.bind()))
    app.teardown_request(lambda _: structlog.contextvars.clear_contextvars())


def _start() -> None:
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else str(uuid.uuid7())
    g.started = time.perf_counter()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)
    if task_id := (request.view_args or {}).get("task_id"):
        bind_task(task_id)


def _finish(access: Any, response: Response) -> Response:
    response.headers.add("X-Request-ID", g.request_id)
    access.info(
        "request",
        user_id=str(g.principal.user_id) if "principal" in g else None,
        method=request.method,
        route=str(request.url_rule or "unmatched"),
        status=response.status_code,
        duration_ms=round((time.perf_counter() - g.started) * 1000, 3),
    )
    return response
