"""Results as NDJSON, CSV or JSON: written row by row, in constant memory."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from sentiment_app.batch.service import Result
from sentiment_app.ml.runtime import LABELS

COLUMNS = ("index", "line", "custom_id", "sentiment", "confidence", *LABELS, "error")
# A spreadsheet takes a cell that begins so for a formula, and runs it (OWASP, "CSV Injection").
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
# Rows between two pieces that are sent.
PIECE = 500

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def as_object(result: Result) -> dict[str, Any]:
    """A row as JSON."""
    row: dict[str, Any] = {"index": result.place, "line": result.line, "custom_id": result.custom_id}
    if result.scores is None:
        return {**row, "error": result.error}
    scores = result.scores
    return {**row, "sentiment": scores.label, "confidence": max(scores), "scores": scores._asdict()}


def ndjson(results: Iterable[Result]) -> Iterator[str]:
    """An object a line."""
    yield from _in_pieces(_encode(as_object(one)) + "\n" for one in results)


def table(results: Iterable[Result], *, with_header: bool) -> Iterator[str]:
    """CSV (RFC 4180) whose cells no spreadsheet runs."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)

    def line(cells: Iterable[Any]) -> str:
        writer.writerow(cells)
        written = buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        return written

    header = [COLUMNS] if with_header else []
    yield from _in_pieces(map(line, chain(header, map(_cells, results))))


def _cells(result: Result) -> list[Any]:
    scores = result.scores
    told = [scores.label, max(scores), *scores] if scores else [""] * 5
    return [result.place, result.line, _harmless(result.custom_id), *told, _harmless(result.error)]


def _harmless(cell: str | None) -> str:
    return "" if cell is None else "'" + cell if cell.startswith(FORMULA) else cell


def _in_pieces(lines: Iterable[str]) -> Iterator[str]:
    piece: list[str] = []
    for one in lines:
        piece.append(one)
        if len(piece) == PIECE:
            yield "".join(piece)
            piece = []
    yield "".join(piece)
