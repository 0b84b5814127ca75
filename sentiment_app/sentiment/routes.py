"""/sentiment: score a text; the caller's own history."""

import re
from functools import partial
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, jsonify, request

from sentiment_app.extensions import settings
from sentiment_app.guard import caller
from sentiment_app.operation import operation
from sentiment_app.schema import paged
from sentiment_app.sentiment import cards, releases, schemas, service
from sentiment_app.sentiment.models import ModelRelease, SentimentRequest
from sentiment_app.users import service as users

blueprint = Blueprint("sentiment", __name__, url_prefix="/sentiment")

# What Nginx calls a request: seconds and milliseconds of its arrival, 128 random bits.
REQUEST_KEY = re.compile(r"([0-9]{1,10})\.([0-9]{3})-([0-9a-f]{32})")


@blueprint.post("/analyze")
@operation(rate="scoring", body=schemas.AnalyzeSchema(), returns=schemas.AnalysisSchema(), errors=(404,))
def analyze(body: dict[str, Any]) -> Response:
    """Score a text.

    The answer is in your history before you have it. Texts are refused, never cut, above 20 000 characters.
    """
    analysis = service.analyze(caller().user_id, _repeated_id(), **body)
    # As its schema dumps it, which takes longer than scoring does.
    answer: dict[str, Any] = {**analysis, "scores": analysis["scores"]._asdict()}
    if "explanation" in analysis:
        answer["explanation"] = schemas.ExplanationSchema().dump(analysis["explanation"])
    return jsonify(answer)


def _repeated_id() -> UUID | None:
    """The id that this request's row has, whichever instance Nginx asks after one that died: so it is stored once.

    Nginx gives each request its key; without a trusted proxy anybody could.
    """
    key = REQUEST_KEY.fullmatch(request.headers.get("X-Request-Key", ""))
    return service.id_made_of(int(key[1] + key[2]), int(key[3], 16)) if key and settings().trusted_proxies else None


@blueprint.get("/history")
@operation(query=schemas.HistoryQuerySchema(), returns=schemas.RequestPageSchema())
def history(query: dict[str, Any]) -> dict[str, Any]:
    """Your scored texts, newest first."""
    return paged(partial(service.history, caller().user_id), query)


@blueprint.get("/history/<uuid:request_id>")
@operation(returns=schemas.RequestSchema())
def show(request_id: UUID) -> SentimentRequest:
    """One of your scored texts."""
    return service.get(caller().user_id, request_id)


@blueprint.delete("/history/<uuid:request_id>")
@operation(status=204)
def forget(request_id: UUID) -> None:
    """Delete one of your scored texts, for good."""
    service.forget(caller().user_id, request_id)


@blueprint.get("/models")
@operation(returns=schemas.ModelListSchema())
def models() -> dict[str, Any]:
    """The released models, newest first."""
    return {"items": releases.releases()}


@blueprint.get("/models/<name:version>")
@operation(returns=schemas.ModelRecordSchema())
def model(version: str) -> dict[str, Any]:
    """A released model: its state, recipe, data, measures, digests."""
    return releases.record(version)


@blueprint.get("/models/<name:version>/card")
@operation(media_types=(cards.MARKDOWN, cards.HTML))
def card(version: str) -> Response:
    """The model card, as Markdown or HTML: what it is for, what it learned from, how good it is, where it fails."""
    return cards.answer(releases.manifest_of(version), request.accept_mimetypes)


@blueprint.get("/models/<name:version>/events")
@operation(access="administrator", returns=schemas.ModelEventListSchema())
def events(version: str) -> dict[str, Any]:
    """The audit of a model: who released, activated or retired it, and what was refused."""
    return {"items": releases.events(releases.get(version).version)}


@blueprint.post("/models/<name:version>/activate")
@operation(
    access="administrator",
    query=schemas.ActivationQuerySchema(),
    returns=schemas.ModelSchema(),
    errors=(409,),
)
def activate(version: str, query: dict[str, Any]) -> ModelRelease:
    """Have every process serve a model, if it passes the gate; no restart is needed."""
    releases.activate(version, by=users.get(caller().user_id).username, **query)
    return releases.get(version)
