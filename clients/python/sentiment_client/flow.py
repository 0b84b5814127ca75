"""The requests of the API, written once for the client that blocks and for the client that does not.

An operation is a generator, a *flow*: it yields requests and pauses, and gets the responses. A driver sends the
requests with httpx.Client or httpx.AsyncClient. The idea comes from httpx's authentication flows.
"""

import random
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx

from sentiment_client import errors

T = TypeVar("T")
Content = Callable[[], Iterable[bytes]] | bytes | None
"""The body of a request. A function is called for each attempt, so that the body can be sent again."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
REPEATABLE = (429, 502, 503, 504)
# Errors after which the same request may succeed. A wrong URL, for example, stays wrong.
TEMPORARY = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError, httpx.ProxyError)


@dataclass(frozen=True)
class Request:
    """A request.

    Args:
        path: after `/api/v1`.
        is_safe: whether it may be repeated after a lost connection, when it was perhaps carried out.
        is_repeatable: whether its body can be sent again.
        reads_file: whether to make its body blocks.
    """

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Content = None
    json: Any = None
    is_safe: bool = True
    is_repeatable: bool = True
    reads_file: bool = False


@dataclass(frozen=True)
class Pause:
    """Wait for some seconds."""

    seconds: float


Step = Request | Pause
Flow = Generator[Step, Any, T]


def send(request: Request, patience: float) -> Flow[httpx.Response]:
    """Send a request, and repeat it for at most `patience` seconds while it may succeed later.

    The driver answers with a response, or with the error of httpx.

    Raises:
        ApiError: the service refused it.
        ServiceUnreachableError: there was no answer.
    """
    deadline = time.monotonic() + patience
    attempt = 0
    while True:
        answer = yield request
        may_repeat = request.is_repeatable
        if isinstance(answer, httpx.Response):
            if answer.is_success:
                return answer
            error: Exception = _refused(answer, was_repeated=attempt > 0)
            may_repeat &= answer.status_code in REPEATABLE
            may_repeat &= request.is_safe or was_not_carried_out(error)
            pause = pause_before(attempt, answer.headers.get("Retry-After"))
        else:
            error = errors.ServiceUnreachableError(f"The service did not answer: {type(answer).__name__}: {answer}")
            may_repeat &= isinstance(answer, TEMPORARY)
            may_repeat &= request.is_safe or isinstance(answer, httpx.ConnectError | httpx.ConnectTimeout)
            pause = pause_before(attempt, None)
        if not may_repeat or time.monotonic() + pause > deadline:
            raise error
        yield Pause(pause)
        attempt += 1


def _refused(answer: httpx.Response, *, was_repeated: bool) -> errors.ApiError:
    error = errors.from_response(answer.status_code, answer.content)
    error.was_repeated = was_repeated
    return error


def was_not_carried_out(error: Exception) -> bool:
    """Whether a refused request certainly had no effect, so that it may be repeated even if it is not safe."""
    return isinstance(error, errors.ApiError) and error.status in (429, 503) and error.type != "outcome-unknown"


def pause_before(attempt: int, retry_after: str | None) -> float:
    """The seconds until the next attempt: longer each time, at random, and at least what the service asks for."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
    return _seconds(retry_after) + random.uniform(longest / 2, longest)


def _seconds(retry_after: str | None) -> float:
    """The value of Retry-After: seconds, or a date (RFC 9110, section 10.2.3)."""
    if retry_after is None:
        return 0.0
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return 0.0


COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
MEDIA_TYPES = {
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/csv",
    ".ndjson": "application/x-ndjson",
    ".jsonl": "application/x-ndjson",
    ".json": "application/json",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".parquet": "application/vnd.apache.parquet",
}
PIECE_BYTES = 256 * 1024


def media_type(path: Path) -> str:
    """The media type of a file, by its suffix.

    Raises:
        ValueError: the suffix is not known.
    """
    found = MEDIA_TYPES.get(path.suffix.lower())
    if found is None:
        raise ValueError(f"{path.name} has none of these endings: {', '.join(MEDIA_TYPES)}")
    return found


def read_file(path: Path, size: int) -> Iterable[bytes]:
    """The first `size` bytes of a file, in pieces. A file that grows meanwhile is sent as it was."""
    with path.open("rb") as file:
        while size > 0 and (piece := file.read(min(size, PIECE_BYTES))):
            size -= len(piece)
            yield piece
