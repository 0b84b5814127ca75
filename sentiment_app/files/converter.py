"""The main function of processes that read workbooks and Parquet files for `binary`.

The libraries for these files are written in other languages. A small, hostile file can make them allocate gigabytes, or
crash. In a process with limits, this costs one upload, and nothing else.
"""

import resource
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import orjson

from sentiment_app.files.columns import Columns
from sentiment_app.files.errors import FileError
from sentiment_app.files.rows import Row

MEMORY_BYTES = 320 * 1024**2
CPU_SECONDS = 120
INVALID_COLUMNS = "The other columns of the row have characters that are not valid."


class Table(NamedTuple):
    """A table: how it was read, and its rows. None stands for an empty row."""

    description: dict[str, Any]
    rows: Iterator[Row | None]


def limit_resources() -> None:
    """Limit the memory and the CPU time of this process, and prevent core dumps, which would contain texts."""
    for kind, limit in (
        (resource.RLIMIT_DATA, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def _dump(row: Row | None) -> bytes:
    try:
        return orjson.dumps(row and [*row])
    except TypeError:  # a lone surrogate in another column
        return orjson.dumps([*Row(row.line if row else 0, None, None, INVALID_COLUMNS)])


def serve(read: Callable[[IO[bytes], Columns, str | None], Table]) -> None:
    """Read a table from standard input, and write it to standard output as lines of JSON.

    The first argument of the process has the fields of Columns and the name of the sheet, as JSON. The first line has
    the description, and each following line has a row. The last line is `"end"`, so that a process that crashes does
    not look like the end of the table. If the file cannot be read, the last line has the error and the option.
    """
    limit_resources()
    *columns, sheet = orjson.loads(sys.argv[1])
    write = sys.stdout.buffer.write
    try:
        table = read(sys.stdin.buffer, Columns(*columns), sheet)
        write(orjson.dumps(table.description) + b"\n")
        for row in table.rows:
            write(_dump(row) + b"\n")
        write(b'"end"\n')
    except FileError as error:
        write(orjson.dumps({"error": error.detail, "option": error.option, "columns": error.columns}) + b"\n")
    sys.stdout.buffer.flush()
