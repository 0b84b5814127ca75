"""The columns of an uploaded file that are kept (`keep=columns`), so that they can be joined to the results."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from sentiment_app.errors import InvalidError
from sentiment_app.files.columns import check_kept
from sentiment_app.files.errors import FileError
from sentiment_app.files.rows import MAX_EXACT_FLOAT, Row, make_storable

MAX_ROW_BYTES = 20_000
SAME_NAME = "Two columns of the row have the same name, without the characters that cannot be stored."
INT64 = range(-(2**63), 2**63)
# The type of integers that a column of floating-point numbers could not hold exactly.
LONG = "long integer"


class Column(NamedTuple):
    """The name and the type of a column: "string", "integer", "number" or "boolean"."""

    name: str
    type: str


class KeptColumns:
    """Checks the columns of all rows that pass, and remembers their names and types."""

    def __init__(self) -> None:
        self._types: dict[str, str | None] = {}

    def check(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows. A row whose columns cannot be kept has an error.

        Raises:
            InvalidError: the rows have too many different columns.
        """
        for row in rows:
            if not row.columns:
                yield row
                continue
            columns = {make_storable(name): value for name, value in row.columns.items()}
            error = _find_error(row.columns) or (SAME_NAME if len(columns) < len(row.columns) else None)
            if error:
                yield row._replace(text=None, columns=None, error=row.error or error)
                continue
            self._observe(columns)
            yield row._replace(columns=columns)

    def describe(self) -> list[dict[str, str | None]]:
        """The columns, in the order in which they were first seen."""
        names = {None: "string", LONG: "integer"}
        return [{"name": name, "type": names.get(type_, type_)} for name, type_ in self._types.items()]

    def _observe(self, columns: dict[str, Any]) -> None:
        new = columns.keys() - self._types.keys()
        if new:
            try:
                check_kept([*self._types, *new])
            except FileError as error:
                raise InvalidError(error.detail, field=error.option) from None
        for name, value in columns.items():
            known = self._types.get(name)
            self._types[name] = known if value is None else _join(known, _type(value))


def _find_error(columns: dict[str, Any]) -> str | None:
    try:
        json.dumps(columns, allow_nan=False)  # orjson would write null in place of infinity
        size = len(orjson.dumps(columns))
    except (TypeError, ValueError, RecursionError):
        return (
            "The other columns of the row cannot be kept. They are nested too deeply, or have characters that are not "
            "valid, a number that is not finite, or an integer of more than 64 bits."
        )
    if size <= MAX_ROW_BYTES:
        return None
    return f"The other columns of the row have {size:,} bytes. With keep=columns, the limit is {MAX_ROW_BYTES:,}."


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) and value in INT64:
        return "integer" if abs(value) <= MAX_EXACT_FLOAT else LONG
    return "number" if isinstance(value, float) else "string"


def _join(known: str | None, new: str) -> str:
    if known is None or known == new:
        return new
    if {known, new} == {"integer", LONG}:
        return LONG
    return "number" if {known, new} == {"integer", "number"} else "string"
