"""Pages about models: the list, a model with its measures, and the switch to another model."""

from typing import Any

from flask import Response

from sentiment_app.console import charts
from sentiment_app.console.pages import blueprint, go_to, page, render
from sentiment_app.registry import cards, promotion, releases
from sentiment_app.registry.schemas import ActivationQuerySchema
from sentiment_app.users import service as users
from sentiment_app.web.guard import caller
from sentiment_app.web.schemas import Schema, Text


class DoneQuerySchema(Schema):
    """What was just done."""

    done = Text(load_default=None)


@blueprint.get("/models")
@page(query=DoneQuerySchema())
def models(query: dict[str, Any]) -> Response:
    """The list of models."""
    found = [(release, releases.manifest_of(release.version)) for release in releases.releases()]
    return render("models.html", releases=found, events=releases.events(limit=20), names=_names(), done=query["done"])


@blueprint.get("/models/<name:version>")
@page()
def model(version: str) -> Response:
    """A model: its measures, its training data, and what happened to it."""
    release, manifest = releases.get(version), releases.manifest_of(version)
    bins = manifest["metrics"].get("reliability", [])
    return render(
        "model.html",
        release=release,
        manifest=manifest,
        reliability=charts.curve([(part["confidence"], part["accuracy"]) for part in bins]),
        events=releases.events(version),
        names=_names(),
        active=releases.active_version(),
        comparisons=promotion.compare(version),
    )


@blueprint.post("/models/<name:version>/activate")
@page(access="administrator", form=ActivationQuerySchema())
def activate_model(version: str, form: dict[str, Any]) -> Response:
    """Activate a model, if it passes the promotion check."""
    promotion.activate(version, by=str(caller().user_id), **form)
    return go_to("models", done="activated")


@blueprint.post("/models/rollback")
@page(access="administrator")
def roll_back() -> Response:
    """Activate the previous model."""
    promotion.rollback(by=str(caller().user_id))
    return go_to("models", done="rolled-back")


@blueprint.get("/models/<name:version>/card")
@page()
def model_card(version: str) -> Response:
    """The model card."""
    return cards.page(releases.manifest_of(version))


def _names() -> dict[str, str]:
    """The name of the caller, by id, for the log of events."""
    user = users.get(caller().user_id)
    return {str(user.id): user.username}
