"""What scoring looks like from outside."""

from typing import Any

from marshmallow import ValidationError, fields, validate

from sentiment_app.ml.runtime import LABELS
from sentiment_app.ml.text import MAX_CHARACTERS, TextError, normalize
from sentiment_app.schema import Cursor, Flag, Instant, PageQuerySchema, Schema, Text

STATES = ("candidate", "active", "previous", "retired")


class NormalText(Text):
    """Text of 1 to 20 000 characters, counted after Unicode normalisation form C."""

    def __init__(self, **options: Any) -> None:
        super().__init__(validate=validate.Length(1, MAX_CHARACTERS), **options)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, *args, **kwargs)
        try:
            return normalize(text)
        except TextError as error:
            raise ValidationError(f"The text {error}.") from None


class AnalyzeSchema(Schema):
    """A text to score."""

    text = NormalText(required=True, metadata={"examples": ["The service was quick and friendly."]})
    explain = Flag(
        load_default=False, metadata={"description": "Also tell what each term added, if the model is a sum of terms"}
    )
    model = Text(
        load_default=None,
        allow_none=True,
        validate=validate.Length(1, 64),
        metadata={"description": "A released version; otherwise the active one"},
    )


class ScoresSchema(Schema):
    """The probability of each label; they sum to 1."""

    negative = fields.Float(required=True)
    neutral = fields.Float(required=True)
    positive = fields.Float(required=True)


class RequestSchema(Schema):
    """A scored text in the history."""

    id = fields.UUID(required=True)
    created_at = fields.AwareDateTime(required=True, format="iso")
    text = fields.String(required=True)
    sentiment = fields.String(required=True, metadata={"enum": list(LABELS)})
    confidence = fields.Float(required=True, metadata={"description": "Probability of the sentiment"})
    scores = fields.Nested(ScoresSchema, required=True)
    model_version = fields.String(required=True)
    processing_time = fields.Float(required=True, metadata={"description": "Seconds spent on scoring"})


class RequestPageSchema(Schema):
    """A page of the history."""

    items = fields.List(fields.Nested(RequestSchema), required=True)
    next_cursor = Cursor(required=True, allow_none=True, metadata={"type": ["string", "null"]})


class HistoryQuerySchema(PageQuerySchema):
    """Which part of the history."""

    sentiment = fields.String(load_default=None, validate=validate.OneOf(LABELS))
    since = Instant(load_default=None, metadata={"description": "From this instant on (RFC 3339, with its offset)"})
    until = Instant(load_default=None, metadata={"description": "Before this instant (RFC 3339, with its offset)"})


class ContributionSchema(Schema):
    """What one term of the text adds."""

    term = fields.String(required=True)
    start = fields.Integer(required=True, metadata={"description": "First code point, in the text's form NFC"})
    end = fields.Integer(required=True, metadata={"description": "The code point after its last"})
    contribution = fields.Float(required=True, metadata={"description": "To the log-odds of positive"})


class ExplanationSchema(Schema):
    """Why: bias + sum of contributions = ln(scores.positive / scores.negative), exactly."""

    bias = fields.Float(required=True)
    contributions = fields.List(fields.Nested(ContributionSchema), required=True)


class WarningSchema(Schema):
    """What to know before trusting the answer."""

    code = fields.String(required=True, metadata={"enum": ["low-coverage"]})
    detail = fields.String(required=True)


class AnalysisSchema(Schema):
    """The answer for one text."""

    id = fields.UUID(required=True, metadata={"description": "Of the stored answer, in the history"})
    sentiment = fields.String(required=True, metadata={"enum": list(LABELS)})
    confidence = fields.Float(required=True, metadata={"description": "Probability of the sentiment"})
    scores = fields.Nested(ScoresSchema, required=True)
    model_version = fields.String(required=True)
    processing_time = fields.Float(required=True, metadata={"description": "Seconds spent on scoring"})
    coverage = fields.Float(metadata={"description": "Share of the text's terms that are common in English"})
    warnings = fields.List(fields.Nested(WarningSchema))
    explanation = fields.Nested(ExplanationSchema)


class ModelSchema(Schema):
    """A released model."""

    version = fields.String(required=True)
    state = fields.String(required=True, metadata={"enum": list(STATES)})
    released_at = fields.AwareDateTime(required=True, format="iso")
    activated_at = fields.AwareDateTime(required=True, format="iso", allow_none=True)


class ModelListSchema(Schema):
    """All released models, the newest first."""

    items = fields.List(fields.Nested(ModelSchema), required=True)


class ModelRecordSchema(ModelSchema):
    """A released model with the record of its making."""

    created_at = fields.String(required=True, metadata={"format": "date-time"})
    recipe = fields.String(required=True)
    parameters = fields.Dict(required=True)
    data = fields.List(fields.Dict(), required=True, metadata={"description": "What it learned from, with digests"})
    metrics = fields.Dict(required=True, metadata={"description": "Measured on held-out texts, by source"})
    libraries = fields.Dict(fields.String(), fields.String(), required=True)
    files = fields.Dict(fields.String(), fields.String(), required=True, metadata={"description": "sha256 of each"})
    code_version = fields.String(required=True)


class ActivationQuerySchema(Schema):
    """How strict the gate is."""

    allow_worse = fields.Boolean(
        load_default=False, metadata={"description": "Also if it measured worse than the active model"}
    )


class ModelEventSchema(Schema):
    """What was done with a model."""

    at = fields.AwareDateTime(required=True, format="iso")
    version = fields.String(required=True)
    action = fields.String(required=True)
    by = fields.String(required=True)
    detail = fields.String(required=True, allow_none=True)


class ModelEventListSchema(Schema):
    """The newest hundred events of a model, the newest first."""

    items = fields.List(fields.Nested(ModelEventSchema), required=True)
