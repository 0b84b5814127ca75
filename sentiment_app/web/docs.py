"""The OpenAPI document and the pages that show it. All assets are vendored: the pages load nothing from other hosts."""

from collections.abc import Callable
from typing import Any, cast

from flask import Blueprint, Flask, Response, current_app, jsonify, redirect, render_template, send_from_directory

from sentiment_app.infrastructure.app_state import AppKey
from sentiment_app.web.openapi import document
from sentiment_app.web.operation import operation

# The scripts of both pages add inline styles. Redoc searches in a worker that it makes from a blob.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# Renders the card of the active model.
MODEL_CARD = AppKey[Callable[[], Response]]("model_card")
OPENAPI = AppKey[dict[str, Any]]("openapi")

blueprint = Blueprint("docs", __name__, template_folder="templates")


@blueprint.get("/")
@operation(access="public", rates=(), documented=False)
def home() -> Response:
    """Redirect to the console, for visitors who know only the host's name."""
    return cast(Response, redirect("/console"))


@blueprint.get("/openapi.json")
@operation(access="public", rates=())
def openapi() -> Response:
    """The OpenAPI document of this API."""
    made = OPENAPI.get()
    if not made:  # at the first request, when all routes are registered
        made.update(document(current_app))
    return jsonify(made)


@blueprint.get("/docs")
@operation(access="public", rates=(), documented=False)
def swagger_ui() -> Response:
    """Interactive documentation of the API (Swagger UI)."""
    return _page("swagger-ui.html")


@blueprint.get("/redoc")
@operation(access="public", rates=(), documented=False)
def redoc() -> Response:
    """Reference documentation of the API (Redoc)."""
    return _page("redoc.html")


@blueprint.get("/docs/model")
@operation(access="public", rates=(), documented=False)
def model_card() -> Response:
    """Model card of the active model."""
    return MODEL_CARD.get()()


@blueprint.get("/docs/assets/<path:name>")
@operation(access="public", rates=(), documented=False)
def asset(name: str) -> Response:
    """A script or a style sheet of the documentation pages."""
    return send_from_directory(f"{blueprint.root_path}/static", name, max_age=86_400)


def _page(template: str) -> Response:
    page = Response(render_template(template), mimetype="text/html")
    page.headers["Content-Security-Policy"] = PAGE_POLICY
    return page


def init_app(app: Flask, model_card: Callable[[], Response]) -> None:
    """Give the pages what only the composition root knows: the card of the active model."""
    MODEL_CARD.set(app, model_card)
    OPENAPI.set(app, {})
    app.register_blueprint(blueprint)
