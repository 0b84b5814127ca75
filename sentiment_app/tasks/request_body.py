"""The body of an upload: read as a stream, hashed, and cut off after a timeout."""

import contextlib
import hashlib
import io
import socket
import threading
from collections.abc import Iterator
from typing import IO

from flask import request

from sentiment_app.errors import MalformedError, TimedOutError
from sentiment_app.files.lines import PIECE_BYTES


class UploadTooSlowError(TimedOutError):
    """The upload did not arrive within UPLOAD_SECONDS."""

    kind = "upload-too-slow"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The upload did not arrive within {seconds:g} seconds. Split it, and send the parts.")


class HashingStream(io.RawIOBase):
    """The body of the current request, which computes the SHA-256 digest of what was read.

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
            raise UploadTooSlowError(seconds) from None
        raise
    finally:
        timer.cancel()
