"""What all pages of the console share: the blueprint, the decorator of their views, rendering and error pages."""

import functools
import re
from collections.abc import Callable
from typing import Any, cast

from flask import Blueprint, Flask, Response, redirect, render_template, request, send_from_directory, url_for

from sentiment_app import __version__
from sentiment_app.console import forms
from sentiment_app.users import service as users
from sentiment_app.web import cookies
from sentiment_app.web.guard import caller
from sentiment_app.web.operation import View, operation
from sentiment_app.web.schemas import Schema

# No inline scripts and styles, nothing from other hosts. Pico has its icons in data URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PROBLEM = "application/problem+json"
HTML = "text/html"
MAX_FORM_BYTES = 16 * 1024
# A text of 20,000 characters, each of them four bytes, percent-encoded.
MAX_TEXT_FORM_BYTES = 256 * 1024
LOCAL_PATH = re.compile(r"/console(/[A-Za-z0-9_.-]+)*/?(\?[A-Za-z0-9_.=&%+-]*)?")

blueprint = Blueprint("console", __name__, url_prefix="/console", template_folder="templates", static_folder=None)


def page(
    *, form: Schema | None = None, max_form: int = MAX_FORM_BYTES, **fields: Any
) -> Callable[[Callable[..., Any]], View]:
    """Declare a view of the console with the fields of Operation.

    A view of a write gets the fields of its form as the keyword argument `form`, unless it declares `streams`: then it
    reads its body itself, and checks the CSRF token.
    """

    def decorate(view: Callable[..., Any]) -> View:
        @functools.wraps(view)
        def with_form(**arguments: Any) -> Any:
            if request.method not in cookies.SAFE_METHODS and "streams" not in fields:
                read = forms.read(form, max_form)
                if form:
                    arguments["form"] = read
            return view(**arguments)

        return operation(page=True, documented=False, media_types=(HTML,), **fields)(with_form)

    return decorate


def render(template: str, **context: Any) -> Response:
    """A page of the console for the user who is signed in."""
    return _render(template, 200, user=users.get(caller().user_id), **context)


def render_public(template: str, status: int = 200, **context: Any) -> Response:
    """A page of the console that needs no user, and no database."""
    return _render(template, status, user=None, **context)


def _render(template: str, status: int, **context: Any) -> Response:
    cookie = request.cookies.get(cookies.NAME) or None
    is_from_other_site = cookie is None and request.headers.get("Sec-Fetch-Site") == "cross-site"
    is_of_console = request.blueprint == blueprint.name and request.method == "GET"
    if is_from_other_site and is_of_console and status in (200, 401):
        # The link is on a page of another site, so the browser has not sent the cookie. It does after a reload.
        return _protect(Response(render_template("console/reload.html"), status, mimetype=HTML))
    known = cookie or cookies.generate()
    html = render_template(f"console/{template}", csrf_token=cookies.csrf_token(known), version=__version__, **context)
    response = Response(html, status, mimetype=HTML)
    if cookie is None and not is_from_other_site:  # the browser may have a cookie that it has not sent
        cookies.add(response, known)
    return _protect(response)


def _protect(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = POLICY
    # With `no-referrer`, browsers would send `Origin: null` with forms.
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def go_to(endpoint: str, **values: Any) -> Response:
    """Redirect to a page of the console after a form was processed, so that a reload does not send it again."""
    return cast(Response, redirect(url_for(f"console.{endpoint}", **values), 303))


def local_path(path: str | None) -> str:
    """A path of the console that a form may lead to; the first page if the given path is not such a path."""
    return path if path and LOCAL_PATH.fullmatch(path) else url_for("console.score")


@blueprint.get("/assets/<path:name>")
@operation(access="public", rates=(), documented=False)
def asset(name: str) -> Response:
    """A script or a style sheet of the console."""
    return send_from_directory(f"{blueprint.root_path}/static", name, max_age=86_400)


def init_app(app: Flask) -> None:
    """Show errors to browsers as pages."""
    app.after_request(_show_problem)


def _show_problem(response: Response) -> Response:
    """Turn a problem document into a page, if the request was sent by a page or by the address bar of a browser."""
    if response.status_code < 400 or response.mimetype != PROBLEM:
        return response
    # Not by the header Accept: Java's own client prefers HTML.
    if request.blueprint != blueprint.name and request.headers.get("Sec-Fetch-Mode") != "navigate":
        return response
    problem = response.get_json()
    if response.status_code == 401 and request.blueprint == blueprint.name:
        shown = _ask_to_sign_in(problem)
    elif request.endpoint == "console.sign_in" and problem["detail"] == cookies.WrongTokenError.detail:
        # Another tab has opened the form since, with a cookie of its own.
        shown = _show_sign_in(403, "The form was out of date. Send it again.")
    else:
        shown = render_public("error.html", response.status_code, problem=problem)
    for name, value in response.headers:
        if name not in ("Content-Type", "Content-Length") and name not in shown.headers:
            shown.headers[name] = value
    return shown


def _ask_to_sign_in(problem: dict[str, Any]) -> Response:
    """The form to sign in, with what was wrong; or, if a script sent the request, an order to reload the page."""
    if request.headers.get("HX-Request") and request.endpoint != "console.sign_in":
        return Response(status=401, headers={"HX-Refresh": "true"})
    if request.endpoint == "console.sign_in":
        return _show_sign_in(401, problem["detail"])
    here = request.full_path.rstrip("?") if request.method == "GET" else None
    return render_public("sign_in.html", 401, reason=None, target=local_path(here))


def _show_sign_in(status: int, reason: str) -> Response:
    """The form to sign in again, with the given name."""
    target, username = (request.form.get(name, "") for name in ("target", "username"))
    return render_public("sign_in.html", status, reason=reason, target=target, username=username)
