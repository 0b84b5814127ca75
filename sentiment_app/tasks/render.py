"""Results as JSON, NDJSON, CSV, an Excel workbook or Parquet, written row by row in constant memory."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from sentiment_app.files import binary, xlsx_writer
from sentiment_app.ml.runtime import LABELS
from sentiment_app.tasks.kept_columns import Column
from sentiment_app.tasks.service import Included, Result

KEYS = [Column("index", "integer"), Column("line", "integer"), Column("custom_id", "string")]
TEXT = Column("text", "string")
OUTCOME = [
    Column("sentiment", "string"),
    *(Column(name, "number") for name in ("confidence", *LABELS, "coverage")),
    *(Column(name, "string") for name in ("warnings", "error")),
]
# Spreadsheets run a cell that begins with one of these as a formula (OWASP, "CSV Injection").
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# Numbers and phone numbers are not formulas, and must come back as they were sent.
NUMBER = re.compile(r"[+-][\d .]*\d")
# Rows in each piece of the response.
PIECE_ROWS = 500

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def as_object(result: Result, included: Included) -> dict[str, Any]:
    """A result as a JSON object."""
    row: dict[str, Any] = {"index": result.row_index, "line": result.line, "custom_id": result.custom_id}
    if included.text:
        row["text"] = result.text
    if included.columns is not None:
        row["columns"] = result.columns or {}
    if result.scores is None:
        return {**row, "error": result.error}
    scores = result.scores
    row |= {"sentiment": scores.label, "confidence": max(scores), "scores": scores._asdict()}
    if result.coverage is not None:
        row["coverage"] = result.coverage
    if found := result.warnings:
        row["warnings"] = found
    return row


def table_columns(included: Included) -> list[Column]:
    """The columns of a table of results.

    A column of the user with the same name as another column is renamed: `sentiment` becomes `input_sentiment`.
    """
    text = [TEXT] if included.text else []
    used = {column.name for column in (*KEYS, *text, *OUTCOME)}
    kept = []
    for column in included.columns or []:
        name = column.name
        while name in used:
            name = f"input_{name}"
        used.add(name)
        kept.append(Column(name, column.type))
    return [*KEYS, *kept, *text, *OUTCOME]


def ndjson(results: Iterable[Result], included: Included) -> Iterator[str]:
    """NDJSON: a JSON object on each line."""
    yield from _in_pieces(_encode(as_object(result, included)) + "\n" for result in results)


def csv_table(
    results: Iterable[Result], included: Included, *, with_header: bool = True, raw: bool = False
) -> Iterator[str]:
    """CSV (RFC 4180). Unless `raw`, cells that a spreadsheet would run as a formula have an apostrophe before them."""
    escape = _keep if raw else _escape
    buffer = io.StringIO()
    writer = csv.writer(buffer)

    def line(cells: Iterable[Any]) -> str:
        writer.writerow(cells)
        written = buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        return written

    header = [[escape(column.name) for column in table_columns(included)]] if with_header else []
    rows = ([_csv_cell(value, escape) for value in _cells(result, included)] for result in results)
    yield from _in_pieces(map(line, chain(header, rows)))


def workbook(results: Iterable[Result], included: Included) -> Iterator[bytes]:
    """An Excel workbook. Spreadsheets do not run its strings as formulas."""
    header = [column.name for column in table_columns(included)]
    rows = ([_flat(value) for value in _cells(result, included)] for result in results)
    yield from xlsx_writer.write_workbook(chain([header], rows))


def parquet(results: Iterable[Result], included: Included) -> Iterator[bytes]:
    """A Parquet file. A column of the user has the type of all its values, or is a string."""
    columns = table_columns(included)
    types = [column.type for column in columns]
    rows = ([_typed(*pair) for pair in zip(_cells(result, included), types, strict=True)] for result in results)
    yield from binary.write_parquet(rows, columns)


def _cells(result: Result, included: Included) -> list[Any]:
    """The values of a row of a table, in the order of `table_columns`."""
    kept = result.columns or {}
    own = [kept.get(column.name) for column in included.columns or []]
    text = [result.text] if included.text else []
    scores = result.scores
    outcome: Sequence[Any] = (None,) * 7
    if scores:
        codes = " ".join(warning["code"] for warning in result.warnings) or None
        outcome = (scores.label, max(scores), *scores, result.coverage, codes)
    return [result.row_index, result.line, result.custom_id, *own, *text, *outcome, result.error]


def _flat(value: Any) -> Any:
    """The value of a cell; nested values as JSON."""
    return _encode(value) if isinstance(value, list | dict) else value


def _typed(value: Any, type_: str) -> Any:
    """The value of a cell in a column of this type."""
    if value is None or isinstance(value, str):
        return value
    if type_ == "number":
        return float(value)
    return _encode(value) if type_ == "string" else value


def _csv_cell(value: Any, escape: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return escape(value)
    return _encode(value) if isinstance(value, list | dict | bool) else value


def _escape(cell: str) -> str:
    is_formula = cell.startswith(FORMULA_STARTS) and not NUMBER.fullmatch(cell)
    return "'" + cell if is_formula else cell


def _keep(cell: str) -> str:
    return cell


def _in_pieces(lines: Iterable[str]) -> Iterator[str]:
    piece: list[str] = []
    for line in lines:
        piece.append(line)
        if len(piece) == PIECE_ROWS:
            yield "".join(piece)
            piece = []
    yield "".join(piece)
