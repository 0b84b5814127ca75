"""What both clients need to send requests and to read downloads."""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from sentiment_client import errors
from sentiment_client.flow import REPEATABLE, Request, pause_before
from sentiment_client.operations import Operations

API = "/api/v1"
TIMEOUT = httpx.Timeout(60, connect=10)


class Settings:
    """What both clients are made of."""

    def __init__(self, url: str | None, key: str | None, patience: float) -> None:
        url, key = url or os.environ.get("SENTIMENT_URL"), key or os.environ.get("SENTIMENT_KEY")
        url, key = (url or "").strip(), (key or "").strip()
        if not url or not key:
            raise ValueError("Give the url and the key of the service, or set SENTIMENT_URL and SENTIMENT_KEY.")
        if not url.startswith(("http://", "https://")):
            raise ValueError("The url must begin with https:// (or http://).")  # not quoted, as it may be the key
        try:
            httpx.URL(url)
            is_complete = urlsplit(url).port != 0 and bool(urlsplit(url).hostname)
        except (httpx.InvalidURL, ValueError):
            is_complete = False
        if not is_complete:
            raise ValueError("The url is not valid. Write it as https://sentiment.example.org, perhaps with a port.")
        if not key.isascii() or not key.isprintable():
            raise ValueError("The key has characters that no key has. Copy it again.")
        self.options: dict[str, Any] = {
            "base_url": url.rstrip("/") + API,
            "headers": {"Authorization": f"Bearer {key}", "User-Agent": "sentiment-client"},
            "timeout": TIMEOUT,
        }
        self.operations = Operations(patience)


def prepare(request: Request) -> dict[str, Any]:
    """The arguments of httpx for a request."""
    headers = dict(request.headers)
    content = request.content() if callable(request.content) else request.content
    if content is None and "Content-Length" in headers:
        del headers["Content-Length"]
    if request.json is not None:
        # In ASCII, so that the service gets half of a surrogate pair, and refuses it with a pointer.
        content, headers["Content-Type"] = json.dumps(request.json).encode(), "application/json"
    return {
        "method": request.method,
        "url": request.path,
        "params": dict(request.query),
        "headers": headers,
        "content": content,
    }


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to. The file appears at its own path when it is complete."""
    path = path.resolve()  # a link stays a link
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Name a file.")
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class Download:
    """A download that is repeated, or continued, for `patience` seconds after its last progress."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.progressed()

    def progressed(self) -> None:
        """Something arrived that need not be sent again."""
        self._attempt, self._deadline = 0, time.monotonic() + self._patience

    def interrupted(self, error: httpx.RequestError | errors.ApiError) -> float:
        """How many seconds to wait after an interruption.

        Raises:
            ServiceUnreachableError: no patience is left.
            ApiError: the service refuses the download.
        """
        is_refused = isinstance(error, errors.ApiError)
        pause = pause_before(self._attempt, error.retry_after if isinstance(error, errors.ApiError) else None)
        self._attempt += 1
        if isinstance(error, errors.ApiError) and error.status not in REPEATABLE:
            raise error
        if time.monotonic() + pause > self._deadline:
            raise (
                error if is_refused else errors.ServiceUnreachableError(f"The download was interrupted: {error!r}")
            ) from None
        return pause


def check_download(response: httpx.Response, request: Request) -> None:
    """Refuse an answer that is not what was asked for, or of which the end could be missing without a notice.

    Raises:
        ServiceUnreachableError
    """
    kind = response.headers.get("Content-Type", "nothing").partition(";")[0]
    if kind != request.headers["Accept"]:
        raise errors.ServiceUnreachableError(f"The service answered with {kind} instead of results. Check its url.")
    has_end = response.http_version == "HTTP/2" or {"content-length", "transfer-encoding"} & response.headers.keys()
    if not has_end:
        raise errors.ServiceUnreachableError(
            "The length of the answer is not known, so its end could be missing. A proxy may have removed it: let it "
            "use HTTP/1.1."
        )
