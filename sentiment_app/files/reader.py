"""Reads the rows of a file as a stream. A row that cannot be used has an error, and the rows after it follow."""

from collections.abc import Iterator
from typing import IO, NamedTuple

from sentiment_app.files.csv_rows import read_csv
from sentiment_app.files.errors import FileTooLargeError
from sentiment_app.files.lines import read_lines
from sentiment_app.files.ndjson import read_ndjson
from sentiment_app.files.rows import Row

NDJSON, CSV = "application/x-ndjson", "text/csv"


class Format(NamedTuple):
    """How to read a file. Options that are None are detected."""

    media_type: str
    column: str | None = None
    id_column: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    is_gzip: bool = False


class Limits(NamedTuple):
    """The limits on a file: rows, and bytes after decompression."""

    rows: int
    bytes: int


def read(stream: IO[bytes], format_: Format, limits: Limits) -> Iterator[Row]:
    """The rows of a file, in order.

    Raises:
        FileError: the file cannot be read, or an option does not fit it.
        FileTooLargeError: it has more rows or bytes than the limits.
    """
    lines = read_lines(stream, encoding=format_.encoding, is_gzip=format_.is_gzip, max_bytes=limits.bytes)
    if format_.media_type == NDJSON:
        rows = read_ndjson(lines)
    else:
        rows = read_csv(lines, column=format_.column, id_column=format_.id_column, delimiter=format_.delimiter)
    for number, row in enumerate(rows, 1):
        if number > limits.rows:
            raise FileTooLargeError(
                f"The file has too many rows. The limit is {limits.rows:,} rows, including blank lines. Split it."
            )
        if row:
            yield row
