"""The decorator of every view: it enforces what the view declares, and `openapi` documents the same declaration."""

import contextlib
import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

from flask import Response, g, jsonify, request
from werkzeug.datastructures import MultiDict
from werkzeug.routing import BaseConverter

from sentiment_app.errors import InvalidError, MalformedError, UnavailableError
from sentiment_app.infrastructure.app_state import AppKey
from sentiment_app.infrastructure.concurrency import ConcurrencyLimit
from sentiment_app.web.problems import InvalidFieldsError, UnsupportedMediaTypeError
from sentiment_app.web.schemas import Schema, load

JSON, FORM = "application/json", "application/x-www-form-urlencoded"

LARGE_BODY_BYTES = 1024 * 1024
# A string ends at its closing quote or at the end of the body. The quantifier is possessive, so that the search takes
# linear time even if a string has no closing quote.
STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)

# What an API key may be used for.
SCOPES = {
    "score": "Score single texts, and give feedback on them.",
    "tasks": "Submit, read, cancel, retry and delete tasks.",
    "read": "Read the profile, the history, feedback, tasks, results and models.",
    "models": "Administrators only: read and activate models.",
    "admin": "Administrators only: read and change accounts.",
}
ADMINISTRATOR_SCOPES = {"models", "admin"}

View = Callable[..., Response]


class TooManyBodiesError(UnavailableError):
    """Too many large bodies are being parsed."""

    detail = "Too many large requests are being processed. Retry in a few seconds."


# A parsed body takes about ten times its size in memory.
BODY_LIMIT = AppKey[ConcurrencyLimit]("body_limit")


def make_body_limit() -> ConcurrencyLimit:
    """The limit on large bodies of one application."""
    return ConcurrencyLimit(2, TooManyBodiesError, waiting=4)


class NameConverter(BaseConverter):
    """A path segment that is a name, such as a model's version. Any other segment is answered with 404."""

    regex = r"[0-9A-Za-z._-]{1,64}"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What a view requires, accepts and returns.

    Args:
        access: who may call it. A view that declares nothing is for signed-in users.
        scopes: an API key needs one of them. API keys cannot call a view without scopes.
        rates: names of the rates that count the call (web/rate_limits.py). The first rate of a view for signed-in
            users is counted with the session check. Public pages without a rate are limited by Nginx alone.
        body, form, query: schemas of the input. `form` is the same body, sent by an HTML form.
        streams: media types of a body that the view reads by itself.
        before: called before the body is read, so that it can refuse the request.
        max_body, max_values: the limits on the JSON body, in bytes and in values. Each value costs about 2 µs, however
            small it is.
        request_headers: headers that the view understands.
        page: whether it is a page of the console. Its caller is identified by the cookie, and never by a header.
        status, returns, media_types: the successful response.
        also: another successful status.
        errors: statuses that do not follow from the other fields.
        headers: response headers to document.
        documented: whether the OpenAPI document has the operation.
    """

    access: Literal["public", "user", "administrator"] = "user"
    scopes: tuple[str, ...] = ()
    rates: tuple[str, ...] = ("user",)
    body: Schema | None = None
    form: Schema | None = None
    query: Schema | None = None
    streams: tuple[str, ...] = ()
    before: Callable[[], None] | None = None
    max_body: int = 8 * 1024
    max_values: int = 500
    request_headers: tuple[str, ...] = ()
    page: bool = False
    status: int = 200
    returns: Schema | None = None
    also: int | None = None
    media_types: tuple[str, ...] = (JSON,)
    errors: tuple[int, ...] = ()
    headers: tuple[str, ...] = ()
    documented: bool = True


def operation(**fields: Any) -> Callable[[Callable[..., Any]], View]:
    """Declare a view with the fields of Operation, which are enforced and documented.

    The view gets `body` and `query` as keyword arguments. It returns what `returns` dumps, or a pair of that and
    headers, or a Response. The first line of its docstring is the summary in the OpenAPI document.
    """
    declared = Operation(**fields)

    def decorate(view: Callable[..., Any]) -> View:
        @functools.wraps(view)
        def enforced(**arguments: Any) -> Response:
            if declared.query:
                arguments["query"] = load(declared.query, _single_values(request.args, "query"), "query")
            if declared.before:
                declared.before()
            if declared.body:
                request.max_content_length = declared.max_body
                with _limit_large_bodies():
                    arguments["body"] = _load_body(declared)
            g.has_begun = True  # from now on, a failure may leave the request carried out
            return _to_response(view(**arguments), declared)

        enforced.operation = declared  # type: ignore[attr-defined]  # Flask knows views as plain functions
        return enforced

    return decorate


def operation_of(view: Any) -> Operation:
    """What a view declared. A view that declared nothing has the strict defaults."""
    return getattr(view, "operation", Operation())


def _single_values(given: MultiDict[str, str], location: str) -> dict[str, str]:
    repeated = [name for name, values in given.lists() if len(values) > 1]
    if repeated:
        detail = "The parameter is given more than once."
        raise InvalidFieldsError([{"in": location, "pointer": f"/{name}", "detail": detail} for name in repeated])
    return given.to_dict()


def _load_body(declared: Operation) -> dict[str, Any]:
    body, form = cast(Schema, declared.body), declared.form
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaTypeError("This route does not read compressed bodies. Omit the header Content-Encoding.")
    if request.is_json:
        data = request.get_data()
        refuse_truncated_body(data)
        _refuse_too_many_values(data, declared.max_values)
        try:
            parsed = json.loads(data.decode("utf-8-sig"))  # json.loads(data) would also read UTF-16 and UTF-32
        except json.JSONDecodeError as error:
            place = f"line {error.lineno}, column {error.colno}: {error.msg}"
            raise MalformedError(f"The body is not valid JSON: {place}.") from None
        except (ValueError, RecursionError):
            raise MalformedError("The body is not valid JSON.") from None
        return load(body, parsed, "body")
    if form and request.mimetype == FORM:
        refuse_truncated_body(request.get_data())
        return load(form, _single_values(request.form, "body"), "body")
    accepted = f"{JSON} or {FORM}" if form else JSON
    raise UnsupportedMediaTypeError(
        f"This route does not read {request.mimetype or 'a body without a type'!r}. "
        f"Send the body with Content-Type {accepted}."
    )


def refuse_truncated_body(data: bytes) -> None:
    """Refuse a body of which only the beginning was read: a form that was cut off is a valid form.

    Raises:
        MalformedError: it is shorter than its Content-Length.
    """
    # Werkzeug truncates a chunked body at MAX_CONTENT_LENGTH, and raises only when it is asked for more.
    if request.content_length is None:
        request.stream.read(1)
    elif len(data) < request.content_length:
        raise MalformedError("The body is shorter than its Content-Length. Send it again.")


def _refuse_too_many_values(data: bytes, limit: int) -> None:
    """Refuse a body of very many small values: parsed, they take about twenty times its size in memory."""
    if _count_values(data) <= limit:
        return
    if _count_values(STRING.sub(b"", data)) > limit:  # without commas and brackets inside strings
        raise InvalidError(f"The body has too many values. The limit is {limit:,}.")


def _count_values(data: bytes) -> int:
    """An upper bound of the number of values: each follows one of these characters."""
    return data.count(b"{") + data.count(b"[") + data.count(b",")


def _limit_large_bodies() -> contextlib.AbstractContextManager[None]:
    size = request.content_length if request.content_length is not None else request.max_content_length
    is_small = size is not None and size <= LARGE_BODY_BYTES
    return contextlib.nullcontext() if is_small else BODY_LIMIT.get().acquire()


def _to_response(result: Any, declared: Operation) -> Response:
    if isinstance(result, Response):
        return result
    result, headers = result if isinstance(result, tuple) else (result, {})
    body = jsonify(declared.returns.dump(result)) if declared.returns else Response()
    body.status_code = declared.status
    body.headers.update(headers)
    return body
