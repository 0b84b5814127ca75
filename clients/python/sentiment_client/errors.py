"""What can go wrong."""

import json
from collections.abc import Sequence
from typing import Any

from sentiment_client.types import FieldError, Progress


class ServiceUnreachableError(Exception):
    """The service did not answer, the connection was lost, or the answer is not one of this service."""


class TaskFailedError(Exception):
    """The task ended without scoring all rows. `progress` says what was done."""

    def __init__(self, progress: Progress) -> None:
        reason = progress.details.get("error")
        super().__init__(f"The task is {progress.status}{f': {reason}' if reason else '.'}")
        self.progress = progress

    def __reduce__(self) -> Any:
        return self.__class__, (self.progress,)


class ApiError(Exception):
    """The service refused a request, and explained it with a problem document (RFC 9457).

    Args:
        status: the HTTP status.
        type: names the kind of problem, such as "quota-exceeded"; see the documentation of the service.
        detail: what happened, and what to do.
        errors: the fields of the request that are wrong.
        request_id: names the request in the log of the service.
    """

    def __init__(
        self, status: int, type: str, detail: str, errors: Sequence[FieldError] = (), request_id: str | None = None
    ) -> None:
        fields = "".join(f"\n  {error.pointer.lstrip('/') or 'body'}: {error.detail}" for error in errors)
        super().__init__(f"{detail} ({status} {type}){fields}")
        self.status, self.type, self.detail = status, type, detail
        self.errors, self.request_id = tuple(errors), request_id
        self.retry_after: str | None = None
        """The header Retry-After of the answer."""
        self.was_repeated = False
        """Whether the request was sent before, so that it may have been carried out."""

    def __reduce__(self) -> Any:
        return self.__class__, (self.status, self.type, self.detail, self.errors, self.request_id)


class AuthenticationError(ApiError):
    """The API key is missing, wrong, expired or revoked."""


class PermissionDeniedError(ApiError):
    """The API key lacks a scope, or may not be used from this network."""


class NotFoundError(ApiError):
    """The task, the model or the text does not exist, or belongs to somebody else."""


class ConflictError(ApiError):
    """The state of the task or of the model does not allow this."""


class InvalidRequestError(ApiError):
    """The request or the file is not valid. `errors` names the fields."""


class RateLimitedError(ApiError):
    """A rate limit or a quota is used up."""


class UnavailableError(ApiError):
    """The service cannot answer at the moment."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: NotFoundError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimitedError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}


def from_response(status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """The error of a response. A proxy in between may have sent something that is not a problem document."""
    try:
        problem = json.loads(body)
        kind = str(problem.get("type", "about:blank")).rpartition(":")[2]
        detail = problem.get("detail") or problem.get("title") or f"The service answered with status {status}."
        given = problem.get("errors") or ()
        errors = [FieldError(str(error["in"]), str(error["pointer"]), str(error["detail"])) for error in given]
        request_id = problem.get("request_id")
    except (ValueError, AttributeError, KeyError, TypeError):
        kind, detail, errors, request_id = "blank", f"The service answered with status {status}.", [], None
    error = _BY_STATUS.get(status, ApiError)(status, kind, detail, errors, request_id)
    error.retry_after = retry_after
    return error
