"""Pages about feedback: the form beside a result, and the list of the caller's feedback."""

from functools import partial
from typing import Any
from uuid import UUID

from flask import Response
from marshmallow import fields, validate

from sentiment_app.console.pages import MAX_TEXT_FORM_BYTES, blueprint, go_to, page, render
from sentiment_app.feedback import service
from sentiment_app.feedback.schemas import CorrectionSchema
from sentiment_app.web.guard import caller
from sentiment_app.web.schemas import PageQuerySchema, paged


class FeedbackQuerySchema(PageQuerySchema):
    """Selects a page of feedback, and says what was just done."""

    done = fields.String(load_default=None, validate=validate.OneOf(("stored", "deleted")))


@blueprint.get("/feedback")
@page(query=FeedbackQuerySchema())
def feedback(query: dict[str, Any]) -> Response:
    """The texts that the caller has given the right label of."""
    done = query.pop("done")
    found = paged(partial(service.page, caller().user_id), query)
    cursor = PageQuerySchema().fields["cursor"].serialize("cursor", {"cursor": found["next_cursor"]})
    return render("feedback.html", items=found["items"], next_cursor=cursor, done=done)


@blueprint.post("/feedback")
@page(form=CorrectionSchema(), max_form=MAX_TEXT_FORM_BYTES)
def store_feedback(form: dict[str, Any]) -> Response:
    """Store the right label of a text."""
    service.store(caller().user_id, **form)
    return go_to("feedback", done="stored")


@blueprint.post("/feedback/<uuid:feedback_id>/delete")
@page()
def delete_feedback(feedback_id: UUID) -> Response:
    """Delete a label that the caller gave."""
    service.delete(caller().user_id, feedback_id)
    return go_to("feedback", done="deleted")
