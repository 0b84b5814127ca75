"""Rows of CSV (RFC 4180, with any delimiter) that begins with a header."""

import csv
import itertools
from collections.abc import Iterator

from sentiment_app.files.errors import FileError
from sentiment_app.files.lines import MAX_LINE_CHARACTERS
from sentiment_app.files.rows import Row, make_row

DELIMITERS = ",;\t|"
# csv.reader raises csv.Error for a field of this length.
TOO_LONG = "x" * (csv.field_size_limit() + 1)
MAX_NAMED_COLUMNS = 20


class _CountingLines:
    """The lines that a CSV reader asks for, with their numbers. A line or record that is too long is an error."""

    def __init__(self, lines: Iterator[str | None]) -> None:
        self._lines = lines
        self._number = 0
        self._characters = 0

    def next_record(self) -> int:
        """Begin the next record, and return the number of its first line."""
        self._characters = 0
        return self._number + 1

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self._number += 1
            self._characters += len(line or "")
            yield TOO_LONG if line is None or self._characters > MAX_LINE_CHARACTERS else line


def read_csv(
    lines: Iterator[str | None], *, column: str | None, id_column: str | None, delimiter: str | None
) -> Iterator[Row | None]:
    """The rows, and None for each blank line.

    Args:
        lines: begin with the header.
        column: the name of the column with the texts. Defaults to "text", or to the only column.
        id_column: the name of the column with the custom_id. Defaults to "custom_id" if there is such a column.
        delimiter: one character. By default it is detected from the header.

    Raises:
        FileError: the header cannot be read, a column is missing, or the delimiter is not acceptable.
    """
    first = next(lines, None) or ""
    delimiter = delimiter or _detect_delimiter(first)
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise FileError("The delimiter must be one character. It cannot be a quote or a line break.", "delimiter")
    counted = _CountingLines(itertools.chain([first], lines))
    reader = csv.reader(iter(counted), delimiter=delimiter)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise FileError(f"The header of the file is not valid CSV: {error}.") from None
    if header is None:
        return
    text_index, id_index = _find_columns([name.strip() for name in header], column, id_column)
    while True:
        line = counted.next_record()
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(line, None, None, f"The line is not valid CSV: {error}.")
            continue
        if len(record) > len(header):
            detail = f"The line has {len(record)} fields, but the header has {len(header)}."
            yield Row(line, None, None, detail)
        elif record:
            custom_id = record[id_index] if id_index is not None and id_index < len(record) else None
            yield make_row(line, custom_id or None, record[text_index] if text_index < len(record) else None)
        else:
            yield None


def _detect_delimiter(header: str) -> str:
    # Not csv.Sniffer, whose regular expressions take quadratic time.
    outside_quotes = "".join(header.split('"')[::2])
    return max(DELIMITERS, key=outside_quotes.count)


def _find_columns(header: list[str], column: str | None, id_column: str | None) -> tuple[int, int | None]:
    names = ", ".join(header[:MAX_NAMED_COLUMNS])
    if column and column not in header:
        raise FileError(f"The file has no column named {column!r}. Its columns are: {names}.", "column")
    text_column = column or ("text" if "text" in header else header[0] if len(header) == 1 else None)
    if text_column is None:
        raise FileError(f"The file has no column named 'text'. Its columns are: {names}. Choose one of them.", "column")
    if id_column and id_column not in header:
        raise FileError(f"The file has no column named {id_column!r}. Its columns are: {names}.", "id_column")
    id_name = id_column or ("custom_id" if "custom_id" in header else None)
    return header.index(text_column), header.index(id_name) if id_name else None
