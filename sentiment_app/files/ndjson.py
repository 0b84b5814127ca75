"""Rows of NDJSON: a JSON object with a text and perhaps a custom_id, or a JSON string, on each line."""

import contextlib
import json
import math
from collections.abc import Iterator

import orjson

from sentiment_app.files.errors import FileError
from sentiment_app.files.lines import LINE_TOO_LONG
from sentiment_app.files.rows import Row, make_row

DEFAULT_TEXT, DEFAULT_ID = "text", "custom_id"


def read_ndjson(
    lines: Iterator[str | None],
    *,
    column: str | None = None,
    id_column: str | None = None,
    others: tuple[str, ...] = (),
) -> Iterator[Row | None]:
    """The rows, and None for each blank line.

    Args:
        lines: None in place of a line that is too long.
        column: the key of the text. Defaults to "text".
        id_column: the key of the custom_id. Defaults to "custom_id".
        others: the keys of further values.

    Raises:
        FileError: the first line shows that the file is not NDJSON.
    """
    has_begun = False
    for number, line in enumerate(lines, 1):
        if line is None:
            yield Row(number, None, None, LINE_TOO_LONG)
        elif line.isspace():
            yield None
        else:
            if not has_begun:
                _refuse_others(line)
                has_begun = True
            yield _parse(number, line, column or DEFAULT_TEXT, id_column or DEFAULT_ID, others)


def _parse(number: int, line: str, text_key: str, id_key: str, others: tuple[str, ...]) -> Row:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as invalid:
        try:  # orjson refuses lone surrogates. Parse them here, so that make_row reports them as such.
            record = json.loads(line)
        except (ValueError, RecursionError):
            return Row(number, None, None, f"The line is not valid JSON: {invalid.msg} (column {invalid.colno}).")
    if isinstance(record, str):
        return make_row(number, None, record)
    if not isinstance(record, dict):
        return Row(number, None, None, f'The line is not a JSON object such as {{"{text_key}": "…"}}.')
    custom_id = record.get(id_key)
    if isinstance(custom_id, float):  # orjson also reads integers of more than 64 bits as floats
        with contextlib.suppress(ValueError):  # Python refuses integers with thousands of digits
            custom_id = json.loads(line)[id_key]
    if isinstance(custom_id, bool | list | dict) or (isinstance(custom_id, float) and not math.isfinite(custom_id)):
        return Row(number, None, None, f"The {id_key} must be a string or a number.")
    row = make_row(number, custom_id, record.get(text_key))
    return row._replace(values=tuple(map(record.get, others))) if others else row


def _refuse_others(line: str) -> None:
    """Refuse a file whose first line shows that it is not NDJSON."""
    start = line.lstrip()[:1]
    if start == "[":
        raise FileError("The file looks like a JSON array. Write each object on its own line (NDJSON).")
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        if start != "{":
            raise FileError("The first line is not JSON. If the file is CSV, send it as text/csv.") from None
