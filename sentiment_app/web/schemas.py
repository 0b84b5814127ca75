"""The parts that all schemas share: strict fields, storable strings, and errors that point to the field."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, ClassVar
from uuid import UUID

import marshmallow
from marshmallow import RAISE, ValidationError, fields, validate

from sentiment_app.ml.text import MAX_CHARACTERS, TextError, normalize
from sentiment_app.web.problems import InvalidFieldsError

MAX_PAGE = 100
MAX_ERRORS = 100


class Schema(marshmallow.Schema):
    """Base class of every schema. Unknown fields are errors, never ignored.

    `constraints` documents, in JSON Schema, the rules that a schema checks across several fields.
    """

    constraints: ClassVar[dict[str, Any]] = {}

    class Meta:
        unknown = RAISE


class Text(fields.String):
    """A string that PostgreSQL can store in UTF-8: no NUL character, no lone surrogates."""

    default_error_messages = {"unstorable": "Must not contain NUL characters or lone surrogates."}  # noqa: RUF012  # as marshmallow declares it

    def __init__(self, **options: Any) -> None:
        options["metadata"] = {"pattern": r"^[^\u0000]*$", **options.get("metadata", {})}
        super().__init__(**options)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, *args, **kwargs)
        if "\0" in text:
            raise self.make_error("unstorable")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self.make_error("unstorable") from None
        return text


class NormalText(Text):
    """A text of 1 to 20,000 characters, counted in Unicode normalisation form C."""

    def __init__(self, **options: Any) -> None:
        super().__init__(validate=validate.Length(1, MAX_CHARACTERS), **options)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, *args, **kwargs)
        try:
            return normalize(text)
        except TextError as error:
            raise ValidationError(f"The text {error}.") from None


class Flag(fields.Boolean):
    """JSON's true or false. marshmallow would also accept strings such as "yes"."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class Number(fields.Integer):
    """A whole number in a query, in ASCII digits. Python would also read 1_0 and the digits of other scripts."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", str(value)):
            raise self.make_error("invalid", input=value)
        return int(value)


LOST_PLUS = re.compile(r"\d \d\d:\d\d$")


class Instant(fields.AwareDateTime):
    """A point in time with an offset (RFC 3339), loaded in UTC: PostgreSQL refuses offsets of 16 hours and more.

    If the offset moves it out of the years 1 to 9999, it is loaded as the first or the last moment of these years.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(format="iso", **options)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> datetime:
        if isinstance(value, str) and LOST_PLUS.search(value):
            raise ValidationError("In a URL, a + means a space. Write the + of the offset as %2B.")
        instant: datetime = super()._deserialize(value, *args, **kwargs)
        try:
            return instant.astimezone(UTC)
        except OverflowError:
            bound = datetime.min if instant.year == 1 else datetime.max  # noqa: DTZ901  # the zone follows
            return bound.replace(tzinfo=UTC)


class Cursor(fields.Field[UUID]):
    """The id of the last row of a page, in an opaque form. Callers send it back to get the next page."""

    default_error_messages = {"invalid": "This is not a valid cursor. Use the next_cursor of the previous page."}  # noqa: RUF012  # as marshmallow declares it

    def _serialize(self, value: UUID | None, *args: Any, **kwargs: Any) -> str | None:
        return base64.urlsafe_b64encode(value.bytes).decode().rstrip("=") if value else None

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> UUID:
        try:
            cursor = UUID(bytes=base64.urlsafe_b64decode(str(value) + "=="))
        except (ValueError, binascii.Error):
            raise self.make_error("invalid") from None
        if self._serialize(cursor) != value:  # the decoder skips what is not base64
            raise self.make_error("invalid")
        return cursor


class PageQuerySchema(Schema):
    """Selects a page of a list."""

    limit = Number(
        load_default=20,
        validate=validate.Range(1, MAX_PAGE),
        metadata={"description": "Rows in a page"},
    )
    cursor = Cursor(
        load_default=None,
        metadata={
            "type": "string",
            "pattern": "^[A-Za-z0-9_-]{21}[AQgw]$",
            "description": "next_cursor of the previous page",
        },
    )


class ProblemErrorSchema(Schema):
    """An invalid field of the request."""

    location = fields.String(data_key="in", required=True, metadata={"enum": ["body", "query", "header"]})
    pointer = fields.String(required=True, metadata={"description": "JSON pointer (RFC 6901)"})
    detail = fields.String(required=True)


class ProblemSchema(Schema):
    """A problem document (RFC 9457)."""

    type = fields.String(required=True, metadata={"format": "uri-reference"})
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    instance = fields.String(required=True, metadata={"format": "uri-reference"})
    request_id = fields.String(required=True)
    errors = fields.List(fields.Nested(ProblemErrorSchema))
    columns = fields.List(
        fields.String(), metadata={"description": "The first 100 columns of a file, if one of them must be chosen"}
    )
    checks = fields.Dict(fields.String(), fields.String(), metadata={"description": "The checks of /readyz"})


def load(schema: Schema, data: Any, location: str) -> dict[str, Any]:
    """Load data from the "body" or the "query" of a request.

    Raises:
        InvalidFieldsError: with a JSON pointer to each invalid field.
    """
    try:
        loaded: dict[str, Any] = schema.load(data)
    except ValidationError as error:
        raise InvalidFieldsError(list(islice(_pointers(error.messages, location), MAX_ERRORS))) from None
    return loaded


def paged(fetch: Callable[..., Sequence[Any]], query: dict[str, Any]) -> dict[str, Any]:
    """A page of what `fetch(limit, cursor, **filters)` returns, with the cursor of the next page if there is one."""
    filters = dict(query)
    limit = filters.pop("limit")
    rows = fetch(limit + 1, filters.pop("cursor"), **filters)
    more = len(rows) > limit
    return {"items": rows[:limit], "next_cursor": rows[limit - 1].id if more else None}


def _pointers(messages: Any, location: str, path: str = "") -> Iterator[dict[str, str]]:
    if isinstance(messages, dict):
        for name, inner in messages.items():
            step = "" if name == "_schema" else "/" + str(name).replace("~", "~0").replace("/", "~1")
            yield from _pointers(inner, location, path + step)
    else:
        for message in messages if isinstance(messages, list) else [messages]:
            yield {"in": location, "pointer": path, "detail": str(message)}
