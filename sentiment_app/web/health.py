"""Health, version and metrics of a process, for systemd, load balancers, Prometheus and people."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from alembic.script import ScriptDirectory
from flask import Blueprint, Flask, Response, request
from marshmallow import fields
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import Executable, select, text
from sqlalchemy.exc import SQLAlchemyError

from sentiment_app import __version__
from sentiment_app.errors import NotFoundError, UnavailableError
from sentiment_app.infrastructure import metrics
from sentiment_app.infrastructure.app_state import AppKey, settings
from sentiment_app.infrastructure.database import MIGRATIONS, RESOURCE_ERRORS, db, retry_on_disconnect
from sentiment_app.infrastructure.queue import redis
from sentiment_app.web.operation import operation
from sentiment_app.web.problems import problem
from sentiment_app.web.schemas import Schema

REQUIRED = {"database", "migrations", "model"}
RETRY_SECONDS = 0.2
# The check of Redis writes this key, because a server whose disk or memory is full still answers a ping.
PROBE_KEY, PROBE_SECONDS = "readiness-probe", 60

# Says what is wrong, without secrets; None if nothing is wrong.
Check = Callable[[], str | None]


@dataclass(frozen=True)
class Health:
    """The checks of /readyz by name, and the version of the model that this process serves."""

    checks: dict[str, Check]
    model_version: Check


HEALTH = AppKey[Health]("health")

blueprint = Blueprint("health", __name__)


class LiveSchema(Schema):
    """The process is alive."""

    status = fields.String(required=True, metadata={"enum": ["ok"]})


class ReadySchema(Schema):
    """The state of every dependency. "degraded" means that only checks that are not required fail."""

    status = fields.String(required=True, metadata={"enum": ["ok", "degraded"]})
    checks = fields.Dict(fields.String(), fields.String(), required=True)


class VersionSchema(Schema):
    """The running release and model."""

    version = fields.String(required=True)
    release = fields.String(required=True, metadata={"description": "The deployed git revision"})
    model_version = fields.String(required=True, allow_none=True)


def init_app(app: Flask, *, model: Check, switch: Check, model_version: Check) -> None:
    """Give the views what only the composition root knows.

    Args:
        app: the application.
        model: checks that a model is served.
        switch: checks that the active model is served, rather than the model before it.
        model_version: the version that is served.
    """
    scripts = ScriptDirectory(str(MIGRATIONS))
    revisions = [script.revision for script in scripts.walk_revisions()]  # newest first
    checks: dict[str, Check] = {
        "database": _database,
        "database_resources": _database_resources,
        "migrations": partial(_migrations, revisions),
        "model": model,
        "model_switch": switch,
        "redis": _redis,
    }
    HEALTH.set(app, Health(checks, model_version))
    app.register_blueprint(blueprint)


@blueprint.get("/livez")
@operation(access="public", rates=(), returns=LiveSchema())
def live() -> dict[str, Any]:
    """Liveness: this process answers."""
    return {"status": "ok"}


@blueprint.get("/readyz")
@blueprint.get("/health", endpoint="health")
@operation(access="public", rates=(), returns=ReadySchema(), errors=(503,))
def ready() -> dict[str, Any] | Response:
    """Readiness: this process can serve requests.

    A 503 names the checks that fail: the database, its migrations or the model. The status is "degraded" without Redis,
    with the previous model because the active model does not load, or if the database lacked disk space, memory or
    connections within the last minute.
    """
    found = {name: check() for name, check in HEALTH.get().checks.items()}
    checks = {name: wrong or "ok" for name, wrong in found.items()}
    failing = [name for name, wrong in found.items() if wrong and name in REQUIRED]
    if failing:
        detail = f"This process is not ready. Failing checks: {', '.join(failing)}."
        answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, "not-ready", checks=checks)
        answer.headers["Retry-After"] = str(UnavailableError.retry_after_seconds)
        return answer
    return {"status": "degraded" if any(found.values()) else "ok", "checks": checks}


@blueprint.get("/version")
@operation(access="public", rates=(), returns=VersionSchema())
def version() -> dict[str, Any]:
    """The running release and model."""
    return {
        "version": __version__,
        "release": settings().release,
        "model_version": HEALTH.get().model_version(),
    }


@blueprint.get("/metrics")
@operation(access="public", rates=(), documented=False)
def scrape() -> Response:
    """Metrics for Prometheus, at the internal address (METRICS_BIND). Any other address answers 404."""
    if _listening_port() != settings().metrics_bind.rpartition(":")[2]:
        raise NotFoundError
    return metrics.exposition()


def _listening_port() -> str | None:
    """The port, or the path, of the socket that accepted the request. A client can send any Host header."""
    socket = request.environ.get("gunicorn.socket")
    name = socket and socket.getsockname()
    return str(name[1]) if isinstance(name, tuple) else name


def _query(statement: Executable) -> Any:
    """The database's answer. Retried, because a restart of the server leaves dead connections in the pool."""

    def query() -> Any:
        try:
            return db.session.scalar(statement)
        except SQLAlchemyError:
            db.session.rollback()
            raise

    return retry_on_disconnect(RETRY_SECONDS, query)


def _database() -> str | None:
    try:
        _query(select(1))
    except SQLAlchemyError:
        return "does not answer"
    return None


def _database_resources() -> str | None:
    if RESOURCE_ERRORS.get().are_recent():
        return "refused a statement within the last minute, because it lacks disk space, memory or connections"
    return None


def _migrations(revisions: Sequence[str]) -> str | None:
    try:
        current = _query(text("SELECT version_num FROM alembic_version"))
    except SQLAlchemyError:
        return "cannot be read"
    # An unknown revision belongs to a newer release. Migrations only add, so this release still works after it.
    is_behind = current is None or current in revisions[1:]
    return f"the database is at revision {current}, and this release needs {revisions[0]}" if is_behind else None


def _redis() -> str | None:
    try:
        redis().set(PROBE_KEY, 1, ex=PROBE_SECONDS)
    except ResponseError:  # MISCONF or OOM
        return "refuses writes, because its disk or memory is full; rates are counted in memory, and tasks wait"
    except RedisError:
        return "does not answer; rates are counted in memory, and tasks wait"
    return None
