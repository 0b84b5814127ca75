"""Every error leaves the service here, in one shape: application/problem+json (RFC 9457)."""

import json
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import quote

import structlog
import uuid_utils.compat as uuid
from flask import Flask, Response, g, jsonify, request
from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from sentiment_app.extensions import is_disconnect, is_overload

PROBLEM_TYPE = "urn:sentiment-app:problem:"
RETRY_AFTER_SECONDS = 5
NO_HTTP = {LimitRequestLine: 414, ExpectationFailed: 417, LimitRequestHeaders: 431, UnsupportedTransferCoding: 501}

log = structlog.get_logger()


class AppError(Exception):
    """A refusal that the caller can act on. The subclass names it; `detail` is for a human's eyes."""

    status: ClassVar[int]
    kind: ClassVar[str]
    detail: str = ""
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self, detail: str = "", errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail or self.detail
        self.errors = errors


class MalformedError(AppError):
    """The body cannot be parsed at all."""

    status, kind = 400, "malformed"


class UnauthenticatedError(AppError):
    """No valid token (RFC 6750, section 3)."""

    status, kind = 401, "unauthenticated"
    detail = "A valid bearer token is needed."
    headers: ClassVar = {"WWW-Authenticate": 'Bearer realm="sentiment"'}


class InvalidTokenError(UnauthenticatedError):
    """A token came, but it is expired, revoked, forged, or of the wrong kind."""

    kind = "invalid-token"
    detail = "The token is expired, revoked or not valid."
    headers: ClassVar = {"WWW-Authenticate": 'Bearer realm="sentiment", error="invalid_token"'}


class ForbiddenError(AppError):
    """Signed in, and still not allowed."""

    status, kind = 403, "forbidden"
    detail = "Only an administrator may do this."


class NotFoundError(AppError):
    """There is no such thing, or it is not the caller's."""

    status, kind = 404, "not-found"
    detail = "There is no such resource."


class ConflictError(AppError):
    """The request clashes with what is already there."""

    status, kind = 409, "conflict"


class UnsupportedMediaTypeError(AppError):
    """The body is of a type that this route does not read."""

    status, kind = 415, "unsupported-media-type"


class InvalidError(AppError):
    """The body, or a parameter, says something that is not acceptable."""

    status, kind = 422, "invalid"
    detail = "The request has invalid fields; see errors."


class RateLimitedError(AppError):
    """Too many requests; Retry-After says when the next one may come."""

    status, kind = 429, "rate-limited"
    detail = "Too many requests; wait for the time given in Retry-After."


class UnavailableError(AppError):
    """Something that the answer needs is away; the same request may succeed later."""

    status, kind = 503, "unavailable"
    detail = "The database did not answer in time. Try again; it may have done what you asked nevertheless."
    headers: ClassVar = {"Retry-After": str(RETRY_AFTER_SECONDS)}


def init_app(app: Flask) -> None:
    """Turn every exception into a problem, those of each library included."""
    app.register_error_handler(AppError, _app_error)
    app.register_error_handler(HTTPException, _http_exception)
    app.register_error_handler(ParseException, _body_error)
    app.register_error_handler(SQLAlchemyError, _database_error)
    app.register_error_handler(Exception, _unexpected)


def problem(status: int, detail: str, kind: str | None = None, **members: Any) -> Response:
    """A problem document (RFC 9457, section 3); members that are None are left out."""
    members = {"instance": quote(request.path), "request_id": g.request_id, **members}
    answer = jsonify(_document(status, detail, kind, members))
    answer.status_code, answer.mimetype = status, "application/problem+json"
    return answer


def answer_to_no_http(error: ParseException) -> bytes:
    """A whole response, with a problem, to bytes that gunicorn cannot read as a request.

    Neither it nor the log quotes them: where a body is longer than its client said, they are text.
    """
    status, request_id = HTTPStatus(NO_HTTP.get(type(error), 400)), str(uuid.uuid7())
    log.warning("no_http", error=type(error).__name__, status=status, request_id=request_id)
    members = {"instance": f"urn:uuid:{request_id}", "request_id": request_id}
    body = json.dumps(_document(status, "This is no HTTP request that can be read.", None, members))
    return (
        f"HTTP/1.1 {status} {status.phrase}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-ID: {request_id}\r\n\r\n{body}"
    ).encode()


def _document(status: int, detail: str, kind: str | None, members: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": PROBLEM_TYPE + kind if kind else "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **{name: value for name, value in members.items() if value is not None},
    }


def _app_error(error: AppError) -> Response:
    answer = problem(error.status, error.detail, error.kind, errors=error.errors)
    answer.headers.update(error.headers)
    return answer


def _http_exception(error: HTTPException) -> Response:
    status = error.code or 500
    if status == 429:
        return _app_error(RateLimitedError())
    if isinstance(error, RequestEntityTooLarge):
        return problem(413, f"This request's body may have at most {request.max_content_length} bytes.", "too-large")
    answer = problem(status, error.description or "")
    answer.headers.extend(
        (name, value)
        for name, value in error.get_headers(request.environ)
        if name.lower() not in ("content-type", "content-length")
    )
    return answer


def _body_error(error: ParseException) -> Response:
    return _app_error(MalformedError("The body is not chunked as HTTP demands (RFC 9112, section 7.1)."))


def _database_error(error: SQLAlchemyError) -> Response:
    if is_disconnect(error) or is_overload(error):
        log.error("database_unavailable", error=type(error).__name__)
        return _app_error(UnavailableError())
    return _unexpected(error)


def _unexpected(error: Exception) -> Response:
    # A database error's message quotes the statement's parameters, which are customers' text.
    log.error("unexpected_error", error=type(error).__name__, where=_innermost_frames(error))
    return problem(500, "Something went wrong here; the log knows this request_id.", "internal")


def _innermost_frames(error: BaseException, deepest: int = 8) -> list[str]:
    frames = []
    trace = error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-deepest:]
