"""The operations of the API, as flows (see flow.py)."""

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import httpx

from sentiment_client.errors import ConflictError, NotFoundError, ServiceUnreachableError, TaskFailedError
from sentiment_client.flow import COMPRESSIONS, PIECE_BYTES, Flow, Pause, Request, media_type, read_file, send
from sentiment_client.types import Analysis, Progress, Row, read_analysis, read_progress, read_row

T = TypeVar("T")
Source = str | PathLike[str] | Iterable[str | Mapping[str, Any]]
"""A path, or rows: strings, or objects with a `text` and perhaps a `custom_id`."""

NDJSON = "application/x-ndjson"
FIRST_POLL, LONGEST_POLL = 0.1, 2.0
RESULTS = {suffix: media_type(Path(f"results{suffix}")) for suffix in (".csv", ".ndjson", ".xlsx", ".parquet")}


class Operations:
    """The operations of the API.

    Args:
        patience: how long a request is repeated while it may succeed later, in seconds.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience

    def analyze(self, text: str, *, model: str | None, explain: bool, store: bool) -> Flow[Analysis]:
        """Score a text."""
        body = {"text": text, "explain": explain, "store": store} | ({"model": model} if model else {})
        request = Request("POST", "/sentiment/analyze", json=body, is_safe=False)
        return _read(read_analysis, (yield from self._json(request)))

    def correct(self, text: str, label: str) -> Flow[None]:
        """Store the right label of a text. A repeated request changes nothing."""
        yield from self._json(Request("POST", "/sentiment/feedback", json={"text": text, "label": label}))

    def submit(self, source: Source, options: Mapping[str, Any]) -> Flow[Progress]:
        """Create a task from a file or from rows."""
        # A wrong url or key is noticed before a large file is sent.
        yield from self.get("/sentiment/tasks", {"limit": 1})
        query = {name: value for name, value in options.items() if value is not None}
        if query.pop("keep_columns", False):
            query["keep"] = "columns"
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        if isinstance(source, str | PathLike):
            path = Path(source)
            compression = COMPRESSIONS.get(path.suffix.lower())
            kind = media_type(path.with_suffix("") if compression else path)
            size = path.stat().st_size
            headers |= {"Content-Type": kind, "Content-Length": str(size)}
            headers |= {"Content-Encoding": compression} if compression else {}
            request = Request(
                "POST", "/sentiment/tasks", query, headers, lambda: read_file(path, size), reads_file=True
            )
        else:
            _check_rows(source)
            is_repeatable = isinstance(source, Sequence)
            headers["Content-Type"] = NDJSON
            rows = source
            request = Request(
                "POST", "/sentiment/tasks", query, headers, lambda: _lines(rows), is_repeatable=is_repeatable
            )
        return _read(read_progress, (yield from self._json(request)))

    def progress(self, task_id: str) -> Flow[Progress]:
        """The state of a task."""
        return _read(read_progress, (yield from self._json(Request("GET", _task_path(task_id)))))

    def wait(self, task_id: str, report: Any) -> Flow[Progress]:
        """Wait until a task has ended.

        Raises:
            TaskFailedError: it failed, or was cancelled.
        """
        pause = FIRST_POLL
        while True:
            progress = yield from self.progress(task_id)
            report(progress)
            if progress.has_ended:
                break
            yield Pause(pause)
            pause = min(LONGEST_POLL, pause * 1.5)
        if progress.status != "completed":
            raise TaskFailedError(progress)
        return progress

    def change(self, task_id: str, action: str) -> Flow[Progress]:
        """Cancel or retry a task."""
        request = Request("POST", f"{_task_path(task_id)}/{action}")
        try:
            return _read(read_progress, (yield from self._json(request)))
        except ConflictError as error:
            if not error.was_repeated:
                raise
        return (yield from self.progress(task_id))  # the answer to the first request was lost

    def delete(self, task_id: str) -> Flow[None]:
        """Delete a task."""
        try:
            yield from send(Request("DELETE", _task_path(task_id)), self.patience)
        except NotFoundError as error:
            if not error.was_repeated:  # otherwise the answer to the first request was lost
                raise

    def tasks(self, status: str | None) -> Flow[list[Progress]]:
        """All tasks, newest first."""
        found: list[Progress] = []
        query: dict[str, Any] = {"limit": 100} | ({"status": status} if status else {})
        while True:
            page = yield from self._json(Request("GET", "/sentiment/tasks", query))
            found += [_read(read_progress, item) for item in page["items"]]
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Flow[Any]:
        """The JSON of a path."""
        return (yield from self._json(Request("GET", path, query or {})))

    def _json(self, request: Request) -> Flow[Any]:
        response: httpx.Response = yield from send(request, self.patience)
        try:
            return _Answer(response.json())
        except (ValueError, TypeError):
            raise _unexpected(response) from None


class _Answer(dict[str, Any]):
    """An object of JSON. A field that is missing means that the answer is not one of this service."""

    def __missing__(self, name: str) -> Any:
        raise ServiceUnreachableError(f"The answer of the service has no {name!r}. Check its url.")


def _read(read: Callable[[Any], T], body: Any) -> T:
    """A part of an answer, or the error that it is not one of this service."""
    try:
        return read(body)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ServiceUnreachableError(f"The answer of the service has an unexpected form: {error!r}") from None


def _task_path(task_id: str) -> str:
    if not re.fullmatch("[0-9A-Za-z-]{1,64}", task_id):
        raise ValueError(f"{task_id[:64]!r} is not the id of a task.")
    return f"/sentiment/tasks/{task_id}"


def _unexpected(response: httpx.Response) -> ServiceUnreachableError:
    kind = response.headers.get("Content-Type", "nothing")
    return ServiceUnreachableError(f"The service answered with {kind} instead of JSON. Check its url.")


def _check_rows(source: Any) -> None:
    """Refuse what is iterable by mistake: an object would be read as its names, and a table as its columns.

    Raises:
        TypeError
    """
    if isinstance(source, Mapping | bytes | bytearray) or hasattr(source, "columns"):
        raise TypeError(
            f"Rows are strings, or objects with a `text`, not {type(source).__name__}. Send a list of them; of a "
            "DataFrame, for example frame['review'].tolist()."
        )


def results_request(progress: Progress, suffix: str, *, after: int = -1) -> Request:
    """The request for the results of a task, in the format of a suffix such as `.csv`.

    Raises:
        ValueError: the service does not write this format.
    """
    if suffix not in RESULTS:
        raise ValueError(f"Results cannot be written as {suffix or 'a file without an ending'}: {', '.join(RESULTS)}")
    query = {"cursor": after, "include": ",".join(_included(progress))}
    if progress.status in ("failed", "cancelled"):
        query["partial"] = "true"  # the rows that were scored before
    return Request("GET", f"{_task_path(progress.task_id)}/results", query, {"Accept": RESULTS[suffix]})


def _included(progress: Progress) -> list[str]:
    """What the results of a task can include: always the texts, and the columns that were kept."""
    has_columns = "kept_columns" in (progress.details.get("format") or {})
    return ["text", "columns"] if has_columns else ["text"]


class Lines:
    """Divides NDJSON into lines. Only a line feed ends a line: texts may contain other line ends, such as U+2028."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, piece: bytes) -> list[bytes]:
        """The lines that are complete after another piece."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return lines

    def check_end(self, last_index: int, progress: Progress) -> None:
        """Check that all rows of a task have arrived.

        Raises:
            httpx.RemoteProtocolError: the end is missing.
        """
        if self._rest.strip() or (progress.status == "completed" and last_index < progress.total - 1):
            raise httpx.RemoteProtocolError("the answer was cut off")


def parse_row(line: bytes) -> Row:
    """A row of a task from a line of NDJSON."""
    return _read(lambda content: read_row(json.loads(content)), line)


def _lines(rows: Iterable[str | Mapping[str, Any]]) -> Iterator[bytes]:
    piece = b""
    for number, row in enumerate(rows, 1):
        if not isinstance(row, str | Mapping):
            raise TypeError(f"Row {number} is {type(row).__name__}, not a string or an object with a `text`.")
        value = row if isinstance(row, str) else dict(row)
        piece += json.dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="surrogatepass") + b"\n"
        if len(piece) >= PIECE_BYTES:
            yield piece
            piece = b""
    yield piece
