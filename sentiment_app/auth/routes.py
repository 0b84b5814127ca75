"""/auth: register, log in, refresh and log out; and /protected/test to try a token."""

from typing import Any

from flask import Blueprint

from sentiment_app.auth import schemas, service, tokens
from sentiment_app.users import service as users
from sentiment_app.users import sessions
from sentiment_app.users.models import User
from sentiment_app.users.schemas import RegisterSchema, UserSchema
from sentiment_app.web.guard import caller
from sentiment_app.web.operation import operation

blueprint = Blueprint("auth", __name__)


@blueprint.post("/auth/register")
@operation(
    access="public",
    rates=("auth",),
    body=RegisterSchema(),
    status=201,
    returns=UserSchema(),
    errors=(409,),
)
def register(body: dict[str, Any]) -> User:
    """Create an account."""
    return users.register(**body)


@blueprint.post("/auth/login")
@operation(
    access="public",
    rates=("auth", "login"),
    body=schemas.LoginSchema(),
    form=schemas.LoginFormSchema(),
    returns=schemas.TokenPairSchema(),
    errors=(401,),
)
def login(body: dict[str, Any]) -> tokens.TokenPair:
    """Sign in with username and password.

    Accepts JSON, or the form that OAuth 2.0 password clients send.
    """
    return tokens.issue(service.sign_in(body["username"], body["password"]))


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
    return tokens.issue(sessions.refresh(**tokens.read_refresh(body["refresh_token"])))


@blueprint.post("/auth/logout")
@operation(status=204)
def logout() -> None:
    """End the session: its access tokens and its refresh token stop working."""
    sessions.end(caller().credential_id, sessions.Reason.LOGOUT)


@blueprint.get("/protected/test")
@operation(scopes=("score", "tasks", "read", "models", "admin"), returns=schemas.WhoSchema())
def who() -> dict[str, Any]:
    """Get the user that the token belongs to."""
    user = users.get(caller().user_id)
    return {"user_id": user.id, "username": user.username, "message": f"Hello, {user.username}."}
