"""/sentiment/models: the model registry."""

from typing import Any

from flask import Blueprint, Response, request

from sentiment_app.registry import cards, promotion, releases, schemas
from sentiment_app.registry.models import ModelRelease
from sentiment_app.web.guard import caller
from sentiment_app.web.operation import operation

blueprint = Blueprint("models", __name__, url_prefix="/sentiment")


@blueprint.get("/models")
@operation(scopes=("read", "models"), returns=schemas.ModelListSchema())
def models() -> dict[str, Any]:
    """List the released models, newest first."""
    return {"items": releases.releases()}


@blueprint.get("/models/<name:version>")
@operation(scopes=("read", "models"), returns=schemas.ModelRecordSchema())
def model(version: str) -> dict[str, Any]:
    """Get a released model: its state, recipe, training data, metrics and digests."""
    return releases.record(version)


@blueprint.get("/models/<name:version>/card")
@operation(scopes=("read", "models"), media_types=(cards.MARKDOWN, cards.HTML))
def card(version: str) -> Response:
    """Get the model card as Markdown or HTML: intended use, training data, metrics and known limits."""
    return cards.to_response(releases.manifest_of(version), request.accept_mimetypes)


@blueprint.get("/models/<name:version>/events")
@operation(scopes=("models",), access="administrator", returns=schemas.ModelEventListSchema())
def events(version: str) -> dict[str, Any]:
    """List the audit log of a model: who released, activated or retired it, and what was refused."""
    return {"items": releases.events(releases.get(version).version)}


@blueprint.post("/models/<name:version>/activate")
@operation(
    scopes=("models",),
    access="administrator",
    query=schemas.ActivationQuerySchema(),
    returns=schemas.ModelSchema(),
    errors=(409,),
)
def activate(version: str, query: dict[str, Any]) -> ModelRelease:
    """Activate a model.

    The promotion check must pass. All processes switch within seconds, without a restart.
    """
    promotion.activate(version, by=str(caller().user_id), **query)
    return releases.get(version)
