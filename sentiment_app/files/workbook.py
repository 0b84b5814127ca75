"""Reads a sheet of an Excel workbook. Runs in a process of its own (see `converter`)."""

import datetime as dt
import itertools
from collections.abc import Iterator
from typing import IO, Any

from python_calamine import (
    CalamineError,
    CalamineSheet,
    CalamineWorkbook,
    PasswordError,
    SheetTypeEnum,
    SheetVisibleEnum,
)

from sentiment_app.files.columns import Columns, Indexes, find_columns, named
from sentiment_app.files.converter import Table, serve
from sentiment_app.files.errors import FileError
from sentiment_app.files.rows import Row, make_row, shorten_number

MAX_HEADER_LINE = 20
MAX_LISTED_SHEETS = 20
ABOVE_HEADER = "The row is above the header."
REPEATED_HEADER = "The row looks like the header."


def read(stream: IO[bytes], columns: Columns, sheet: str | None) -> Table:
    """A sheet as a table. The value of a formula is the value that was stored with it.

    Raises:
        FileError: the file is not a workbook, or a sheet or column is missing or ambiguous.
    """
    try:
        book = CalamineWorkbook.from_filelike(stream)
        chosen = _choose_sheet(book, sheet)
    except PasswordError:
        raise FileError("The workbook is protected with a password. Save it without a password.") from None
    except CalamineError:
        raise FileError("The file is not a valid Excel workbook (.xlsx).") from None
    rows = chosen.iter_rows()
    head = list(itertools.islice(rows, MAX_HEADER_LINE))
    header = _find_header(head, columns) if columns.has_header else None
    names = [str(index + 1) for index in range(chosen.width)] if header is None else list(map(_text, head[header]))
    found = find_columns(names, columns)
    line = 0 if header is None else header + 1
    description = {
        "sheet": chosen.name,
        "header_line": line or None,
        "columns": names,
        "column": names[found.text] if names else None,
        "id_column": None if found.id is None else names[found.id],
    }
    above = [Row(index + 1, None, None, ABOVE_HEADER) for index in range(header or 0) if _has_text(head[index], found)]
    following = itertools.islice(itertools.chain(head, rows), line, None)
    return Table(description, itertools.chain(above, _rows(following, line + 1, found, columns, names)))


def _choose_sheet(book: CalamineWorkbook, name: str | None) -> CalamineSheet:
    sheets = [sheet for sheet in book.sheets_metadata if sheet.typ == SheetTypeEnum.WorkSheet]
    names = [sheet.name for sheet in sheets]
    if not names:
        raise FileError("The workbook has no sheet with cells.")
    if name is None:
        visible = (sheet.name for sheet in sheets if sheet.visible == SheetVisibleEnum.Visible)
        return book.get_sheet_by_name(next(visible, names[0]))
    matching = named(names, name)
    if not matching:
        shown = ", ".join(name[:80] for name in names[:MAX_LISTED_SHEETS])
        raise FileError(f"The workbook has no sheet named {name!r}. Its sheets are: {shown}.", "sheet")
    return book.get_sheet_by_name(names[matching[0]])


def _find_header(head: list[list[Any]], columns: Columns) -> int | None:
    """The index of the header; None if the rows are empty.

    It is the first row with the requested name. Rows before it, such as a title, have at most half as many values, so
    that no rows of data are skipped. Without such a row, it is the first row with values.
    """
    filled = [sum(value != "" for value in row) for row in head]
    for index, row in enumerate(head):
        is_first = 2 * max(filled[:index], default=0) <= filled[index]
        if is_first and named([_text(value) for value in row], columns.text_name):
            return index
    return next((index for index, number in enumerate(filled) if number), None)


def _has_text(cells: list[Any], found: Indexes) -> bool:
    return found.text < len(cells) and cells[found.text] != ""


def _rows(
    rows: Iterator[list[Any]], start: int, found: Indexes, columns: Columns, names: list[str]
) -> Iterator[Row | None]:
    for line, cells in enumerate(rows, start):
        if not any(value != "" for value in cells):
            yield None
            continue
        if start > 1 and len(cells) > 1 and list(map(_text, cells)) == names:
            yield Row(line, None, None, REPEATED_HEADER)
            continue
        custom_id = None if found.id is None else _text(cells[found.id]) or None
        row = make_row(line, custom_id, _text(cells[found.text]))
        if columns.others:
            values = (None if index is None else _text(cells[index]) for index in found.others)
            row = row._replace(values=tuple(values))
        if columns.keeps_others:
            row = row._replace(columns={name: _value(cells[index]) for index, name in found.kept.items()})
        yield row


def _text(value: Any) -> str:
    """The value of a cell as text, as the cell shows it without a format."""
    value = _value(value)
    if isinstance(value, bool):
        return str(value).upper()
    return "" if value is None else str(value)


def _value(value: Any) -> Any:
    """The value of a cell for JSON: a string, a number, a boolean, or None if the cell is empty."""
    if isinstance(value, float):
        return shorten_number(value)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return str(value) if isinstance(value, dt.timedelta) else value if value != "" else None


if __name__ == "__main__":
    serve(read)
