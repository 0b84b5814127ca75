"""/users: the caller's own profile, and all accounts for administrators."""

from typing import Any
from uuid import UUID

from flask import Blueprint

from sentiment_app.users import schemas, service
from sentiment_app.users.models import User
from sentiment_app.web.guard import caller
from sentiment_app.web.operation import operation
from sentiment_app.web.schemas import PageQuerySchema, paged

blueprint = Blueprint("users", __name__, url_prefix="/users")


@blueprint.get("/me")
@operation(returns=schemas.UserSchema())
def me() -> User:
    """Get your profile."""
    return service.get(caller().user_id)


@blueprint.patch("/me")
@operation(
    rates=("user", "profile"), body=schemas.ProfileChangeSchema(), returns=schemas.UserSchema(), errors=(403, 409)
)
def change_me(body: dict[str, Any]) -> User:
    """Change your profile.

    A new password requires `current_password`, and ends your other sessions.
    """
    return service.change_profile(*caller(), body)


@blueprint.get("")
@operation(access="administrator", query=PageQuerySchema(), returns=schemas.UserPageSchema())
def index(query: dict[str, Any]) -> dict[str, Any]:
    """List all accounts in the order of their registration."""
    return paged(service.page, query)


@blueprint.get("/<uuid:user_id>")
@operation(access="administrator", returns=schemas.UserSchema())
def show(user_id: UUID) -> User:
    """Get an account."""
    return service.get(user_id)


@blueprint.patch("/<uuid:user_id>")
@operation(
    access="administrator",
    body=schemas.UserChangeSchema(),
    returns=schemas.UserSchema(),
    errors=(409,),
)
def change(user_id: UUID, body: dict[str, Any]) -> User:
    """Activate or deactivate an account.

    Deactivation ends its sessions at once: its tokens are refused from the next request on.
    """
    return service.set_active(user_id, body["is_active"], by=caller().user_id)
