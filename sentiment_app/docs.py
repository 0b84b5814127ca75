"""The OpenAPI document and the pages that show it, from vendored assets: nothing is fetched from elsewhere."""

from typing import Any, cast

from flask import Blueprint, Response, current_app, jsonify, redirect, render_template, send_from_directory

from sentiment_app.openapi import document
from sentiment_app.operation import operation

# Both pages style themselves from their scripts; Redoc searches in a worker made from a blob.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

blueprint = Blueprint("docs", __name__, template_folder="templates")


@blueprint.get("/")
@operation(access="public", rate=None, documented=False)
def home() -> Response:
    """To the page for people: who only knows the host's name finds the rest from there."""
    return cast(Response, redirect("/docs"))


@blueprint.get("/openapi.json")
@operation(access="public", rate=None)
def openapi() -> Response:
    """This document."""
    return jsonify(_document())


@blueprint.get("/docs")
@operation(access="public", rate=None, media_types=("text/html",))
def swagger_ui() -> Response:
    """The API as a page to try it on (Swagger UI)."""
    return _page("swagger-ui.html")


@blueprint.get("/redoc")
@operation(access="public", rate=None, media_types=("text/html",))
def redoc() -> Response:
    """The API as a page to read (Redoc)."""
    return _page("redoc.html")


@blueprint.get("/docs/model")
@operation(access="public", rate=None, media_types=("text/html",), errors=(503,))
def model_card() -> Response:
    """The card of the model that is served."""
    page: Response = current_app.extensions["model_card"]()
    return page


@blueprint.get("/docs/assets/<path:name>")
@operation(access="public", rate=None, documented=False)
def asset(name: str) -> Response:
    """A script or style sheet of the pages."""
    return send_from_directory(current_app.root_path + "/static", name, max_age=86_400)


def _page(template: str) -> Response:
    page = Response(render_template(template), mimetype="text/html")
    page.headers["Content-Security-Policy"] = PAGE_POLICY
    return page


def _document() -> dict[str, Any]:
    made: dict[str, Any] = current_app.extensions.setdefault("openapi", {})
    if not made:
        made.update(document(current_app))
    return made
