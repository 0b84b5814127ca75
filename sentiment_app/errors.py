"""The errors that services raise. `web/problems.py` turns them into responses; nothing here knows HTTP.

A service raises the subclass that names what went wrong. The base classes below decide how the error is answered.
"""

from typing import ClassVar


class AppError(Exception):
    """Base class of every error that a caller can act on.

    Args:
        detail: says what happened, why, and what to do. Callers read it.
        field: the name of the input field that is wrong, if the error is about a field.
    """

    kind: ClassVar[str]
    """Identifies the error to programs. `docs/errors.md` has a section for each kind."""
    detail: str = ""
    retry_after_seconds: ClassVar[int | None] = None
    columns: list[str] | None = None
    """The columns of a file, if the caller must choose one of them."""
    challenge: str | None = None
    """The parameters of the challenge that the response contains (RFC 6750, section 3)."""

    def __init__(self, detail: str = "", *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail or self.detail
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: {self.detail}" if self.field else self.detail


class MalformedError(AppError):
    """The input cannot be parsed."""

    kind = "malformed"


class UnauthenticatedError(AppError):
    """The caller did not prove who they are."""

    kind = "unauthenticated"
    challenge = ""
    detail = "This request needs a bearer token. Sign in, and send the access token in the Authorization header."


class InvalidTokenError(UnauthenticatedError):
    """The token is expired, revoked, forged, or of the wrong type."""

    kind = "invalid-token"
    challenge = ', error="invalid_token"'
    detail = (
        "The token is expired, revoked or not valid. Refresh the session. "
        "If the refresh token is refused too, sign in again."
    )


class ForbiddenError(AppError):
    """The caller is known, and is not allowed to do this."""

    kind = "forbidden"
    detail = "Only an administrator may do this."


class NotFoundError(AppError):
    """The resource does not exist, or belongs to another user."""

    kind = "not-found"
    detail = "This resource does not exist, or it belongs to another user."


class TimedOutError(AppError):
    """The caller took too long to send the request."""

    kind = "timed-out"


class ConflictError(AppError):
    """The request conflicts with the current state."""

    kind = "conflict"


class GoneError(AppError):
    """The resource existed, and was deleted for good."""

    kind = "gone"


class TooLargeError(AppError):
    """The input is larger than a limit."""

    kind = "too-large"


class InvalidError(AppError):
    """The input can be parsed, and a value in it is not acceptable."""

    kind = "invalid"
    detail = "The request has invalid fields. See `errors`."


class RateLimitedError(AppError):
    """The caller sent too many requests."""

    kind = "rate-limited"
    detail = "You sent too many requests. Retry after the number of seconds in Retry-After."


class UnavailableError(AppError):
    """A dependency does not answer, or there is no capacity left. The same request may succeed later."""

    kind = "unavailable"
    detail = "The service cannot process the request at the moment. Retry later."
    retry_after_seconds = 5


class OutcomeUnknownError(UnavailableError):
    """A dependency did not answer while the request was carried out."""

    kind = "outcome-unknown"
    detail = "The database did not answer in time. The request may have been carried out. Check before you repeat it."
