"""/users: the caller's own profile, and all accounts for administrators."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import Blueprint

from sentiment_app.users import administration, api_keys, one_time_tokens, schemas, service, sessions
from sentiment_app.users.models import User
from sentiment_app.users.one_time_tokens import Purpose
from sentiment_app.web.guard import caller
from sentiment_app.web.operation import operation
from sentiment_app.web.schemas import PageQuerySchema, paged

blueprint = Blueprint("users", __name__, url_prefix="/users")


@blueprint.get("/me")
@operation(scopes=("read",), returns=schemas.UserSchema())
def me() -> User:
    """Get your profile."""
    return service.get(caller().user_id)


@blueprint.patch("/me")
@operation(
    rates=("user", "profile"), body=schemas.ProfileChangeSchema(), returns=schemas.UserSchema(), errors=(403, 409)
)
def change_me(body: dict[str, Any]) -> User:
    """Change your profile.

    Every change requires `current_password`. A new password ends your other sessions. Your former username stays
    reserved for you.
    """
    return service.change_profile(caller().user_id, caller().credential_id, body)


@blueprint.get("/me/api-keys")
@operation(returns=schemas.ApiKeyListSchema())
def api_keys_index() -> dict[str, Any]:
    """List your API keys, newest first, with the keys that ended in the last 90 days."""
    return {"items": api_keys.list_keys(caller().user_id)}


@blueprint.post("/me/api-keys")
@operation(
    rates=("user", "profile"),
    body=schemas.ApiKeyGrantSchema(),
    status=201,
    returns=schemas.NewApiKeySchema(),
    errors=(403, 409),
)
def create_api_key(body: dict[str, Any]) -> dict[str, Any]:
    """Create an API key for a program.

    The response is the only place where the key can be read. Send it in the Authorization header, as a bearer token.
    """
    password = body.pop("current_password")
    return _show_key(service.create_api_key(caller().user_id, password, schemas.to_grant(body)))


@blueprint.post("/me/api-keys/<uuid:key_id>/rotate")
@operation(
    rates=("user", "profile"),
    body=schemas.RotationSchema(),
    status=201,
    returns=schemas.NewApiKeySchema(),
    errors=(403, 409),
)
def rotate_api_key(key_id: UUID, body: dict[str, Any]) -> dict[str, Any]:
    """Replace an API key. The old key stays valid for a while, so that programs can change over."""
    return _show_key(service.rotate_api_key(caller().user_id, key_id, **body))


@blueprint.delete("/me/api-keys/<uuid:key_id>")
@operation(status=204)
def revoke_api_key(key_id: UUID) -> None:
    """Revoke an API key. It is refused from the next request on."""
    api_keys.revoke(caller().user_id, key_id)


def _show_key(made: api_keys.NewKey) -> dict[str, Any]:
    return {**{name: getattr(made.record, name) for name in schemas.ApiKeySchema().fields}, "key": made.key}


@blueprint.get("")
@operation(scopes=("admin",), access="administrator", query=PageQuerySchema(), returns=schemas.UserPageSchema())
def index(query: dict[str, Any]) -> dict[str, Any]:
    """List all accounts in the order of their registration."""
    return paged(service.page, query)


@blueprint.get("/<uuid:user_id>")
@operation(scopes=("admin",), access="administrator", returns=schemas.UserSchema())
def show(user_id: UUID) -> User:
    """Get an account."""
    return service.get(user_id)


@blueprint.patch("/<uuid:user_id>")
@operation(
    scopes=("admin",),
    access="administrator",
    body=schemas.UserChangeSchema(),
    returns=schemas.UserSchema(),
    errors=(409,),
)
def change(user_id: UUID, body: dict[str, Any]) -> User:
    """Activate or deactivate an account, or change whether it is an administrator.

    Deactivation ends its sessions at once: its tokens are refused from the next request on.
    """
    return administration.administer(user_id, body, by=caller().user_id)


@blueprint.post("/<uuid:user_id>/password-reset")
@operation(
    access="administrator",
    body=schemas.ResetStartSchema(),
    status=201,
    returns=schemas.OneTimeTokenSchema(),
    errors=(409,),
)
def reset_password(user_id: UUID, body: dict[str, Any]) -> dict[str, Any]:
    """Make a token with which a user sets a new password once, at `/auth/password-reset`."""
    life = timedelta(hours=body["expires_in_hours"])
    return _show_token(administration.start_password_reset(user_id, life, by=caller().user_id))


@blueprint.get("/<uuid:user_id>/sessions")
@operation(scopes=("admin",), access="administrator", returns=schemas.SessionListSchema())
def list_sessions(user_id: UUID) -> dict[str, Any]:
    """List the sessions of an account, newest first."""
    found = sessions.list_live(service.get(user_id).id)
    return {"items": [{**vars(session), "is_current": session.id == caller().credential_id} for session in found]}


@blueprint.delete("/<uuid:user_id>/sessions")
@operation(scopes=("admin",), access="administrator", status=204)
def end_sessions(user_id: UUID) -> None:
    """End all sessions of an account."""
    sessions.end_all(service.get(user_id).id)


@blueprint.post("/invitations")
@operation(
    scopes=("admin",),
    access="administrator",
    body=schemas.InvitationSchema(),
    status=201,
    returns=schemas.OneTimeTokenSchema(),
)
def invite(body: dict[str, Any]) -> dict[str, Any]:
    """Make an invitation, with which somebody can register once."""
    life = timedelta(days=body["expires_in_days"])
    return _show_token(one_time_tokens.create(Purpose.INVITATION, None, life))


def _show_token(made: one_time_tokens.NewToken) -> dict[str, Any]:
    return {"token": made.token, "expires_at": made.record.expires_at}
