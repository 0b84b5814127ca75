"""Rows of NDJSON: a JSON object with a text and perhaps a custom_id, or a JSON string, on each line."""

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from sentiment_app.files.errors import FileError
from sentiment_app.files.lines import LINE_TOO_LONG
from sentiment_app.files.rows import Row, make_row

# A union in the call of isinstance would be made anew for each row.
NO_IDS = (bool, list, dict)


class Keys(NamedTuple):
    """The keys of the values in an object. `others` are further values. `keeps_others` keeps all other values."""

    text: str = "text"
    id: str = "custom_id"
    others: tuple[str, ...] = ()
    keeps_others: bool = False


class RepeatedKeys(dict[str, Any]):
    """An object that has a key twice. Parsers differ in which of the values they take."""


def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object from its keys and values, as the hook of a decoder."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else RepeatedKeys(found)


def read_ndjson(lines: Iterator[str | None], keys: Keys) -> Iterator[Row | None]:
    """The rows, and None for each blank line.

    Args:
        lines: None in place of a line that is too long.
        keys: the keys of the values.

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
            yield _parse(number, line, keys)


def make_row_of_value(number: int, value: Any, keys: Keys) -> Row:
    """The row of a decoded object or string, with this number as its line."""
    if isinstance(value, str):
        return make_row(number, None, value)
    if isinstance(value, RepeatedKeys):
        return Row(number, None, None, "The row has a key twice.")
    if not isinstance(value, dict):
        return Row(number, None, None, f'The row is not a JSON object such as {{"{keys.text}": "…"}}.')
    custom_id = value.get(keys.id)
    if isinstance(custom_id, NO_IDS) or (isinstance(custom_id, float) and not math.isfinite(custom_id)):
        return Row(number, None, None, f"The {keys.id} must be a string or a number.")
    row = make_row(number, custom_id, value.get(keys.text))
    if keys.others:
        row = row._replace(values=tuple(map(value.get, keys.others)))
    if keys.keeps_others:
        row = row._replace(columns={key: kept for key, kept in value.items() if key not in (keys.text, keys.id)})
    return row


def _parse(number: int, line: str, keys: Keys) -> Row:
    try:
        value = orjson.loads(line)
        # orjson reads integers of more than 64 bits as floats, and takes the last value of a key that occurs twice.
        may_repeat = line.count(f'"{keys.text}"') > 1 or line.count(f'"{keys.id}"') > 1
        if isinstance(value, dict) and (keys.keeps_others or may_repeat or isinstance(value.get(keys.id), float)):
            value = json.loads(line, object_pairs_hook=make_object)
    except (ValueError, RecursionError) as invalid:
        try:  # orjson refuses lone surrogates. Parse them here, so that make_row reports them as such.
            value = json.loads(line)
        except (ValueError, RecursionError):
            reason = f": {invalid.msg} (column {invalid.colno})" if isinstance(invalid, json.JSONDecodeError) else ""
            return Row(number, None, None, f"The line is not valid JSON{reason}.")
    return make_row_of_value(number, value, keys)


def _refuse_others(line: str) -> None:
    """Refuse a file whose first line shows that it is not NDJSON."""
    start = line.lstrip()[:1]
    if start == "{" or (start == '"' and '","' not in line):
        return
    if start == "[":
        raise FileError("The file looks like a JSON array. Send it as application/json.")
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        raise FileError("The first line is not JSON. If the file is CSV, send it as text/csv.") from None
