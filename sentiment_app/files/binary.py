"""Workbooks and Parquet files. Processes of their own read and write them (see `converter`)."""

import contextlib
import itertools
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, cast

import orjson

from sentiment_app.files.columns import Columns
from sentiment_app.files.errors import FileError, FileTooLargeError
from sentiment_app.files.rows import Row

ROOT = Path(__file__).parents[2]
# A file that is read from its end must be stored first. The temporary folder of a service is in memory.
MAX_BYTES = 64 * 1024**2
PIECE_BYTES, LINES_PER_PIECE = 64 * 1024, 500
# No secrets, one thread, and the memory allocator that releases memory soonest.
ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class BinaryFile:
    """The table of a workbook or a Parquet file.

    Args:
        pieces: the bytes of the file.
        module: the module that reads it: "workbook" or "parquet".
        columns: the requested columns.
        sheet: the name of a sheet of a workbook. Defaults to the first visible sheet.
        max_text_bytes: the limit on the bytes of all rows. A small file may have the same text in a million rows.
        acquire: admits the process that reads the file, after the file has arrived.

    Raises:
        FileError: the file is not valid, or a sheet or a column is missing or ambiguous.
        FileTooLargeError: it is larger than MAX_BYTES.
    """

    def __init__(
        self,
        pieces: Iterator[bytes],
        module: str,
        columns: Columns,
        sheet: str | None,
        *,
        max_text_bytes: int,
        acquire: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._remaining_bytes, self._max_text_bytes = max_text_bytes, max_text_bytes
        with tempfile.TemporaryFile() as file:
            size = 0
            for piece in pieces:
                size += len(piece)
                if size > MAX_BYTES:
                    raise FileTooLargeError(
                        f"The file is too large. The limit for this type is {MAX_BYTES:,} bytes. Send CSV or NDJSON."
                    )
                file.write(piece)
            file.seek(0)
            with contextlib.ExitStack() as place:
                place.enter_context(acquire())
                self._process = _start(module, orjson.dumps([*columns, sheet]).decode(), file)
                self._place = place.pop_all()
        try:
            self.description: dict[str, Any] = self._read()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Row | None]:
        """The rows, and None for each empty row.

        Raises:
            FileError: the rest of the file is not valid.
        """
        while (fields := self._read()) != "end":
            yield Row(*fields) if fields else None
        self.close()

    def close(self) -> None:
        """Stop the process."""
        _stop(self._process)
        self._place.close()

    def _read(self) -> Any:
        line = self._process.stdout.readline() if self._process.stdout else b""
        if not line.endswith(b"\n"):
            raise FileError(
                "The file cannot be read. It is damaged, or reading it takes too much memory or time. Split it, or "
                "send CSV or NDJSON."
            )
        self._remaining_bytes -= len(line)
        if self._remaining_bytes < 0:
            raise FileTooLargeError(
                f"The file is too large. The limit is {self._max_text_bytes:,} bytes after decompression. Split it."
            )
        value = orjson.loads(line)
        if isinstance(value, dict) and "error" in value:
            raise FileError(value["error"], value["option"], value["columns"])
        return value


def write_parquet(rows: Iterable[Sequence[Any]], columns: Sequence[tuple[str, str]]) -> Iterator[bytes]:
    """A Parquet file, in pieces.

    Args:
        rows: the values of each row, in the order of the columns.
        columns: the name and the type ("string", "integer", "number" or "boolean") of each column.

    Raises:
        FileError: the process that writes the file failed.
    """
    header = [[*column] for column in columns]
    lines = (orjson.dumps(line) + b"\n" for line in itertools.chain([header], rows))
    process = _start("parquet", "write", subprocess.PIPE)
    try:
        yield from _exchange(process, lines)
        if process.wait():
            raise FileError("The Parquet file cannot be written.")
    finally:
        _stop(process)


def _exchange(process: subprocess.Popen[bytes], lines: Iterator[bytes]) -> Iterator[bytes]:
    """The output of a process in pieces, while it gets the lines as its input, as fast as it reads them."""
    stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
    os.set_blocking(stdin.fileno(), False)
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stdin, selectors.EVENT_WRITE)
        selector.register(stdout, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if stdin in ready:
                pending = pending or b"".join(itertools.islice(lines, LINES_PER_PIECE))
                if pending:
                    with contextlib.suppress(BrokenPipeError):  # the process failed, and its status says so
                        pending = pending[os.write(stdin.fileno(), pending) :]
                else:
                    selector.unregister(stdin)
                    stdin.close()
            if stdout in ready:
                piece = os.read(stdout.fileno(), PIECE_BYTES)
                if not piece:
                    return
                yield piece


def _start(module: str, argument: str, stdin: IO[bytes] | int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"sentiment_app.files.{module}", argument]
    # Its messages could quote texts.
    return subprocess.Popen(  # noqa: S603  # our own program
        command, cwd=ROOT, env=ENVIRONMENT, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
    process.wait()
