"""/audit: the audit log, for administrators."""

from typing import Any

from flask import Blueprint, Flask, g

from sentiment_app.audit import schemas, service
from sentiment_app.audit.service import ACTOR, Actor
from sentiment_app.web import rate_limits
from sentiment_app.web.operation import operation
from sentiment_app.web.schemas import paged

blueprint = Blueprint("audit", __name__, url_prefix="/audit")


@blueprint.get("")
@operation(
    scopes=("admin",), access="administrator", query=schemas.AuditQuerySchema(), returns=schemas.AuditPageSchema()
)
def index(query: dict[str, Any]) -> dict[str, Any]:
    """List the audit log, newest first."""
    return paged(service.page, query)


def init_app(app: Flask) -> None:
    """Tell the audit log who sends each request. This must run after the guard has identified the caller."""
    app.before_request(_set_actor)
    app.teardown_request(_forget_actor)


def _set_actor() -> None:
    user_id = g.principal.user_id if "principal" in g else None
    ACTOR.set(Actor(user_id, None, rate_limits.network()))


def _forget_actor(_error: BaseException | None) -> None:
    ACTOR.set(None)
