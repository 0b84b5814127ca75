"""What batch scoring looks like from outside."""

from typing import Any, ClassVar

from marshmallow import ValidationError, fields, validate, validates_schema

from sentiment_app.batch.intake import MAX_KEY
from sentiment_app.batch.models import VISIBLE
from sentiment_app.ml.runtime import LABELS
from sentiment_app.schema import Cursor, Number, PageQuerySchema, Schema, Text
from sentiment_app.sentiment.schemas import NormalText, ScoresSchema

MAX_ITEMS = 10_000
MAX_PAGE = 1000
SIZE = {"minItems": 1, "maxItems": MAX_ITEMS}


class Bounded(fields.List[Any]):
    """A list whose length is looked at first: a million wrong items would each be told otherwise."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, list):
            validate.Length(1, MAX_ITEMS)(value)
        loaded: list[Any] = super()._deserialize(value, *args, **kwargs)
        return loaded


class ItemSchema(Schema):
    """A text to score, and what its sender calls it."""

    text = NormalText(required=True)
    custom_id = Text(load_default=None, validate=validate.Length(1, MAX_KEY))


class BatchSchema(Schema):
    """Texts to score, plain or with names: one of the two."""

    constraints: ClassVar = {"oneOf": [{"required": ["texts"]}, {"required": ["items"]}]}

    texts = Bounded(NormalText(), metadata=SIZE)
    items = Bounded(fields.Nested(ItemSchema), metadata=SIZE)
    model = Text(validate=validate.Length(1, 64), metadata={"description": "A released version; otherwise the active"})
    webhook_url = Text(
        validate=validate.Length(1, 2000),
        metadata={"format": "uri", "description": "Told when the task has ended, signed as Standard Webhooks says"},
    )

    @validates_schema
    def _one_of_both(self, data: dict[str, Any], **_: Any) -> None:
        if ("texts" in data) == ("items" in data):
            raise ValidationError("Give either texts or items.", "texts")


class UploadQuerySchema(Schema):
    """How an uploaded file is to be read; what is left out is found out."""

    column = Text(load_default=None, metadata={"description": "Of the texts, in CSV; otherwise the one named text"})
    id_column = Text(load_default=None, metadata={"description": "Of the names of rows, in CSV"})
    delimiter = Text(load_default=None, metadata={"description": "Of CSV"})
    encoding = Text(
        load_default=None,
        metadata={"description": "Such as utf-8 or cp1252; else the charset of Content-Type, UTF-8, or a guess"},
    )
    model = Text(load_default=None, validate=validate.Length(1, 64))
    webhook_url = Text(load_default=None, validate=validate.Length(1, 2000))


class CountsSchema(Schema):
    """Rows."""

    total = fields.Integer(required=True)
    completed = fields.Integer(required=True)
    failed = fields.Integer(required=True)


class LabelCountsSchema(Schema):
    """Rows of each label."""

    negative = fields.Integer(required=True)
    neutral = fields.Integer(required=True)
    positive = fields.Integer(required=True)


class SummarySchema(Schema):
    """What the results say as a whole, so far."""

    counts = fields.Nested(LabelCountsSchema, required=True)
    mean_confidence = fields.Float(required=True, allow_none=True)
    histogram = fields.List(
        fields.Integer(), required=True, metadata={"description": "Rows by confidence: below 0.1, 0.2, … to 1"}
    )


class ResultSchema(Schema):
    """A row's outcome: scores, or an error."""

    index = fields.Integer(required=True, metadata={"description": "Place in the input, from 0"})
    line = fields.Integer(required=True, metadata={"description": "In the file, from 1"})
    custom_id = fields.String(required=True, allow_none=True)
    sentiment = fields.String(metadata={"enum": list(LABELS)})
    confidence = fields.Float()
    scores = fields.Nested(ScoresSchema)
    error = fields.String()


class TaskSchema(Schema):
    """A task and how far it is."""

    task_id = fields.UUID(required=True)
    status = fields.String(required=True, metadata={"enum": list(VISIBLE)})
    request_counts = fields.Nested(CountsSchema, required=True)
    percent = fields.Float(required=True)
    rows_per_second = fields.Float(required=True, allow_none=True)
    seconds_left = fields.Float(required=True, allow_none=True, metadata={"description": "An estimate"})
    model_version = fields.String(required=True, metadata={"description": "One for the whole task"})
    created_at = fields.AwareDateTime(required=True, format="iso")
    started_at = fields.AwareDateTime(required=True, format="iso", allow_none=True)
    finished_at = fields.AwareDateTime(required=True, format="iso", allow_none=True)
    expires_at = fields.AwareDateTime(required=True, format="iso", allow_none=True)
    error = fields.String(required=True, allow_none=True)
    summary = fields.Nested(SummarySchema, required=True)
    result = fields.List(
        fields.Nested(ResultSchema),
        metadata={
            "description": "Of a completed task of at most 1000 rows; after Prefer: wait, of any that has ended, "
            "of at most 10 000"
        },
    )


class TaskPageSchema(Schema):
    """A page of tasks."""

    items = fields.List(fields.Nested(TaskSchema), required=True)
    next_cursor = Cursor(required=True, allow_none=True, metadata={"type": ["string", "null"]})


class TaskQuerySchema(PageQuerySchema):
    """Which tasks."""

    status = fields.String(load_default=None, validate=validate.OneOf(VISIBLE))


class ResultQuerySchema(Schema):
    """Which results."""

    cursor = Number(
        load_default=-1,
        validate=validate.Range(-1, 2**31 - 1),
        metadata={"description": "next_cursor of the page before, or the index of the last row that arrived"},
    )
    limit = Number(
        load_default=100, validate=validate.Range(1, MAX_PAGE), metadata={"description": "Rows in a page of JSON"}
    )


class ResultPageSchema(Schema):
    """A page of results."""

    items = fields.List(fields.Nested(ResultSchema), required=True)
    next_cursor = fields.Integer(
        required=True, allow_none=True, metadata={"description": "null when there will be no more"}
    )


class DeliverySchema(Schema):
    """One event for a webhook, and what came of it."""

    id = fields.UUID(required=True, metadata={"description": "The webhook-id"})
    state = fields.String(required=True, metadata={"enum": ["pending", "delivered", "failed"]})
    attempts = fields.Integer(required=True)
    next_at = fields.AwareDateTime(required=True, format="iso")
    answer = fields.String(required=True, allow_none=True, metadata={"description": "Of the last attempt"})
    created_at = fields.AwareDateTime(required=True, format="iso")
    delivered_at = fields.AwareDateTime(required=True, format="iso", allow_none=True)


class DeliveryListSchema(Schema):
    """A task's deliveries."""

    items = fields.List(fields.Nested(DeliverySchema), required=True)


class SecretSchema(Schema):
    """The key that verifies webhooks."""

    secret = fields.String(required=True, metadata={"description": "As Standard Webhooks' libraries take it"})
