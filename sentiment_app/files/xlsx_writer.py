"""Writes an Excel workbook as a stream (ECMA-376). Libraries write all of it to the disk before the first byte.

Strings are written as strings, so a spreadsheet never runs them as formulas.
"""

import functools
import io
import itertools
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from xml.sax.saxutils import escape

from sentiment_app.files.errors import FileError
from sentiment_app.files.rows import MAX_EXACT_FLOAT

MAX_ROWS = 1_048_576
MAX_SHEET_BYTES = 2_000_000_000  # larger parts need ZIP64, which spreadsheets do not read from a stream
ROWS_PER_PIECE = 500
# XML 1.0 has no such characters. A workbook writes them as _xHHHH_, and also what looks like it (ECMA-376, 22.9.2.19).
CONTROL = r"[\x00-\x08\x0b-\x1f\ufffe\uffff\ud800-\udfff]"
ESCAPED = re.compile(f"{CONTROL}|_(?=x[0-9A-Fa-f]{{4}}(?:_|{CONTROL}))")
NAMESPACE = "http://schemas.openxmlformats.org"
XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
RELATION = f"{NAMESPACE}/officeDocument/2006/relationships"
PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{NAMESPACE}/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{TYPE}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{TYPE}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{NAMESPACE}/package/2006/relationships">'
    f'<Relationship Id="rId1" Type="{RELATION}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{NAMESPACE}/spreadsheetml/2006/main" xmlns:r="{RELATION}">'
    '<sheets><sheet name="Results" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{NAMESPACE}/package/2006/relationships">'
    f'<Relationship Id="rId1" Type="{RELATION}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}
SHEET = f'<worksheet xmlns="{NAMESPACE}/spreadsheetml/2006/main">'
# The header stays visible while the reader scrolls.
VIEW = (
    '<sheetViews><sheetView workbookViewId="0"><pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" '
    'state="frozen"/></sheetView></sheetViews>'
)


class _Pipe(io.RawIOBase):
    """What was written since it was last taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        return len(part)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def write_workbook(rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """A workbook with one sheet, in pieces.

    Args:
        rows: the header, and the rows: strings, numbers, booleans, and None for an empty cell.
            Spreadsheets read at most 32,767 characters in a cell.

    Raises:
        FileError: there are too many rows or bytes.
    """
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in PARTS.items():
            archive.writestr(name, XML + content)
        with archive.open("xl/worksheets/sheet1.xml", "w") as sheet:
            sheet.write(f"{XML}{SHEET}{VIEW}<sheetData>".encode())
            numbered = enumerate(rows, 1)
            size = 0
            while part := list(itertools.islice(numbered, ROWS_PER_PIECE)):
                written = "".join(_row(number, row) for number, row in part).encode()
                size += len(written)
                if part[-1][0] > MAX_ROWS or size > MAX_SHEET_BYTES:
                    raise FileError("The results are too large for a workbook. Use CSV or Parquet.")
                sheet.write(written)
                yield pipe.take()
            sheet.write(b"</sheetData></worksheet>")
    yield pipe.take()


def _row(number: int, values: Sequence[Any]) -> str:
    cells = (_cell(f"{_letters(index)}{number}", value) for index, value in enumerate(values))
    return f'<row r="{number}">{"".join(cells)}</row>'


def _cell(reference: str, value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f'<c r="{reference}" t="b"><v>{value:d}</v></c>'
    if isinstance(value, float) or (isinstance(value, int) and abs(value) <= MAX_EXACT_FLOAT):
        return f'<c r="{reference}"><v>{value!r}</v></c>'
    text = escape(ESCAPED.sub(lambda found: f"_x{ord(found[0]):04X}_", str(value)))
    return f'<c r="{reference}" t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'


@functools.cache
def _letters(index: int) -> str:
    """The name of a column, from A."""
    before, last = divmod(index, 26)
    return (_letters(before - 1) if before else "") + chr(ord("A") + last)
