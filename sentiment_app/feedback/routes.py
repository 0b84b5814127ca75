"""/sentiment/feedback: say which label of a text is right."""

from functools import partial
from typing import Any
from uuid import UUID

from flask import Blueprint

from sentiment_app.feedback import schemas, service
from sentiment_app.feedback.models import Feedback
from sentiment_app.web.guard import caller, require_scope
from sentiment_app.web.operation import operation
from sentiment_app.web.schemas import PageQuerySchema, paged

# Room for a text of 20,000 characters, even if each is escaped as a surrogate pair.
MAX_BODY_BYTES = 256 * 1024

blueprint = Blueprint("feedback", __name__, url_prefix="/sentiment/feedback")


@blueprint.post("")
@operation(
    scopes=("score",),
    body=schemas.CorrectionSchema(),
    max_body=MAX_BODY_BYTES,
    returns=schemas.FeedbackSchema(),
    errors=(409,),
)
def create(body: dict[str, Any]) -> Feedback:
    """Say which label of a text is right.

    The operator trains models with it. It replaces the label that you gave to the same text before. It is kept until
    you delete it, also if the text is not in your history any more. An API key needs the scope `read`, too, to name an
    entry of the history.
    """
    if "request_id" in body:
        require_scope("read")  # the answer has the text
    return service.store(caller().user_id, **body)


@blueprint.get("")
@operation(scopes=("read",), query=PageQuerySchema(), returns=schemas.FeedbackPageSchema())
def index(query: dict[str, Any]) -> dict[str, Any]:
    """List your feedback, newest first."""
    return paged(partial(service.page, caller().user_id), query)


@blueprint.delete("/<uuid:feedback_id>")
@operation(scopes=("score",), status=204)
def delete(feedback_id: UUID) -> None:
    """Delete a label that you gave. Models that were trained with it do not change."""
    service.delete(caller().user_id, feedback_id)
