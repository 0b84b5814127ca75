"""What both clients need to send requests and to read downloads."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from sentiment_client import errors
from sentiment_client.flow import FIRST_PAUSE, LONGEST_PAUSE, REPEATABLE, Request
from sentiment_client.operations import Operations

API = "/api/v1"
TIMEOUT = httpx.Timeout(60, connect=10)
# How often a download is continued after it was interrupted.
MAX_INTERRUPTIONS = 5


class Settings:
    """What both clients are made of."""

    def __init__(self, url: str | None, key: str | None, patience: float) -> None:
        url, key = url or os.environ.get("SENTIMENT_URL"), key or os.environ.get("SENTIMENT_KEY")
        url, key = (url or "").strip(), (key or "").strip()
        if not url or not key:
            raise ValueError("Give the url and the key of the service, or set SENTIMENT_URL and SENTIMENT_KEY.")
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"The url must begin with https:// (or http://), not {url[:20]!r}.")
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
    return {
        "method": request.method,
        "url": request.path,
        "params": dict(request.query),
        "headers": headers,
        "content": content,
        "json": request.json,
    }


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to. The file appears at its own path when it is complete."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class Interruptions:
    """Counts how often a download was interrupted."""

    def __init__(self) -> None:
        self._number = 0

    def add(self, error: httpx.RequestError | errors.ApiError) -> float:
        """Count an interruption, and return how many seconds to wait.

        Raises:
            ServiceUnreachableError: it was interrupted too often.
            ApiError: it cannot be continued.
        """
        self._number += 1
        if isinstance(error, errors.ApiError) and error.status not in REPEATABLE:
            raise error
        if self._number > MAX_INTERRUPTIONS:
            raise (error if isinstance(error, errors.ApiError) else interrupted(error)) from None
        return min(LONGEST_PAUSE, FIRST_PAUSE * float(2 ** (self._number - 1)))


def interrupted(error: httpx.RequestError) -> errors.ServiceUnreachableError:
    """The error of a download that cannot be continued."""
    return errors.ServiceUnreachableError(f"The download was interrupted: {error!r}")
