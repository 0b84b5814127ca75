"""What all schemas share: strictness, strings that can be stored, and errors that point at the field."""

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

from sentiment_app.errors import InvalidError

MAX_PAGE = 100
MAX_ERRORS = 100


class Schema(marshmallow.Schema):
    """Base of every schema: a field it does not know is refused, never ignored.

    `constraints` says in JSON Schema what a body's own validation demands beyond its fields.
    """

    constraints: ClassVar[dict[str, Any]] = {}

    class Meta:
        unknown = RAISE


class Text(fields.String):
    """A string that UTF-8 and PostgreSQL can hold: no NUL, no lone surrogate."""

    default_error_messages = {"unstorable": "Must not hold NUL or lone surrogates."}  # noqa: RUF012  # as marshmallow declares it

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


class Flag(fields.Boolean):
    """JSON's true or false, and nothing that only resembles them."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class Number(fields.Integer):
    """A whole number in a query, in the digits of ASCII: Python would also read 1_0 and those of other scripts."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", str(value)):
            raise self.make_error("invalid", input=value)
        return int(value)


class Instant(fields.AwareDateTime):
    """An instant with its offset (RFC 3339), loaded in UTC: PostgreSQL refuses offsets of 16 hours and more.

    An instant that its offset moves out of the years 1 to 9999 is loaded as the first or the last instant of them.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(format="iso", **options)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> datetime:
        instant: datetime = super()._deserialize(value, *args, **kwargs)
        try:
            return instant.astimezone(UTC)
        except OverflowError:
            bound = datetime.min if instant.year == 1 else datetime.max  # noqa: DTZ901  # the zone follows
            return bound.replace(tzinfo=UTC)


class Cursor(fields.Field[UUID]):
    """Where a page ends: the last row's id, opaque to callers, who hand it back for the next page."""

    default_error_messages = {"invalid": "Not a cursor that this service gave out."}  # noqa: RUF012  # as marshmallow declares it

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
    """Which page of a list."""

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
            "description": "next_cursor of the page before",
        },
    )


class ProblemErrorSchema(Schema):
    """One thing that is wrong with the request."""

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
    checks = fields.Dict(fields.String(), fields.String(), metadata={"description": "Of /readyz"})


def load(schema: Schema, data: Any, location: str) -> dict[str, Any]:
    """Load `data` from the request's "body" or "query".

    Raises:
        InvalidError: with a JSON pointer to each field that is wrong.
    """
    try:
        loaded: dict[str, Any] = schema.load(data)
    except ValidationError as error:
        raise InvalidError(errors=list(islice(_pointers(error.messages, location), MAX_ERRORS))) from None
    return loaded


def paged(fetch: Callable[..., Sequence[Any]], query: dict[str, Any]) -> dict[str, Any]:
    """A page of what `fetch(limit, cursor, **filters)` gives, and the cursor of the next one if there is any."""
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
