"""/users/me/usage and /users/{id}/usage: rows by day, API key and model, and the quotas."""

from typing import Any
from uuid import UUID

from flask import Blueprint

from sentiment_app.usage import quotas, schemas, service
from sentiment_app.users import service as users
from sentiment_app.web.guard import caller
from sentiment_app.web.operation import operation

blueprint = Blueprint("usage", __name__, url_prefix="/users")


@blueprint.get("/me/usage")
@operation(scopes=("read",), query=schemas.UsageQuerySchema(), returns=schemas.UsageSchema())
def mine(query: dict[str, Any]) -> dict[str, Any]:
    """Get how many rows you have scored, by day, API key and model, and your quotas.

    With an API key, the quotas of the key are included.
    """
    return _describe(caller().user_id, caller().key_id, query)


@blueprint.get("/<uuid:user_id>/usage")
@operation(scopes=("admin",), access="administrator", query=schemas.UsageQuerySchema(), returns=schemas.UsageSchema())
def of_user(user_id: UUID, query: dict[str, Any]) -> dict[str, Any]:
    """Get how many rows an account has scored, by day, API key and model, and its quotas."""
    return _describe(users.get(user_id).id, None, query)


def _describe(user_id: UUID, key_id: UUID | None, query: dict[str, Any]) -> dict[str, Any]:
    items = service.list_daily(user_id, **query)
    used = [
        {
            **use.quota._asdict(),
            "api_key_id": None if use.quota.subject_id == user_id else use.quota.subject_id,
            "used": use.used,
            "resets_at": use.resets_at,
        }
        for use in quotas.list_used(user_id, key_id)
    ]
    return {"items": items, "total_rows": sum(item.rows for item in items), "quotas": used}
