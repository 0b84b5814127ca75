"""/sentiment: score a text, and the caller's history."""

import re
import time
from functools import partial
from typing import Any
from uuid import UUID

from flask import Blueprint, Flask, Response, jsonify, request

from sentiment_app.infrastructure.app_state import SETTINGS, settings
from sentiment_app.infrastructure.database import autocommit, transaction
from sentiment_app.sentiment import history, schemas, service
from sentiment_app.sentiment.models import SentimentRequest
from sentiment_app.sentiment.writer import WRITER, GroupWriter, writer
from sentiment_app.usage import quota_headers, quotas
from sentiment_app.web.guard import caller
from sentiment_app.web.operation import operation
from sentiment_app.web.schemas import paged

SMALL_BODY_BYTES = 128 * 1024
# How long one request deletes texts of a history.
DELETE_SECONDS = 10.0
ANSWER_FIELDS = tuple(schemas.AnalysisSchema().fields)

# Room for a text of 20,000 characters, even if each is escaped as a surrogate pair.
MAX_BODY_BYTES = 256 * 1024

blueprint = Blueprint("sentiment", __name__, url_prefix="/sentiment")

# How Nginx identifies a request: the seconds and milliseconds of its arrival, and 128 random bits.
REQUEST_KEY = re.compile(r"([0-9]{1,10})\.([0-9]{3})-([0-9a-f]{32})")


@blueprint.post("/analyze")
@operation(
    scopes=("score",),
    rates=("scoring",),
    body=schemas.AnalyzeSchema(),
    max_body=MAX_BODY_BYTES,
    returns=schemas.AnalysisSchema(),
    errors=(404,),
)
def analyze(body: dict[str, Any]) -> Response:
    """Score a text.

    The result is stored in your history before you receive it, unless `store` is false. Texts of more than 20,000
    characters are refused, not truncated.
    """
    user_id, key_id = caller().user_id, caller().key_id
    analysis = service.analyze(user_id, _row_id(), key_id=key_id, quotas=quotas.of_request(caller()), **body)
    quota_headers.add(analysis["quotas"])
    # This replaces `AnalysisSchema().dump`, which takes longer than scoring.
    answer = {name: analysis[name] for name in ANSWER_FIELDS if name in analysis}
    if "explanation" in analysis:
        answer["explanation"] = schemas.ExplanationSchema().dump(analysis["explanation"])
    return jsonify(answer)


def _row_id() -> UUID | None:
    """The id of this request's row. Nginx repeats a request if an instance dies; with the same id it is stored once.

    Nginx sets the header. Without a trusted proxy, any client could set it.
    """
    key = REQUEST_KEY.fullmatch(request.headers.get("X-Request-Key", ""))
    return history.make_id(int(key[1] + key[2]), int(key[3], 16)) if key and settings().trusted_proxies else None


@blueprint.get("/history")
@operation(scopes=("read",), query=schemas.HistoryQuerySchema(), returns=schemas.RequestPageSchema())
def index(query: dict[str, Any]) -> dict[str, Any]:
    """List your scored texts, newest first."""
    return paged(partial(history.page, caller().user_id), query)


@blueprint.delete("/history")
@operation(returns=schemas.DeletedSchema())
def delete_all() -> dict[str, Any]:
    """Delete your history. If `is_complete` is false, time ran out: send the request again."""
    return history.delete_all(caller().user_id, time.monotonic() + DELETE_SECONDS)._asdict()


@blueprint.get("/history/<uuid:request_id>")
@operation(scopes=("read",), returns=schemas.RequestSchema())
def show(request_id: UUID) -> SentimentRequest:
    """Get one of your scored texts."""
    return history.get(caller().user_id, request_id)


@blueprint.delete("/history/<uuid:request_id>")
@operation(status=204)
def delete(request_id: UUID) -> None:
    """Delete one of your scored texts."""
    history.delete(caller().user_id, request_id)


def init_app(app: Flask) -> None:
    """Give the application its group writer, and announce the rows of requests to it.

    This must run before the guard, so that rows of other requests can gather while the guard checks this request.
    """
    WRITER.set(app, GroupWriter(autocommit, transaction, retry_seconds=SETTINGS.get(app).database_retry_seconds))
    app.before_request(_announce_row)
    app.teardown_request(_withdraw_row)


def _announce_row() -> None:
    size = request.content_length
    if request.endpoint == "sentiment.analyze" and size is not None and size <= SMALL_BODY_BYTES:
        request.get_data()  # other requests must not wait for a row whose body has not arrived
        writer().announce()


def _withdraw_row(_error: BaseException | None) -> None:
    writer().withdraw()
