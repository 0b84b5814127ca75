"""Schemas of scoring and history."""

from marshmallow import fields, validate

from sentiment_app.ml.runtime import LABELS
from sentiment_app.web.schemas import Cursor, Flag, Instant, NormalText, PageQuerySchema, Schema, Text


class AnalyzeSchema(Schema):
    """A text to score."""

    text = NormalText(required=True, metadata={"examples": ["The service was quick and friendly."]})
    explain = Flag(
        load_default=False,
        metadata={"description": "Return what each term contributes, if the model is a sum of terms"},
    )
    store = Flag(
        load_default=True,
        metadata={"description": "With `false`, neither the text nor its scores are stored, and the `id` is `null`"},
    )
    model = Text(
        load_default=None,
        allow_none=True,
        validate=validate.Length(1, 64),
        metadata={"description": "A released version. Defaults to the active model."},
    )


class ScoresSchema(Schema):
    """The probability of each label. They sum to 1."""

    negative = fields.Float(required=True)
    neutral = fields.Float(required=True)
    positive = fields.Float(required=True)


class StoredSchema(Schema):
    """The stored fields of a scored text, which every response contains."""

    id = fields.UUID(required=True, metadata={"description": "Id of the entry in the history"})
    sentiment = fields.String(required=True, metadata={"enum": list(LABELS)})
    confidence = fields.Float(required=True, metadata={"description": "Probability of the sentiment"})
    scores = fields.Nested(ScoresSchema, required=True)
    model_version = fields.String(required=True)
    processing_time = fields.Float(required=True, metadata={"description": "Seconds spent on scoring"})


class RequestSchema(StoredSchema):
    """A scored text in the history."""

    created_at = fields.AwareDateTime(required=True, format="iso")
    text = fields.String(required=True)


class RequestPageSchema(Schema):
    """A page of the history."""

    items = fields.List(fields.Nested(RequestSchema), required=True)
    next_cursor = Cursor(required=True, allow_none=True, metadata={"type": "string"})


class HistoryQuerySchema(PageQuerySchema):
    """Selects a part of the history."""

    sentiment = fields.String(load_default=None, validate=validate.OneOf(LABELS))
    since = Instant(
        load_default=None,
        metadata={"description": "Only texts scored at this time or later (RFC 3339, with an offset)"},
    )
    until = Instant(
        load_default=None, metadata={"description": "Only texts scored before this time (RFC 3339, with an offset)"}
    )


class ContributionSchema(Schema):
    """What a term of the text contributes."""

    term = fields.String(required=True)
    start = fields.Integer(
        required=True, metadata={"description": "Index of its first code point, in the text in normalisation form C"}
    )
    end = fields.Integer(required=True, metadata={"description": "Index after its last code point"})
    contribution = fields.Float(required=True, metadata={"description": "Contribution to the log-odds of positive"})


class ExplanationSchema(Schema):
    """The sum of bias and contributions is exactly ln(scores.positive / scores.negative)."""

    bias = fields.Float(required=True)
    contributions = fields.List(fields.Nested(ContributionSchema), required=True)


class WarningSchema(Schema):
    """A reason to doubt the scores."""

    code = fields.String(required=True, metadata={"enum": ["low-coverage", "other-language"]})
    detail = fields.String(required=True)
    language = fields.String(metadata={"description": "The code of the language (ISO 639-1), for `other-language`"})


class DeletedSchema(Schema):
    """How much of the history was deleted."""

    number = fields.Integer(required=True)
    is_complete = fields.Boolean(required=True, metadata={"description": "Whether no other texts remain"})


class AnalysisSchema(StoredSchema):
    """The scores of a text."""

    id = fields.UUID(
        required=True,
        allow_none=True,
        metadata={"description": "Id of the entry in the history; `null` if the text is not stored"},
    )
    coverage = fields.Float(metadata={"description": "Share of the text's terms that are common in English"})
    warnings = fields.List(fields.Nested(WarningSchema))
    explanation = fields.Nested(ExplanationSchema)
