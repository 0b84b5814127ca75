"""Is the process alive, can it serve, what is it: for systemd, load balancers and people."""

from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from alembic.script import ScriptDirectory
from flask import Blueprint, Flask, Response, current_app, request
from marshmallow import fields
from redis.exceptions import RedisError
from sqlalchemy import Executable, select, text
from sqlalchemy.exc import SQLAlchemyError

from sentiment_app import __version__, metrics
from sentiment_app.errors import RETRY_AFTER_SECONDS, NotFoundError, problem
from sentiment_app.extensions import db, outlive_disconnect, redis, settings
from sentiment_app.operation import operation
from sentiment_app.schema import Schema

NEEDED = {"database", "migrations", "model"}
AGAIN_SECONDS = 0.2

# What is wrong, in words without secrets; None when all is well.
Check = Callable[[], str | None]

blueprint = Blueprint("health", __name__)


class LiveSchema(Schema):
    """The process answers."""

    status = fields.String(required=True, metadata={"enum": ["ok"]})


class ReadySchema(Schema):
    """What the service stands on; "degraded" says that something is away which it can do without."""

    status = fields.String(required=True, metadata={"enum": ["ok", "degraded"]})
    checks = fields.Dict(fields.String(), fields.String(), required=True)


class VersionSchema(Schema):
    """What runs here."""

    version = fields.String(required=True)
    release = fields.String(required=True, metadata={"description": "The deployed revision"})
    model_version = fields.String(required=True, allow_none=True)


def init_app(app: Flask, *, model: Check, switch: Check, model_version: Check) -> None:
    """Give the views what only the composition root knows: how the model is, and the last switch to another."""
    scripts = ScriptDirectory(app.extensions["migrate"].directory)
    known = [one.revision for one in scripts.walk_revisions()]  # the newest first
    app.extensions["checks"] = {
        "database": _database,
        "migrations": partial(_migrations, known),
        "model": model,
        "model_switch": switch,
        "redis": _redis,
    }
    app.extensions["model_version"] = model_version


@blueprint.get("/livez")
@operation(access="public", rate=None, returns=LiveSchema())
def live() -> dict[str, Any]:
    """Whether this process answers at all."""
    return {"status": "ok"}


@blueprint.get("/readyz")
@blueprint.get("/health", endpoint="health")
@operation(access="public", rate=None, returns=ReadySchema(), errors=(503,))
def ready() -> dict[str, Any] | Response:
    """Whether this process can serve.

    503 names the part that fails: the database, its migrations or the model. Without Redis, or with the model of before
    where the active one does not load, it serves on, degraded.
    """
    found = {name: check() for name, check in current_app.extensions["checks"].items()}
    checks = {name: wrong or "ok" for name, wrong in found.items()}
    failing = [name for name, wrong in found.items() if wrong and name in NEEDED]
    if failing:
        detail = f"Not ready: {', '.join(failing)}."
        answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, "not-ready", checks=checks)
        answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return answer
    return {"status": "degraded" if any(found.values()) else "ok", "checks": checks}


@blueprint.get("/version")
@operation(access="public", rate=None, returns=VersionSchema())
def version() -> dict[str, Any]:
    """What runs here."""
    return {
        "version": __version__,
        "release": settings().release,
        "model_version": current_app.extensions["model_version"](),
    }


@blueprint.get("/metrics")
@operation(access="public", rate=None, documented=False)
def scrape() -> Response:
    """Metrics for Prometheus; there is no such page but on the internal address."""
    if _arrived_at() != settings().metrics_bind.rpartition(":")[2]:
        raise NotFoundError
    return metrics.exposition()


def _arrived_at() -> str | None:
    """The port or path of the socket that took the request: what its Host header says proves nothing."""
    socket = request.environ.get("gunicorn.socket")
    name = socket and socket.getsockname()
    return str(name[1]) if isinstance(name, tuple) else name


def _ask(question: Executable) -> Any:
    """The database's answer; asked again where the restart of a server has left a connection that is dead."""

    def ask() -> Any:
        try:
            return db.session.scalar(question)
        except SQLAlchemyError:
            db.session.rollback()
            raise

    return outlive_disconnect(AGAIN_SECONDS, ask)


def _database() -> str | None:
    try:
        _ask(select(1))
    except SQLAlchemyError:
        return "cannot be reached"
    return None


def _migrations(known: Sequence[str]) -> str | None:
    try:
        current = _ask(text("SELECT version_num FROM alembic_version"))
    except SQLAlchemyError:
        return "cannot be read"
    # One that this code does not know is of a newer release: migrations only add, so that this one can come back.
    is_behind = current is None or current in known[1:]
    return f"at {current}, the code needs {known[0]}" if is_behind else None


def _redis() -> str | None:
    try:
        redis().ping()
    except RedisError:
        return "cannot be reached; rates are counted in memory"
    return None
