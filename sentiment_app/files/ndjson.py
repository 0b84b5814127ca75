"""Rows of NDJSON: a JSON object with `text` and perhaps `custom_id`, or a JSON string, on each line."""

import contextlib
import json
import math
from collections.abc import Iterator

import orjson

from sentiment_app.files.lines import LINE_TOO_LONG
from sentiment_app.files.rows import Row, make_row


def read_ndjson(lines: Iterator[str | None]) -> Iterator[Row | None]:
    """The rows, and None for each blank line."""
    for number, line in enumerate(lines, 1):
        if line is None:
            yield Row(number, None, None, LINE_TOO_LONG)
        else:
            yield None if line.isspace() else _parse(number, line)


def _parse(number: int, line: str) -> Row:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:  # orjson refuses lone surrogates. Parse them here, so that make_row reports them as such.
            record = json.loads(line)
        except (ValueError, RecursionError):
            return Row(number, None, None, "The line is not valid JSON.")
    if isinstance(record, str):
        return make_row(number, None, record)
    if not isinstance(record, dict):
        return Row(number, None, None, 'The line is not a JSON object such as {"text": "…"}.')
    custom_id = record.get("custom_id")
    if isinstance(custom_id, float):  # orjson also reads integers of more than 64 bits as floats
        with contextlib.suppress(ValueError):  # Python refuses integers with thousands of digits
            custom_id = json.loads(line)["custom_id"]
    if isinstance(custom_id, bool | list | dict) or (isinstance(custom_id, float) and not math.isfinite(custom_id)):
        return Row(number, None, None, "The custom_id must be a string or a number.")
    return make_row(number, custom_id, record.get("text"))
