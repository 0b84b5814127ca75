"""Error responses: this module turns every error into application/problem+json (RFC 9457)."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import structlog
from flask import Flask, Response, current_app, g, jsonify, request
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from sentiment_app import errors
from sentiment_app.errors import AppError
from sentiment_app.infrastructure.database import (
    RESOURCE_ERRORS,
    is_out_of_resources,
    is_overload,
    is_transient,
    sqlstate,
)

PROBLEM_TYPE = "urn:sentiment-app:problem:"


class UnsupportedMediaTypeError(AppError):
    """The body has a media type that this route does not read."""

    kind = "unsupported-media-type"


# An error has the status of its nearest base class in this table.
STATUSES = {
    errors.MalformedError: 400,
    errors.UnauthenticatedError: 401,
    errors.ForbiddenError: 403,
    errors.NotFoundError: 404,
    errors.TimedOutError: 408,
    errors.ConflictError: 409,
    errors.GoneError: 410,
    errors.TooLargeError: 413,
    UnsupportedMediaTypeError: 415,
    errors.InvalidError: 422,
    errors.RateLimitedError: 429,
    errors.UnavailableError: 503,
}

# The errors of OAuth 2.0 (RFC 6749, section 5.2) by class of errors.
OAUTH_ERRORS = {
    errors.MalformedError: "invalid_request",
    errors.InvalidError: "invalid_request",
    errors.TooLargeError: "invalid_request",
    errors.UnauthenticatedError: "invalid_grant",
}
NOT_IN_DESCRIPTION = re.compile(r"[^ !#-\[\]-~]+")

DATABASE_UNAVAILABLE = "The database did not answer in time. Retry later."

log = structlog.get_logger()


class InvalidFieldsError(errors.InvalidError):
    """Fields of the request are invalid.

    Args:
        fields: for each field its location ("in"), a JSON pointer to it (RFC 6901) and the reason ("detail").
    """

    def __init__(self, fields: Sequence[dict[str, str]]) -> None:
        super().__init__()
        self.fields = list(fields)

    def __str__(self) -> str:
        return "\n".join(f"{field['pointer'].removeprefix('/')}: {field['detail']}" for field in self.fields)


def init_app(app: Flask) -> None:
    """Turn every exception into a problem document, including exceptions of libraries."""
    app.register_error_handler(AppError, to_response)
    app.register_error_handler(HTTPException, _http_exception)
    app.register_error_handler(SQLAlchemyError, _database_error)
    app.register_error_handler(Exception, _unexpected)


def status_of(error: type[AppError]) -> int:
    """The HTTP status of a class of errors."""
    return next(STATUSES[base] for base in error.__mro__ if base in STATUSES)


def problem(status: int, detail: str, kind: str | None = None, **members: Any) -> Response:
    """A problem document (RFC 9457, section 3). Members that are None are left out."""
    members = {"instance": quote(request.path), "request_id": g.request_id, **members}
    answer = jsonify(document(status, detail, kind, members))
    answer.status_code, answer.mimetype = status, "application/problem+json"
    return answer


def document(status: int, detail: str, kind: str | None, members: dict[str, Any]) -> dict[str, Any]:
    """The members of a problem document. Without a kind, its status says everything ("about:blank")."""
    return {
        "type": PROBLEM_TYPE + kind if kind else "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **{name: value for name, value in members.items() if value is not None},
    }


def to_response(error: AppError) -> Response:
    """The response to an error that a service raised."""
    status, oauth = status_of(type(error)), _oauth_members(error)
    if "error" in oauth and status in (401, 422):
        status = 400  # as RFC 6749 says
    answer = problem(status, error.detail, error.kind, errors=_fields(error), columns=error.columns, **oauth)
    if error.retry_after_seconds is not None:
        answer.headers["Retry-After"] = str(error.retry_after_seconds)
    if error.challenge is not None and "error" not in oauth:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="sentiment"' + error.challenge
    return answer


def _oauth_members(error: AppError) -> dict[str, str]:
    """The error of a form that an OAuth 2.0 client sent, for its library (RFC 6749, section 5.2)."""
    operation = getattr(current_app.view_functions.get(request.endpoint or ""), "operation", None)
    if not getattr(operation, "form", None) or request.mimetype != "application/x-www-form-urlencoded":
        return {}
    code = next((OAUTH_ERRORS[base] for base in type(error).__mro__ if base in OAUTH_ERRORS), None)
    if code is None:
        return {}
    fields = error.fields if isinstance(error, InvalidFieldsError) else []
    if any(field["pointer"] == "/grant_type" and field["detail"].startswith("Must be one of") for field in fields):
        code = "unsupported_grant_type"
    return {"error": code, "error_description": NOT_IN_DESCRIPTION.sub(" ", str(error))}


def _fields(error: AppError) -> list[dict[str, str]] | None:
    if isinstance(error, InvalidFieldsError):
        return error.fields
    if error.field is None:
        return None
    return [{"in": _location(error.field), "pointer": f"/{error.field}", "detail": error.detail}]


def _location(field: str) -> str:
    """Where the current operation takes a field from: the query if its schema has the field, else the body."""
    view = current_app.view_functions.get(request.endpoint or "")
    query = getattr(getattr(view, "operation", None), "query", None)
    return "query" if query and field in query.fields else "body"


def _http_exception(error: HTTPException) -> Response:
    status = error.code or 500
    if isinstance(error, RequestEntityTooLarge):
        limit = request.max_content_length
        return to_response(errors.TooLargeError(f"The body is too large. This route accepts at most {limit} bytes."))
    answer = problem(status, error.description or "")
    answer.headers.extend(
        (name, value)
        for name, value in error.get_headers(request.environ)
        if name.lower() not in ("content-type", "content-length")
    )
    return answer


def _database_error(error: SQLAlchemyError) -> Response:
    if is_out_of_resources(error):
        RESOURCE_ERRORS.get().record()
        log.error("database_out_of_resources", sqlstate=sqlstate(error))
        return to_response(
            errors.UnavailableError("The database lacks disk space, memory or connections. Retry later.")
        )
    if is_transient(error) or is_overload(error):
        log.error("database_unavailable", error=type(error).__name__)
        if g.get("has_begun") and request.method not in ("GET", "HEAD"):
            return to_response(errors.OutcomeUnknownError())
        return to_response(errors.UnavailableError(DATABASE_UNAVAILABLE))
    return _unexpected(error)


def _unexpected(error: Exception) -> Response:
    # The message of a database error quotes the statement's parameters, which are customers' text.
    log.error("unexpected_error", error=type(error).__name__, where=_innermost_frames(error))
    detail = "The service failed unexpectedly. Tell the operator the request_id: the log has an entry for it."
    return problem(500, detail, "internal")


def _innermost_frames(error: BaseException, limit: int = 8) -> list[str]:
    frames = []
    trace = error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-limit:]
