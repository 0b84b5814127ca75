"""The decorator of every view: it enforces what a view declares of itself; `openapi` documents the same."""

import contextlib
import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from flask import Response, jsonify, request
from werkzeug.routing import BaseConverter

from sentiment_app.errors import InvalidError, MalformedError, UnavailableError, UnsupportedMediaTypeError
from sentiment_app.extensions import limiter, settings
from sentiment_app.schema import Schema, load
from sentiment_app.turnstile import Turnstile

JSON, FORM = "application/json", "application/x-www-form-urlencoded"

LARGE, MAX_VALUES = 1024 * 1024, 60_000
# To its end or the body's: one that never ends must not be tried again from each quote in it.
STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


class BusyError(UnavailableError):
    """As many large bodies as may be are being read."""

    detail = "Too many large bodies come at the same time; send yours again in a moment."


# One that is parsed takes some ten times its size in memory.
parsing = Turnstile(2, 4, BusyError)

View = Callable[..., Response]


class NameConverter(BaseConverter):
    """A part of a path that names something, such as a model's version; whatever else stands there is a 404."""

    regex = r"[0-9A-Za-z._-]{1,64}"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What a view demands, takes and gives.

    Args:
        access: who may call it. A view that declares nothing at all is for signed-in users.
        rate: which rate counts the call; None for the public pages that Nginx alone limits.
        body, form, query: schemas of what comes in; `form` is the same body sent by an HTML form.
        streams: media types of a body that the view reads by itself.
        before: called before the body is read, to refuse it.
        max_body: bytes of the body, where that is not the application's limit.
        request_headers: those that the view understands.
        status, returns, media_types: the successful answer.
        also: another successful status.
        errors: statuses beside those that follow from the rest.
        headers: response headers worth documenting.
        documented: whether it stands in the document.
    """

    access: Literal["public", "user", "administrator"] = "user"
    rate: Literal["user", "scoring", "auth"] | None = "user"
    body: Schema | None = None
    form: Schema | None = None
    query: Schema | None = None
    streams: tuple[str, ...] = ()
    before: Callable[[], None] | None = None
    max_body: int | None = None
    request_headers: tuple[str, ...] = ()
    status: int = 200
    returns: Schema | None = None
    also: int | None = None
    media_types: tuple[str, ...] = (JSON,)
    errors: tuple[int, ...] = ()
    headers: tuple[str, ...] = ()
    documented: bool = True


def operation(**declared: Any) -> Callable[[Callable[..., Any]], View]:
    """Declare a view with the fields of Operation, which are enforced and documented.

    The view gets `body` and `query` as keywords, and returns what `returns` dumps, or a pair of that and headers,
    or a Response as it is. The first line of its docstring is the summary.
    """
    declaration = Operation(**declared)

    def decorate(view: Callable[..., Any]) -> View:
        @functools.wraps(view)
        def checked(**arguments: Any) -> Response:
            if declaration.query:
                arguments["query"] = load(declaration.query, _query(), "query")
            if declaration.before:
                declaration.before()
            if declaration.max_body:
                request.max_content_length = declaration.max_body
            if declaration.body:
                with _turn_for_body():
                    arguments["body"] = _load_body(declaration.body, declaration.form)
            return _answer(view(**arguments), declaration)

        enforced: View = checked
        if declaration.rate == "auth":
            enforced = limiter.shared_limit(lambda: settings().auth_rate_limit, "auth")(checked)
        enforced.operation = declaration  # type: ignore[attr-defined]  # Flask knows views as bare functions
        return enforced

    return decorate


def declaration_of(view: Any) -> Operation:
    """What a view declared; a view that declared nothing gets the strict defaults."""
    return getattr(view, "operation", Operation())


def _query() -> dict[str, str]:
    repeated = [name for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        told = [{"in": "query", "pointer": f"/{name}", "detail": "Given more than once."} for name in repeated]
        raise InvalidError(errors=told)
    return request.args.to_dict()


def _load_body(body: Schema, form: Schema | None) -> dict[str, Any]:
    if request.is_json:
        data = request.get_data()
        _refuse_cut_body()
        _refuse_crowded(data)
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError):
            raise MalformedError("The body is not JSON.") from None
        return load(body, parsed, "body")
    if form and request.mimetype == FORM:
        fields = request.form.to_dict()
        _refuse_cut_body()
        return load(form, fields, "body")
    wanted = f"{JSON} or {FORM}" if form else JSON
    raise UnsupportedMediaTypeError(f"Send the body as Content-Type {wanted}.")


def _refuse_cut_body() -> None:
    # Werkzeug cuts a chunked body at MAX_CONTENT_LENGTH, and says so only when asked for more.
    if request.content_length is None:
        request.stream.read(1)


def _refuse_crowded(data: bytes) -> None:
    """Refuse a large body of very many small values: they take some twenty times its size in memory."""
    if len(data) <= LARGE or _values(data) <= MAX_VALUES:
        return
    if _values(STRING.sub(b"", data)) > MAX_VALUES:  # those in strings are text
        raise InvalidError(f"The body has more than {MAX_VALUES:,} values.")


def _values(data: bytes) -> int:
    """No fewer values than this; each is behind one of these."""
    return data.count(b"{") + data.count(b"[") + data.count(b",")


def _turn_for_body() -> contextlib.AbstractContextManager[None]:
    at_most = request.content_length if request.content_length is not None else request.max_content_length
    is_small = at_most is not None and at_most <= LARGE
    return contextlib.nullcontext() if is_small else parsing.turn()


def _answer(result: Any, declaration: Operation) -> Response:
    if isinstance(result, Response):
        return result
    result, headers = result if isinstance(result, tuple) else (result, {})
    body = jsonify(declaration.returns.dump(result)) if declaration.returns else Response()
    body.status_code = declaration.status
    body.headers.update(headers)
    return body
