"""Pages to sign in, to register, and to choose a password with a link."""

from typing import Any

from flask import Response, request

from sentiment_app.auth import service, throttle
from sentiment_app.auth.schemas import LoginSchema, PasswordResetSchema
from sentiment_app.console.pages import blueprint, go_to, local_path, page, render_public
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.users import administration, sessions
from sentiment_app.users import service as users
from sentiment_app.users.schemas import SignUpSchema
from sentiment_app.web import cookies, rate_limits
from sentiment_app.web.guard import caller
from sentiment_app.web.schemas import Text


class SignInSchema(LoginSchema):
    """Username and password, and the page to show then."""

    target = Text(load_default="")


@blueprint.get("/sign-in")
@page(access="public", rates=())
def sign_in_form() -> Response:
    """The form to sign in."""
    return render_public("sign_in.html", reason=None, target="", done=request.args.get("done"))


@blueprint.post("/sign-in")
@page(access="public", rates=("auth",), form=SignInSchema())
def sign_in(form: dict[str, Any]) -> Response:
    """Sign in, and show the page that was asked for."""
    return _start_session(form["username"], form["password"], form["target"])


@blueprint.post("/sign-out")
@page()
def sign_out() -> Response:
    """End the session."""
    sessions.end(caller().credential_id, sessions.Reason.LOGOUT)
    response = go_to("sign_in_form", done="signed-out")
    cookies.remove(response)
    return response


@blueprint.get("/register")
@page(access="public", rates=())
def registration_form() -> Response:
    """The form to create an account."""
    return render_public("register.html", mode=settings().registration, invitation=request.args.get("invitation", ""))


@blueprint.post("/register")
@page(access="public", rates=("auth",), form=SignUpSchema())
def register(form: dict[str, Any]) -> Response:
    """Create an account, and sign in."""
    users.sign_up(**form)
    return _start_session(form["username"], form["password"])


@blueprint.get("/password")
@page(access="public", rates=())
def password_form() -> Response:
    """The form to choose a password with a link."""
    return render_public("password.html", token=request.args.get("token", ""))


@blueprint.post("/password")
@page(access="public", rates=("auth",), form=PasswordResetSchema())
def choose_password(form: dict[str, Any]) -> Response:
    """Choose a password with a link, and sign in."""
    user = administration.finish_password_reset(form["token"], form["password"])
    return _start_session(user.username, form["password"])


def _start_session(username: str, password: str, target: str = "") -> Response:
    cookie = cookies.generate()
    origin = sessions.Origin(rate_limits.network(), request.headers.get("User-Agent", ""))
    with throttle.limit_failures(username):
        service.sign_in(username, password, origin, cookie)
    sessions.end_of_cookie(request.cookies.get(cookies.NAME, ""))
    response = go_to("score")
    response.location = local_path(target)
    cookies.add(response, cookie, int(settings().session_life.total_seconds()))
    return response
