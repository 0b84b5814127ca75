"""The decorator that enforces what it documents, and the OpenAPI 3.1 document made from it."""

import contextlib
import functools
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask, Response, jsonify, request
from werkzeug.routing import BaseConverter, Rule

from sentiment_app import __version__
from sentiment_app.errors import InvalidError, MalformedError, UnavailableError, UnsupportedMediaTypeError
from sentiment_app.extensions import limiter, settings
from sentiment_app.schema import ProblemSchema, Schema, load
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
            return load(body, json.loads(data), "body")
        except (ValueError, RecursionError):
            raise MalformedError("The body is not JSON.") from None
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
    is_small = request.content_length is not None and request.content_length <= LARGE
    return contextlib.nullcontext() if is_small else parsing.turn()


def _answer(result: Any, declaration: Operation) -> Response:
    if isinstance(result, Response):
        return result
    result, headers = result if isinstance(result, tuple) else (result, {})
    body = jsonify(declaration.returns.dump(result)) if declaration.returns else Response()
    body.status_code = declaration.status
    body.headers.update(headers)
    return body


def document(app: Flask) -> dict[str, Any]:
    """The OpenAPI 3.1 document of every view that is declared and not hidden."""
    spec = APISpec(
        title="Sentiment",
        version=__version__,
        openapi_version="3.1.0",
        info={"description": inspect.cleandoc(DESCRIPTION), "license": {"name": "MIT"}},
        plugins=[MarshmallowPlugin(schema_name_resolver=_schema_name)],
    )
    spec.components.schema("Problem", schema=ProblemSchema)
    for name, text in HEADERS.items():
        spec.components.header(name, {"description": text, "schema": {"type": "string"}})
    spec.components.security_scheme(
        "password",
        {
            "type": "oauth2",
            "description": "Sign in with username and password; leave client_id and client_secret empty.",
            "flows": {"password": {"tokenUrl": "/api/v1/auth/login", "scopes": {}}},
        },
    )
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
    documented = [
        (rule, view)
        for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule)
        if declaration_of(view := app.view_functions[rule.endpoint]).documented
    ]
    for _, view in documented:
        body = declaration_of(view).body
        if body and body.constraints:
            spec.components.schema(_schema_name(body), body.constraints, schema=body)
    for rule, view in documented:
        spec.path(path=_path(rule), operations=_operations(rule, view), parameters=_parameters(rule))
    return spec.to_dict()


DESCRIPTION = """
    Scores text: negative, neutral or positive, with the model that this service trained and serves.

    Register, sign in with **Authorize**, then try `POST /api/v1/sentiment/analyze`. Errors are
    `application/problem+json` (RFC 9457); quote their `request_id` to the operator.
    """

HEADERS = {
    "X-Request-ID": "Names the request in the log; sent back, or made if none was sent",
    "RateLimit": "What is left of the rate and when it resets (draft-ietf-httpapi-ratelimit-headers-10)",
    "RateLimit-Policy": "The rate itself (draft-ietf-httpapi-ratelimit-headers-10)",
    "Retry-After": "Seconds to wait before another try",
    "WWW-Authenticate": "How to authenticate (RFC 6750)",
    "Location": "Where the new resource is",
    "Preference-Applied": "Which preference was honoured (RFC 7240)",
}

FILE = {"type": "string", "format": "binary"}

REQUEST_HEADERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {
        "description": "Sent again with the same body within a day, the first request's task is the answer "
        "(draft-ietf-httpapi-idempotency-key-header-07)",
        "schema": {"type": "string", "pattern": '^"?[!#-~]{1,255}"?$'},
    },
    "Prefer": {
        "description": "wait=N: up to N seconds, at most 30, for the results (RFC 7240)",
        "schema": {"type": "string", "examples": ["wait=10"]},
    },
    "Last-Event-ID": {"description": "The last event that arrived", "schema": {"type": "string"}},
}

ERROR_HEADERS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}


def _schema_name(schema: Any) -> str:
    cls = schema if isinstance(schema, type) else type(schema)
    return cls.__name__.removesuffix("Schema")


def _path(rule: Rule) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)


def _parameters(rule: Rule) -> list[dict[str, Any]]:
    kinds = {
        "UUIDConverter": {"type": "string", "format": "uuid"},
        "NameConverter": {"type": "string", "pattern": f"^{NameConverter.regex}$"},
    }
    return [
        {
            "in": "path",
            "name": name,
            "required": True,
            "schema": kinds.get(type(converter).__name__, {"type": "string"}),
        }
        for name, converter in rule._converters.items()  # noqa: SLF001  # there is no public way to a rule's kinds
    ]


def _operations(rule: Rule, view: Any) -> dict[str, Any]:
    methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    return {method.lower(): _describe(rule, view, view.operation) for method in methods}


def _describe(rule: Rule, view: Any, declared: Operation) -> dict[str, Any]:
    summary, _, description = inspect.cleandoc(view.__doc__ or "").partition("\n")
    described: dict[str, Any] = {
        "operationId": rule.endpoint.replace(".", "_"),
        "tags": [rule.endpoint.partition(".")[0]],
        "summary": summary.rstrip("."),
        "description": " ".join(description.split()),
        "responses": _responses(rule, declared),
        "security": [] if declared.access == "public" else [{"password": []}, {"bearer": []}],
    }
    described["parameters"] = [
        *([{"in": "query", "schema": declared.query}] if declared.query else []),
        *({"in": "header", "name": name, **REQUEST_HEADERS[name]} for name in declared.request_headers),
    ]
    if declared.body:
        kinds = {JSON: declared.body, FORM: declared.form}
        content = {kind: {"schema": schema} for kind, schema in kinds.items() if schema}
        described["requestBody"] = {"required": True, "content": content}
    if declared.streams:
        described["requestBody"] = {"required": True, "content": {kind: {"schema": FILE} for kind in declared.streams}}
    return described


def _responses(rule: Rule, declared: Operation) -> dict[str, Any]:
    always = ("X-Request-ID", *(("RateLimit", "RateLimit-Policy") if declared.rate else ()))
    successes = {
        status: _success(status, (*always, *declared.headers), declared)
        for status in (declared.status, declared.also)
        if status
    }
    failures = {
        status: {
            **_response(status, (*always, *ERROR_HEADERS.get(status, ()))),
            "content": {"application/problem+json": {"schema": "Problem"}},
        }
        for status in _failures(rule, declared)
    }
    return {str(status): one for status, one in (successes | failures).items()}


def _success(status: int, headers: tuple[str, ...], declared: Operation) -> dict[str, Any]:
    response = _response(status, headers)
    if status != HTTPStatus.NO_CONTENT:
        # A schema describes JSON; what else a view may send is text.
        response["content"] = {
            kind: {"schema": declared.returns or {} if kind == JSON or len(declared.media_types) == 1 else {}}
            for kind in declared.media_types
        }
    return response


def _response(status: int, headers: tuple[str, ...]) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {name: name for name in headers},
    }


def _failures(rule: Rule, declared: Operation) -> list[int]:
    takes_body = bool(declared.body or declared.streams)
    follows = {
        401: declared.access != "public",
        403: declared.access == "administrator",
        404: bool(rule.arguments),
        400: takes_body,
        413: takes_body,
        415: takes_body,
        422: bool(takes_body or declared.query or declared.request_headers),
        429: bool(declared.rate),
        503: bool(declared.rate),
    }
    return sorted({status for status, holds in follows.items() if holds} | set(declared.errors))
