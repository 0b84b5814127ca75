"""Schemas of feedback."""

from typing import Any, ClassVar

from marshmallow import ValidationError, fields, validate, validates_schema

from sentiment_app.ml.runtime import LABELS
from sentiment_app.web.schemas import Cursor, NormalText, Schema

EXAMPLE_ID = "01a2144a-df36-7590-ad68-6f66948fccd6"
EXAMPLE_TEXT = "The delivery took only two days. I did not expect that."


class CorrectionSchema(Schema):
    """The right label of a text: either of the `text`, or of an entry in your history."""

    constraints: ClassVar = {"oneOf": [{"required": ["text"]}, {"required": ["request_id"]}]}

    text = NormalText(metadata={"examples": [EXAMPLE_TEXT]})
    request_id = fields.UUID(
        metadata={"description": "Id of an entry in your history, instead of the text", "examples": [EXAMPLE_ID]}
    )
    label = fields.String(
        required=True,
        validate=validate.OneOf(LABELS),
        metadata={"description": "The right label", "examples": ["positive"]},
    )

    @validates_schema
    def _require_text_or_id(self, data: dict[str, Any], **_: Any) -> None:
        if ("text" in data) == ("request_id" in data):
            raise ValidationError("Send either `text` or `request_id`.", "text")


class FeedbackSchema(Schema):
    """A text, and the label that you gave to it."""

    id = fields.UUID(required=True, metadata={"examples": [EXAMPLE_ID]})
    text = fields.String(required=True, metadata={"examples": [EXAMPLE_TEXT]})
    label = fields.String(required=True, metadata={"enum": list(LABELS), "examples": ["positive"]})
    created_at = fields.AwareDateTime(required=True, format="iso", metadata={"examples": ["2026-11-29T09:30:00+00:00"]})
    updated_at = fields.AwareDateTime(
        required=True,
        format="iso",
        metadata={
            "description": "When the label was given or changed last",
            "examples": ["2026-11-29T09:30:00+00:00"],
        },
    )


class FeedbackPageSchema(Schema):
    """A page of your feedback."""

    items = fields.List(fields.Nested(FeedbackSchema), required=True)
    next_cursor = Cursor(required=True, allow_none=True, metadata={"type": "string"})
