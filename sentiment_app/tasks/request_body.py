"""The body of an upload: read as a stream, hashed, and cut off after a timeout."""

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

PATIENCE_SECONDS, MIN_BYTES_PER_SECOND = 60.0, 4096
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
    Neither gunicorn nor Werkzeug reports that. It raises UploadTooSlowError if this process has waited for the sender
    for PATIENCE_SECONDS, and received less than MIN_BYTES_PER_SECOND.
    """

    def __init__(self, stream: IO[bytes], length: int | None) -> None:
        self._stream = stream
        self._remaining = length or 0
        self._received, self._waited = 0, 0.0
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        started = time.monotonic()
        piece = self._stream.read(size)
        self._waited += time.monotonic() - started
        self._received += len(piece)
        if self._waited > PATIENCE_SECONDS and self._received < MIN_BYTES_PER_SECOND * self._waited:
            raise UploadTooSlowError(
                f"The upload is too slow. It must have at least {MIN_BYTES_PER_SECOND:,} bytes per second on average."
            )
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


@contextlib.contextmanager
def upload_timeout(seconds: float) -> Iterator[None]:
    """Stop reading the body of the current request after some seconds.

    Gunicorn's own timeout does not help: a slow sender keeps each read short.

    Raises:
        UploadTooSlowError: the block failed after the timeout.
    """
    is_late = threading.Event()
    connection: socket.socket | None = request.environ.get("gunicorn.socket")  # not set by Werkzeug's test client

    def stop_reading() -> None:
        is_late.set()
        if connection:
            with contextlib.suppress(OSError):  # the sender has closed the connection
                connection.shutdown(socket.SHUT_RD)

    timer = threading.Timer(seconds, stop_reading)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception:
        if is_late.is_set():
            detail = f"The upload did not arrive within {seconds:g} seconds. Split it, and send the parts."
            raise UploadTooSlowError(detail) from None
        raise
    finally:
        timer.cancel()
