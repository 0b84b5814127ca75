"""/sentiment: score a text; the caller's own history."""

from functools import partial
from typing import Any
from uuid import UUID

from flask import Blueprint

from sentiment_app.guard import caller
from sentiment_app.openapi import operation
from sentiment_app.schema import paged
from sentiment_app.sentiment import schemas, service
from sentiment_app.sentiment.models import SentimentRequest

blueprint = Blueprint("sentiment", __name__, url_prefix="/sentiment")


@blueprint.post("/analyze")
@operation(rate="scoring", body=schemas.AnalyzeSchema(), returns=schemas.AnalysisSchema())
def analyze(body: dict[str, Any]) -> service.Analysis:
    """Score a text.

    The answer is in your history before you have it. Texts are refused, never cut, above 20 000 characters.
    """
    return service.analyze(caller().user_id, **body)


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
