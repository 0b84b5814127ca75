"""HTML forms, read by the schemas of the API. A form has only strings, and sends an empty string for an empty field."""

import re
from typing import Any

from flask import request
from marshmallow import fields, pre_load
from werkzeug.datastructures import MultiDict

from sentiment_app.errors import InvalidError
from sentiment_app.web import cookies
from sentiment_app.web.operation import FORM, refuse_truncated_body
from sentiment_app.web.problems import UnsupportedMediaTypeError
from sentiment_app.web.schemas import Schema, load

MAX_FIELDS = 100


class IgnoresEmpty(Schema):
    """A schema that ignores empty values, such as those of a select element without a choice."""

    @pre_load
    def _drop_empty(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {name: value for name, value in data.items() if value != ""}


def read(schema: Schema | None, max_bytes: int) -> dict[str, Any]:
    """The form of the current request, after its CSRF token was checked.

    Raises:
        WrongTokenError: the token is missing or wrong.
        InvalidFieldsError: with a pointer to each invalid field.
    """
    request.max_content_length = max_bytes
    if request.mimetype != FORM:
        raise UnsupportedMediaTypeError(f"This page reads only forms of the type {FORM}.")
    data = request.get_data()
    refuse_truncated_body(data)
    if data.count(b"&") >= MAX_FIELDS:
        raise InvalidError(f"The form has too many fields. The limit is {MAX_FIELDS}.")
    sent = MultiDict(request.form)
    cookies.check_csrf_token(request.headers.get(cookies.HEADER) or sent.get(cookies.FIELD))
    sent.poplist(cookies.FIELD)
    return load(schema, _values(schema, sent), "body") if schema else {}


def _values(schema: Schema, sent: MultiDict[str, str]) -> dict[str, Any]:
    """The values of a form as they would be in JSON. An empty field is null, or is left out if it cannot be null."""
    values: dict[str, Any] = {}
    for name, given in sent.lists():
        filled = [value for value in given if value.strip()]
        field = schema.fields.get(name)
        if not filled:
            if getattr(field, "allow_none", False):
                values[name] = None
            continue
        if isinstance(field, fields.List):
            values[name] = [part for value in filled for part in (value.split() if len(filled) == 1 else [value])]
        else:
            values[name] = _value(field, filled[0])
    return values


def _value(field: Any, text: str) -> Any:
    if isinstance(field, fields.Integer) and re.fullmatch(r"\s*[0-9]{1,18}\s*", text):
        return int(text)
    if isinstance(field, fields.Boolean):
        return {"true": True, "false": False}.get(text, text)
    return text.replace("\r\n", "\n")  # browsers send the line ends of a text area as CRLF
