"""Schemas of batch scoring."""

from typing import Any, ClassVar

from marshmallow import ValidationError, fields, validate, validates_schema

from sentiment_app.files.rows import MAX_CUSTOM_ID_CHARACTERS
from sentiment_app.ml.runtime import LABELS
from sentiment_app.sentiment.schemas import ScoresSchema, WarningSchema
from sentiment_app.tasks.models import VISIBLE
from sentiment_app.web.schemas import Cursor, NormalText, Number, PageQuerySchema, Schema, Text

MAX_ITEMS = 10_000
MAX_PAGE = 1000
SIZE = {"minItems": 1, "maxItems": MAX_ITEMS}


class BoundedList(fields.List[Any]):
    """A list whose length is checked before its items. Otherwise a million invalid items cause a million errors."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, list):
            validate.Length(1, MAX_ITEMS)(value)
        loaded: list[Any] = super()._deserialize(value, *args, **kwargs)
        return loaded


class Names(fields.Field[frozenset[str]]):
    """Some of the known names, separated by commas, in a query."""

    def __init__(self, known: tuple[str, ...], **options: Any) -> None:
        self._known = known
        pattern = f"^({'|'.join(known)})(,({'|'.join(known)}))*$"
        options["metadata"] = {"type": "string", "pattern": pattern, **options["metadata"]}
        super().__init__(load_default=frozenset, **options)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> frozenset[str]:
        names = frozenset(str(value).split(","))
        if not names <= set(self._known):
            raise ValidationError(f"Must be one or more of: {', '.join(self._known)}. Separate them by commas.")
        return names


class ItemSchema(Schema):
    """A text to score, and the sender's name for it."""

    text = NormalText(required=True)
    custom_id = Text(load_default=None, validate=validate.Length(1, MAX_CUSTOM_ID_CHARACTERS))


class BatchSchema(Schema):
    """Texts to score: either `texts`, or `items` with a custom_id each."""

    constraints: ClassVar = {"oneOf": [{"required": ["texts"]}, {"required": ["items"]}]}

    texts = BoundedList(NormalText(), metadata=SIZE)
    items = BoundedList(fields.Nested(ItemSchema), metadata=SIZE)
    model = Text(
        validate=validate.Length(1, 64), metadata={"description": "A released version. Defaults to the active model."}
    )
    webhook_url = Text(
        validate=validate.Length(1, 2000),
        metadata={
            "format": "uri",
            "description": "Receives a signed request (Standard Webhooks) when the task has ended",
        },
    )

    @validates_schema
    def _require_texts_or_items(self, data: dict[str, Any], **_: Any) -> None:
        if ("texts" in data) == ("items" in data):
            raise ValidationError("Send either `texts` or `items`.", "texts")


class FileQuerySchema(Schema):
    """How a file is read. Omitted options are detected."""

    column = Text(
        load_default=None,
        metadata={
            "description": "The column (or key) with the texts. Defaults to `text`, or to the only column. A column of "
            "CSV may also be chosen by its number, from 1."
        },
    )
    id_column = Text(
        load_default=None,
        metadata={"description": "The column (or key) with the custom_id. Defaults to `custom_id` if it exists."},
    )
    delimiter = Text(
        load_default=None,
        metadata={"description": "CSV only. A character, or `tab`, `comma`, `semicolon`, `pipe` or `space`."},
    )
    encoding = Text(
        load_default=None,
        metadata={"description": "Such as utf-8 or cp1252. Defaults to the charset of Content-Type, or is detected."},
    )
    header = Text(
        load_default=None,
        validate=validate.OneOf(["present", "absent"]),
        metadata={
            "description": "CSV only. Defaults to the parameter `header` of Content-Type (RFC 4180), or to `present`. "
            "With `absent`, the columns are named 1, 2 and so on."
        },
    )
    sheet = Text(load_default=None, metadata={"description": "Excel workbooks only. Defaults to the first sheet."})


class UploadQuerySchema(FileQuerySchema):
    """How an uploaded file is read and scored."""

    model = Text(load_default=None, validate=validate.Length(1, 64))
    webhook_url = Text(load_default=None, validate=validate.Length(1, 2000))
    keep = Text(
        load_default=None,
        validate=validate.OneOf(["columns"]),
        metadata={
            "description": "With `columns`, the other columns of the file are kept, so that results can include them. "
            "At most 100 columns, and 20,000 bytes in each row."
        },
    )


class CountsSchema(Schema):
    """Numbers of rows."""

    total = fields.Integer(required=True)
    completed = fields.Integer(required=True)
    failed = fields.Integer(required=True)


class LabelCountsSchema(Schema):
    """Numbers of rows by label."""

    negative = fields.Integer(required=True)
    neutral = fields.Integer(required=True)
    positive = fields.Integer(required=True)


class WarningCountsSchema(Schema):
    """Numbers of rows by warning."""

    low_coverage = fields.Integer(required=True, data_key="low-coverage", attribute="low-coverage")
    other_language = fields.Integer(required=True, data_key="other-language", attribute="other-language")


class SummarySchema(Schema):
    """A summary of the results so far."""

    counts = fields.Nested(LabelCountsSchema, required=True)
    mean_confidence = fields.Float(required=True, allow_none=True)
    histogram = fields.List(
        fields.Integer(),
        required=True,
        metadata={"description": "Numbers of rows by confidence: below 0.1, below 0.2, … up to 1"},
    )
    warnings = fields.Nested(WarningCountsSchema, required=True)


class ResultSchema(Schema):
    """The result of a row: its scores, or an error."""

    index = fields.Integer(required=True, metadata={"description": "Index in the input, from 0"})
    line = fields.Integer(
        required=True, metadata={"description": "Line in the file, or number of the element of a JSON array, from 1"}
    )
    custom_id = fields.String(required=True, allow_none=True)
    text = fields.String(allow_none=True, metadata={"description": "With `include=text`"})
    columns = fields.Dict(
        keys=fields.String(),
        allow_none=True,
        metadata={"description": "With `include=columns`: the other columns of the file, if they were kept"},
    )
    sentiment = fields.String(metadata={"enum": list(LABELS)})
    confidence = fields.Float()
    scores = fields.Nested(ScoresSchema)
    coverage = fields.Float(metadata={"description": "Share of the text's terms that are common in English"})
    warnings = fields.List(fields.Nested(WarningSchema))
    error = fields.String()


class KeptColumnSchema(Schema):
    """A column that is kept."""

    name = fields.String(required=True)
    type = fields.String(required=True, metadata={"enum": ["string", "integer", "number", "boolean"]})


class FormatSchema(Schema):
    """The format that a file was read in. Fields that do not apply to its type are absent."""

    media_type = fields.String(required=True)
    encoding = fields.String(metadata={"description": "The name of a Python codec. ASCII is utf-8."})
    sheet = fields.String()
    delimiter = fields.String(allow_none=True, metadata={"description": "null if the file has one column"})
    quote = fields.String()
    escape = fields.String(allow_none=True, metadata={"description": "null if quotes in texts are doubled"})
    header_line = fields.Integer(allow_none=True, metadata={"description": "null if the file has no header"})
    columns = fields.List(fields.String(), metadata={"description": "The first 100 columns"})
    column = fields.String(
        allow_none=True, metadata={"description": "The column with the texts. null if the file is empty"}
    )
    id_column = fields.String(allow_none=True, metadata={"description": "The column with the custom_id"})
    kept_columns = fields.List(
        fields.Nested(KeptColumnSchema), metadata={"description": "With `keep=columns`: the columns that are kept"}
    )


class PreviewRowSchema(Schema):
    """A row of a file: its text, or an error."""

    line = fields.Integer(
        required=True, metadata={"description": "Line in the file, or number of the element of a JSON array, from 1"}
    )
    custom_id = fields.String(required=True, allow_none=True)
    text = fields.String(required=True, allow_none=True)
    error = fields.String(required=True, allow_none=True)


class PreviewSchema(Schema):
    """How a file would be read."""

    format = fields.Nested(FormatSchema, required=True)
    rows = fields.List(fields.Nested(PreviewRowSchema), required=True)


class RenderedResults(fields.List[Any]):
    """Results as render.as_object makes them. To serialize each of them again takes longer than to score its text."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return value


class TaskSchema(Schema):
    """A task and its progress."""

    task_id = fields.UUID(required=True)
    status = fields.String(required=True, metadata={"enum": list(VISIBLE)})
    request_counts = fields.Nested(CountsSchema, required=True)
    percent = fields.Float(required=True)
    rows_per_second = fields.Float(required=True, allow_none=True)
    seconds_left = fields.Float(required=True, allow_none=True, metadata={"description": "An estimate"})
    model_version = fields.String(required=True, metadata={"description": "The same for the whole task"})
    created_at = fields.AwareDateTime(required=True, format="iso")
    started_at = fields.AwareDateTime(required=True, format="iso", allow_none=True)
    finished_at = fields.AwareDateTime(required=True, format="iso", allow_none=True)
    expires_at = fields.AwareDateTime(required=True, format="iso", allow_none=True)
    error = fields.String(required=True, allow_none=True)
    format = fields.Nested(
        FormatSchema,
        required=True,
        allow_none=True,
        metadata={"description": "How the file was read. null if the texts were not sent as a file."},
    )
    summary = fields.Nested(SummarySchema, required=True)
    result = RenderedResults(
        fields.Nested(ResultSchema),
        metadata={
            "description": "Present if the task is completed and has at most 1,000 rows. With `Prefer: wait`, present "
            "if the task has ended and has at most 10,000 rows."
        },
    )


class TaskPageSchema(Schema):
    """A page of tasks."""

    items = fields.List(fields.Nested(TaskSchema), required=True)
    next_cursor = Cursor(required=True, allow_none=True, metadata={"type": "string"})


class TaskQuerySchema(PageQuerySchema):
    """Selects tasks."""

    status = fields.String(load_default=None, validate=validate.OneOf(VISIBLE))


class ResultQuerySchema(Schema):
    """Selects results."""

    cursor = Number(
        load_default=-1,
        validate=validate.Range(-1, 2**31 - 1),
        metadata={"description": "next_cursor of the previous page, or the index of the last row that you have"},
    )
    limit = Number(
        load_default=100, validate=validate.Range(1, MAX_PAGE), metadata={"description": "Rows in a page of JSON"}
    )
    may_be_partial = fields.Boolean(
        data_key="partial",
        load_default=False,
        truthy={"true"},
        falsy={"false"},
        metadata={"description": "Return the finished results of a task that is not completed"},
    )
    include = Names(
        ("text", "columns"),
        metadata={
            "description": "Separated by commas: `text` (as it was scored), and `columns` (the other columns of the "
            "file, if it was uploaded with `keep=columns`)"
        },
    )
    formulas = Text(
        load_default="escaped",
        validate=validate.OneOf(["escaped", "raw"]),
        metadata={"description": "CSV only. `raw` returns cells that a spreadsheet would run as formulas as they are."},
    )


class ResultPageSchema(Schema):
    """A page of results."""

    items = RenderedResults(fields.Nested(ResultSchema), required=True)
    next_cursor = fields.Integer(
        required=True, allow_none=True, metadata={"description": "null when no more results will follow"}
    )
