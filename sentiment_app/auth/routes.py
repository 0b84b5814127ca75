"""/auth: register, log in, refresh, log out; and /protected/test to try a token on."""

import hashlib
from typing import Any

from flask import Blueprint, request

from sentiment_app.auth import schemas, service, tokens
from sentiment_app.extensions import client_network, limiter, settings
from sentiment_app.guard import caller
from sentiment_app.operation import operation
from sentiment_app.users import service as users
from sentiment_app.users import sessions
from sentiment_app.users.models import User
from sentiment_app.users.schemas import RegisterSchema, UserSchema

blueprint = Blueprint("auth", __name__)


def _account() -> str:
    """The account that a login names, as a digest: guessing one password from many addresses is limited too.

    A login that names none counts for its address.
    """
    try:
        body: Any = request.get_json(silent=True) if request.is_json else request.form
        return hashlib.sha256(body["username"].lower().encode()).hexdigest()
    except Exception:  # noqa: BLE001  # the view refuses it; the limiter would take any error for a failure of Redis
        return client_network()


@blueprint.post("/auth/register")
@operation(
    access="public",
    rate="auth",
    body=RegisterSchema(),
    status=201,
    returns=UserSchema(),
    errors=(409,),
)
def register(body: dict[str, Any]) -> User:
    """Make an account."""
    return users.register(**body)


@blueprint.post("/auth/login")
@limiter.limit(lambda: settings().login_rate_limit, key_func=_account)
@operation(
    access="public",
    rate="auth",
    body=schemas.LoginSchema(),
    form=schemas.LoginFormSchema(),
    returns=schemas.TokenPairSchema(),
    errors=(401,),
)
def login(body: dict[str, Any]) -> tokens.TokenPair:
    """Sign in with username and password.

    Takes JSON, or the form that OAuth 2.0 password clients send. One answer for whatever is wrong.
    """
    return tokens.issue(service.sign_in(body["username"], body["password"]))


@blueprint.post("/auth/refresh")
@operation(
    access="public",
    rate="auth",
    body=schemas.RefreshSchema(),
    returns=schemas.TokenPairSchema(),
    errors=(401,),
)
def refresh(body: dict[str, Any]) -> tokens.TokenPair:
    """Exchange a refresh token for new tokens.

    Each works once. Used twice, it was stolen from somebody, so the whole session ends.
    """
    return tokens.issue(sessions.refresh(**tokens.read_refresh(body["refresh_token"])))


@blueprint.post("/auth/logout")
@operation(status=204)
def logout() -> None:
    """End the session that the token belongs to: its access and refresh tokens stop working."""
    sessions.end(caller().session_id, sessions.Reason.LOGOUT)


@blueprint.get("/protected/test")
@operation(returns=schemas.WhoSchema())
def who() -> dict[str, Any]:
    """Say who the token belongs to."""
    user = users.get(caller().user_id)
    return {"user_id": user.id, "username": user.username, "message": f"Hello, {user.username}."}
