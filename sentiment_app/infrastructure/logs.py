"""JSON logs on stderr: a line for each request with its id, user and route, and never its text, token or password."""

import functools
import json
import logging
import logging.config
import re
import sys
import time
from typing import Any

import orjson
import structlog
import uuid_utils.compat as uuid
from flask import Flask, Response, g, request

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

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
