"""/auth: register, log in, refresh and log out; and /protected/test to try a token."""

from typing import Any
from uuid import UUID

from flask import Blueprint, request

from sentiment_app.auth import schemas, service, throttle, tokens
from sentiment_app.users import administration, sessions
from sentiment_app.users import service as users
from sentiment_app.users.models import User
from sentiment_app.users.schemas import SessionListSchema, SignUpSchema, UserSchema
from sentiment_app.web import rate_limits
from sentiment_app.web.guard import caller
from sentiment_app.web.operation import SCOPES, operation

blueprint = Blueprint("auth", __name__)


@blueprint.post("/auth/register")
@operation(
    access="public",
    rates=("auth",),
    body=SignUpSchema(),
    status=201,
    returns=UserSchema(),
    errors=(403, 409),
)
def register(body: dict[str, Any]) -> User:
    """Create an account, if the service accepts new accounts."""
    return users.sign_up(**body)


@blueprint.post("/auth/password-reset")
@operation(access="public", rates=("auth",), body=schemas.PasswordResetSchema(), status=204, errors=(403,))
def reset_password(body: dict[str, Any]) -> None:
    """Set a new password with a token of an administrator. All sessions of the account end."""
    administration.finish_password_reset(body["token"], body["password"])


@blueprint.post("/auth/login")
@operation(
    access="public",
    rates=("auth",),
    body=schemas.LoginSchema(),
    form=schemas.TokenFormSchema(),
    returns=schemas.TokenPairSchema(),
    errors=(401,),
)
def login(body: dict[str, Any]) -> tokens.TokenPair:
    """Sign in with username and password.

    Accepts JSON, or the form of OAuth 2.0 with the grants `password` and `refresh_token`; then errors also have the
    members `error` and `error_description`. Failed attempts are limited by account and network.
    """
    if body.get("grant_type") == "refresh_token":
        return tokens.issue(lambda: sessions.refresh(**tokens.read_refresh(body["refresh_token"])))
    with throttle.limit_failures(body["username"]):
        return tokens.issue(lambda: service.sign_in(body["username"], body["password"], _origin()))


@blueprint.post("/auth/refresh")
@operation(
    access="public",
    rates=("auth",),
    body=schemas.RefreshSchema(),
    returns=schemas.TokenPairSchema(),
    errors=(401,),
)
def refresh(body: dict[str, Any]) -> tokens.TokenPair:
    """Exchange a refresh token for new tokens.

    A refresh token can be used once. If it is used twice, it may have been stolen, so the session ends.
    """
    return tokens.issue(lambda: sessions.refresh(**tokens.read_refresh(body["refresh_token"])))


@blueprint.post("/auth/logout")
@operation(status=204)
def logout() -> None:
    """End the session: its access tokens and its refresh token stop working."""
    sessions.end(caller().credential_id, sessions.Reason.LOGOUT)


@blueprint.get("/auth/sessions")
@operation(returns=SessionListSchema())
def list_sessions() -> dict[str, Any]:
    """List your sessions, newest first."""
    found = sessions.list_live(caller().user_id)
    return {"items": [{**vars(session), "is_current": session.id == caller().credential_id} for session in found]}


@blueprint.delete("/auth/sessions")
@operation(status=204)
def end_other_sessions() -> None:
    """End all of your sessions except this session."""
    sessions.end_others(caller().user_id, caller().credential_id)


@blueprint.delete("/auth/sessions/<uuid:session_id>")
@operation(status=204)
def end_session(session_id: UUID) -> None:
    """End a session: its access tokens and its refresh token stop working."""
    sessions.end_own(caller().user_id, session_id)


@blueprint.get("/protected/test")
@operation(scopes=tuple(SCOPES), returns=schemas.WhoSchema())
def who() -> dict[str, Any]:
    """Get the user that the token belongs to."""
    user = users.get(caller().user_id)
    return {"user_id": user.id, "username": user.username, "message": f"Hello, {user.username}."}


def _origin() -> sessions.Origin:
    return sessions.Origin(rate_limits.network(), request.headers.get("User-Agent", ""))
