"""Results as JSON, NDJSON or CSV, written row by row in constant memory."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from sentiment_app.ml.runtime import LABELS
from sentiment_app.sentiment.service import LOW_COVERAGE, MIN_COVERAGE
from sentiment_app.tasks.service import Result

COLUMNS = ("index", "line", "custom_id", "sentiment", "confidence", *LABELS, "coverage", "warnings", "error")
# Spreadsheets run a cell that begins with one of these as a formula (OWASP, "CSV Injection").
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# Numbers and phone numbers are not formulas, and must come back as they were sent.
NUMBER = re.compile(r"[+-][\d .]*\d")
# Rows in each piece of the response.
PIECE_ROWS = 500

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def as_object(result: Result) -> dict[str, Any]:
    """A result as a JSON object."""
    row: dict[str, Any] = {"index": result.row_index, "line": result.line, "custom_id": result.custom_id}
    if result.scores is None:
        return {**row, "error": result.error}
    scores = result.scores
    row |= {"sentiment": scores.label, "confidence": max(scores), "scores": scores._asdict()}
    if result.coverage is not None:
        row["coverage"] = result.coverage
        if result.coverage < MIN_COVERAGE:
            row["warnings"] = [LOW_COVERAGE]
    return row


def ndjson(results: Iterable[Result]) -> Iterator[str]:
    """NDJSON: a JSON object on each line."""
    yield from _in_pieces(_encode(as_object(result)) + "\n" for result in results)


def csv_table(results: Iterable[Result], *, with_header: bool, raw: bool = False) -> Iterator[str]:
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

    header = [COLUMNS] if with_header else []
    yield from _in_pieces(map(line, chain(header, (_cells(result, escape) for result in results))))


def _cells(result: Result, escape: Callable[[str], str]) -> list[Any]:
    scores = result.scores
    values = [scores.label, max(scores), *scores] if scores else [""] * 5
    coverage = result.coverage if scores else None
    warning = LOW_COVERAGE["code"] if coverage is not None and coverage < MIN_COVERAGE else ""
    known = ["" if coverage is None else coverage, warning]
    return [result.row_index, result.line, escape(result.custom_id or ""), *values, *known, escape(result.error or "")]


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
