"""/users: one's own profile, and administrators' view of all accounts."""

from typing import Any
from uuid import UUID

from flask import Blueprint

from sentiment_app.extensions import limiter, settings
from sentiment_app.guard import caller
from sentiment_app.operation import operation
from sentiment_app.schema import PageQuerySchema, paged
from sentiment_app.users import schemas, service
from sentiment_app.users.models import User

blueprint = Blueprint("users", __name__, url_prefix="/users")


@blueprint.get("/me")
@operation(returns=schemas.UserSchema())
def me() -> User:
    """Your own profile."""
    return service.get(caller().user_id)


@blueprint.patch("/me")
@limiter.limit(lambda: settings().login_rate_limit, key_func=lambda: str(caller().user_id))
@operation(body=schemas.ProfileChangeSchema(), returns=schemas.UserSchema(), errors=(403, 409))
def change_me(body: dict[str, Any]) -> User:
    """Change your profile.

    A new password needs the current one, which may be guessed as often as at a login, and ends your other sessions.
    """
    return service.change_profile(*caller(), body)


@blueprint.get("")
@operation(access="administrator", query=PageQuerySchema(), returns=schemas.UserPageSchema())
def index(query: dict[str, Any]) -> dict[str, Any]:
    """All accounts, in the order in which they registered."""
    return paged(service.page, query)


@blueprint.get("/<uuid:user_id>")
@operation(access="administrator", returns=schemas.UserSchema())
def show(user_id: UUID) -> User:
    """One account."""
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

    Deactivating ends its sessions at once: its tokens are refused from the next request on.
    """
    return service.set_active(user_id, body["is_active"], by=caller().user_id)
