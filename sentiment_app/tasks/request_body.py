"""The body of an upload: read as a stream, hashed, and cut off if it takes too long."""

import contextlib
import hashlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

from flask import request
from multipart import MultipartError, MultipartSegment, PushMultipartParser
from werkzeug.http import parse_options_header

from sentiment_app.errors import MalformedError, TimedOutError
from sentiment_app.files.lines import PIECE_BYTES

# A sender must have this rate on average, after this process has waited for it for some time.
MIN_BYTES_PER_SECOND, PATIENCE_SECONDS = 4096, 60.0
CHECK_SECONDS = 1.0
MAX_FIELD_BYTES = 10_000
MAX_PARTS = 20


class UploadTooSlowError(TimedOutError):
    """The upload did not arrive within UPLOAD_SECONDS, or the sender is so slow that it only occupies a place."""

    kind = "upload-too-slow"


class HashingStream(io.RawIOBase):
    """A stream that computes the SHA-256 digest of what was read.

    Args:
        stream: the body of the current request, or the file in it.
        length: its Content-Length; None if it is not known.

    Reading raises MalformedError if the body ends before its Content-Length because the sender closed the connection.
    Neither gunicorn nor Werkzeug reports that.
    """

    def __init__(self, stream: IO[bytes], length: int | None) -> None:
        self._stream = stream
        self._remaining = length or 0
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self._stream.read(size)
        self._remaining -= len(piece)
        if not piece and size and self._remaining > 0:
            raise MalformedError("The body is shorter than its Content-Length. Send it again.")
        self._hash.update(piece)
        return piece

    def drain(self) -> None:
        """Read the rest, and discard it."""
        while self.read(PIECE_BYTES):
            pass

    def digest(self) -> bytes:
        """The digest of the whole body. Reads the rest of the body first, because the file in it may end earlier."""
        self.drain()
        return self._hash.digest()


class FormFile(io.RawIOBase):
    """The file in a body of multipart/form-data (RFC 7578), read as a stream.

    Args:
        stream: the body.
        boundary: the parameter of Content-Type that separates the parts.

    Raises:
        MalformedError: the body is not valid, has no file, or has fields or files after the first file.
    """

    def __init__(self, stream: IO[bytes], boundary: str) -> None:
        self._stream = stream
        self._events = self._parse(boundary)
        self._rest = b""
        self._has_more = True
        self.fields: dict[str, str] = {}
        """The fields before the file."""
        part = self._read_fields()
        self.filename: str = _filename(part)
        self.content_type: str = part.header("Content-Type", "")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while self._has_more and (size < 0 or len(self._rest) < size):
            event = next(self._events, None)
            if event is not None:
                self._rest += event
                continue
            self._has_more = False
            if next(self._events, None) is not None:
                raise MalformedError("The form has a field or a file after the file. Send all fields before the file.")
        piece = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(piece) :]
        return piece

    def _read_fields(self) -> MultipartSegment:
        name, value = "", b""
        for event in self._events:
            if isinstance(event, MultipartSegment):
                if _filename(event):
                    return event
                name, value = event.name or "", b""
            elif event is None:
                if name in self.fields:
                    raise MalformedError("The form has two fields with the same name.")
                self.fields[name] = value.decode(errors="replace")
            else:
                value += event
                if len(value) > MAX_FIELD_BYTES:
                    raise MalformedError(f"A field of the form has more than {MAX_FIELD_BYTES:,} bytes.")
        raise MalformedError("The form has no file. Send the file as a part with a filename.")

    def _parse(self, boundary: str) -> Iterator[Any]:
        try:
            parser = PushMultipartParser(boundary, max_segment_count=MAX_PARTS)
            while piece := self._stream.read(PIECE_BYTES):
                yield from parser.parse(piece)
            parser.close()
        except MultipartError:
            raise MalformedError("The body is not valid multipart/form-data.") from None


def _filename(part: MultipartSegment) -> str:
    # RFC 7578 forbids filename*, but Python's requests sends names that are not ASCII in it.
    return parse_options_header(part.header("Content-Disposition"))[1].get("filename", "")


class Body(io.RawIOBase):
    """The body of the current request. It knows how long this process has waited for the sender."""

    def __init__(self) -> None:
        self._received, self._waited = 0, 0.0
        self._waiting_since: float | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self._waiting_since = started = time.monotonic()
        try:
            piece = request.stream.read(size)
        finally:
            self._waiting_since = None
            self._waited += time.monotonic() - started
        self._received += len(piece)
        return piece

    def is_too_slow(self) -> bool:
        """Whether the sender is too slow. The time in which this process did something else does not count."""
        since, waited, received = self._waiting_since, self._waited, self._received
        if since is not None:
            waited += time.monotonic() - since
            received += PIECE_BYTES  # a read ends only when all its bytes have arrived: almost all may be here
        return waited > PATIENCE_SECONDS and received < MIN_BYTES_PER_SECOND * waited


@contextlib.contextmanager
def watch_sender(seconds: float) -> Iterator[Body]:
    """The body of the current request. Reading ends after some seconds, or if the sender only occupies a place.

    Gunicorn's own timeout does not help: a slow sender keeps each wait for bytes short.

    Raises:
        UploadTooSlowError: the block failed because reading was ended.
    """
    body, has_ended, reasons = Body(), threading.Event(), list[str]()
    connection: socket.socket | None = request.environ.get("gunicorn.socket")  # not set by Werkzeug's test client
    deadline = time.monotonic() + seconds

    def watch() -> None:
        while not has_ended.wait(CHECK_SECONDS):
            if body.is_too_slow():
                reasons.append(f"The sender is too slow. The minimum is {MIN_BYTES_PER_SECOND:,} bytes per second.")
            elif time.monotonic() > deadline:
                reasons.append(f"The upload did not arrive within {seconds:g} seconds. Split it, and send the parts.")
            else:
                continue
            if connection:
                with contextlib.suppress(OSError):  # the sender has closed the connection
                    connection.shutdown(socket.SHUT_RD)
            return

    thread = threading.Thread(target=watch, name="upload-watch", daemon=True)
    thread.start()
    try:
        yield body
    except Exception:
        if reasons:
            raise UploadTooSlowError(reasons[0]) from None
        raise
    finally:
        has_ended.set()
