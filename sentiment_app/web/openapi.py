"""The OpenAPI 3.1 document, generated from what the views declare."""

import inspect
import re
from http import HTTPStatus
from typing import Any, NamedTuple

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask
from werkzeug.routing import Rule

from sentiment_app import __version__
from sentiment_app.web.operation import FORM, JSON, SCOPES, NameConverter, Operation, operation_of
from sentiment_app.web.problems import PROBLEM_TYPE
from sentiment_app.web.schemas import ProblemSchema

TOKEN_URL = "/api/v1/auth/login"  # noqa: S105  # a path, not a password
DESCRIPTION = """
    Scores text as negative, neutral or positive.

    To try it here, register with `POST /api/v1/auth/register`, sign in with **Authorize**, and call
    `POST /api/v1/sentiment/analyze`. Errors are `application/problem+json` (RFC 9457). Each has a `request_id` that
    the operator can find in the log.
    """

HEADERS = {
    "X-Request-ID": "Identifies the request in the log. Copied from the request, or generated",
    "RateLimit": "Remaining requests, and seconds until the limit resets (draft-ietf-httpapi-ratelimit-headers-10)",
    "RateLimit-Policy": "The rate limit (draft-ietf-httpapi-ratelimit-headers-10)",
    "Retry-After": "Seconds to wait before a retry",
    "WWW-Authenticate": "How to authenticate (RFC 6750)",
    "Location": "The URL of the new resource",
    "Preference-Applied": "The preference that was applied (RFC 7240)",
}

FILE = {"type": "string", "format": "binary"}

REQUEST_HEADERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {
        "description": "A request with the same key and the same body within 24 hours returns the task of the first "
        "request (draft-ietf-httpapi-idempotency-key-header-07)",
        "schema": {"type": "string", "pattern": '^"?[!#-~]{1,255}"?$'},
    },
    "Prefer": {
        "description": "wait=N waits up to N seconds, at most 30, for the results (RFC 7240)",
        "schema": {"type": "string", "examples": ["wait=10"]},
    },
    "Last-Event-ID": {"description": "The id of the last event that the client received", "schema": {"type": "string"}},
}

TAGS = {
    "auth": "Sign in, and see your sessions.",
    "users": "Your profile and API keys; for administrators, all accounts.",
    "sentiment": "Score a text, and read the history.",
    "feedback": "Say which label of a text is right, for training.",
    "tasks": "Score files and many texts.",
    "models": "The released models.",
    "webhooks": "The secret that signs webhooks.",
    "usage": "How many rows were scored, and quotas.",
    "privacy": "Export and erase what belongs to an account.",
    "audit": "The audit log, for administrators.",
    "events": "What a webhook receives.",
    "health": "Whether the service works, and its version.",
    "docs": "This document.",
}


class Error(NamedTuple):
    """A response that many operations share: its name in the document, the type of an example, and what it means."""

    name: str
    kind: str
    text: str


ERRORS = {
    400: Error("Malformed", "malformed", "The body cannot be parsed."),
    401: Error("Unauthenticated", "invalid-token", "The token or API key is missing or not valid."),
    403: Error("Forbidden", "forbidden", "The caller may not do this."),
    404: Error("NotFound", "not-found", "It does not exist, or belongs to somebody else."),
    408: Error("TooSlow", "upload-too-slow", "The upload did not arrive in time."),
    409: Error("Conflict", "task-state", "The state of the resource does not allow this."),
    410: Error("Gone", "expired", "The results were deleted after their retention time."),
    413: Error("TooLarge", "too-large", "The body is too large."),
    415: Error("UnsupportedMediaType", "unsupported-media-type", "This route does not read this type of body."),
    422: Error("Invalid", "invalid", "A field is not valid. `errors` points to it."),
    429: Error("RateLimited", "rate-limited", "A rate limit or a quota is used up."),
    503: Error("Unavailable", "unavailable", "The service cannot answer at the moment."),
}
PROBLEM_JSON = "application/problem+json"

ERROR_HEADERS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}


def document(app: Flask) -> dict[str, Any]:
    """The OpenAPI 3.1 document of all documented views."""
    spec = APISpec(
        title="Sentiment",
        version=__version__,
        openapi_version="3.1.0",
        info={
            "description": inspect.cleandoc(DESCRIPTION),
            "contact": {"name": "The operator of this service"},
            "license": {"name": "MIT", "url": "https://opensource.org/license/mit"},
        },
        servers=[{"url": "/", "description": "The host that serves this document"}],
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        plugins=[MarshmallowPlugin(schema_name_resolver=_schema_name)],
    )
    spec.components.schema("Problem", schema=ProblemSchema)
    for name, text in HEADERS.items():
        spec.components.header(name, {"description": text, "schema": {"type": "string"}})
    for status, error in ERRORS.items():
        spec.components.response(error.name, _error(status, error))
    spec.components.security_scheme(
        "password",
        {
            "type": "oauth2",
            "description": "Sign in with username and password. Leave client_id and client_secret empty.",
            "flows": {"password": {"tokenUrl": TOKEN_URL, "refreshUrl": TOKEN_URL, "scopes": {}}},
        },
    )
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
    spec.components.security_scheme(
        "apiKey",
        {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "snt_live_…",
            "description": "An API key. Its scopes: " + " ".join(f"`{name}`: {use}" for name, use in SCOPES.items()),
        },
    )
    documented = [
        (rule, view)
        for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule)
        if operation_of(view := app.view_functions[rule.endpoint]).documented
    ]
    for _, view in documented:
        body = operation_of(view).body
        if body and body.constraints:
            spec.components.schema(_schema_name(body), body.constraints, schema=body)
    for rule, view in documented:
        spec.path(path=_path(rule), operations=_operations(rule, view), parameters=_parameters(rule))
    return spec.to_dict() | {"webhooks": _webhooks()}


def _webhooks() -> dict[str, Any]:
    """The request that a webhook receives."""
    event = {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"type": "string", "enum": ["task.completed", "task.failed", "task.cancelled"]},
            "timestamp": {"type": "string", "format": "date-time"},
            "data": {"type": "object", "description": "The task, without results"},
        },
    }
    received = {
        "operationId": "task_has_ended",
        "tags": ["events"],  # generators of clients would mix it with the operations of another tag
        "summary": "A task has ended",
        "description": "Sent to the `webhook_url` of a task, and signed (Standard Webhooks 1.0.0) in the headers "
        "`webhook-id`, `webhook-timestamp` and `webhook-signature`. It is repeated for a day with the same "
        "`webhook-id`, until it is answered with 2xx.",
        "requestBody": {"required": True, "content": {JSON: {"schema": event}}},
        "responses": {
            "204": {"description": "The event was received."},
            "4XX": {"description": "The event was not received. It is sent again."},
        },
        "security": [],
    }
    return {"taskEnded": {"post": received}}


def _error(status: int, error: Error) -> dict[str, Any]:
    example = {
        "type": PROBLEM_TYPE + error.kind,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.text,
        "instance": "/api/v1/sentiment/tasks",
        "request_id": "01a21f6c-56fc-73a9-82a3-efa34a6d9695",
    }
    headers = ("X-Request-ID", "RateLimit", "RateLimit-Policy", *ERROR_HEADERS.get(status, ()))
    return {
        **_response(status, headers),
        "description": error.text,
        "content": {PROBLEM_JSON: {"schema": "Problem", "example": example}},
    }


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
        for name, converter in rule._converters.items()  # noqa: SLF001  # werkzeug has no public way to a rule's converters
    ]


def _operations(rule: Rule, view: Any) -> dict[str, Any]:
    methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    return {method.lower(): _describe(rule, view, view.operation) for method in methods}


def _security(declared: Operation) -> list[dict[str, list[str]]]:
    """Who may call an operation. The description names the scopes of API keys."""
    schemes = ("password", "bearer", "apiKey") if declared.scopes else ("password", "bearer")
    return [{scheme: []} for scheme in schemes]


def _needs(declared: Operation) -> str:
    """Who may call an operation, in a sentence."""
    who = "Only administrators may do this. " if declared.access == "administrator" else ""
    if declared.access == "public":
        return ""
    if not declared.scopes:
        return f"{who}An API key cannot do this: it needs the access token of a person."
    return f"{who}An API key needs the scope {' or '.join(f'`{scope}`' for scope in declared.scopes)}."


def _describe(rule: Rule, view: Any, declared: Operation) -> dict[str, Any]:
    summary, _, description = inspect.cleandoc(view.__doc__ or "").partition("\n")
    described: dict[str, Any] = {
        "operationId": rule.endpoint.replace(".", "_"),
        "tags": [rule.endpoint.partition(".")[0]],
        "summary": summary.rstrip("."),
        "description": " ".join([*(description.split() or summary.split()), _needs(declared)]).strip(),
        "responses": _responses(rule, declared),
        "security": [] if declared.access == "public" else _security(declared),
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
        files = {kind: {"schema": _file_schema(kind, declared)} for kind in declared.streams}
        described["requestBody"] = {"required": True, "content": files}
    return described


def _file_schema(kind: str, declared: Operation) -> dict[str, Any]:
    """What a file of a media type is to a generator of clients: a list, a form, or bytes."""
    if kind == JSON:
        item = {"type": "object", "properties": {"text": {"type": "string"}, "custom_id": {"type": "string"}}}
        return {"type": "array", "items": {"anyOf": [{"type": "string"}, item]}}
    if kind == "multipart/form-data":
        options = {name: {"type": "string"} for name in declared.query.fields} if declared.query else {}
        return {"type": "object", "required": ["file"], "properties": {**options, "file": FILE}}
    return FILE


def _responses(rule: Rule, declared: Operation) -> dict[str, Any]:
    """The responses of an operation. A name refers to a response of the components."""
    always = ("X-Request-ID", *(("RateLimit", "RateLimit-Policy") if declared.rates else ()))
    successes = {
        status: _success(status, (*always, *declared.headers), declared)
        for status in (declared.status, declared.also)
        if status
    }
    failures = {status: ERRORS[status].name for status in _failures(rule, declared)}
    return {str(status): response for status, response in (successes | failures).items()}


def _success(status: int, headers: tuple[str, ...], declared: Operation) -> dict[str, Any]:
    response = _response(status, headers)
    if status != HTTPStatus.NO_CONTENT:
        # The schema describes JSON. Other media types are text.
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
        422: bool(takes_body or declared.query),
        429: True,  # Nginx limits all routes
        503: bool(declared.rates),
    }
    return sorted({status for status, holds in follows.items() if holds} | set(declared.errors))
