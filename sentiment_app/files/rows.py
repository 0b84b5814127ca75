"""A row of a file."""

from typing import Any, NamedTuple

MAX_CUSTOM_ID_CHARACTERS = 200
# Up to here, a floating-point number holds every integer exactly.
MAX_EXACT_FLOAT = 2**53


class Row(NamedTuple):
    """A row of a file: its text, or an error if it has no acceptable text.

    `line` is the number of its first line, from 1. `custom_id` is the sender's identifier of the row. `values` are
    those of the other columns that were requested; None where a column or its value is missing. `columns` are the
    columns that are kept, by name.
    """

    line: int
    custom_id: str | None
    text: str | None
    error: str | None = None
    values: tuple[Any, ...] = ()
    columns: dict[str, Any] | None = None


def make_row(line: int, custom_id: Any, text: Any) -> Row:
    """A row with these values, or with the reason why one of them is not acceptable."""
    name = None if custom_id is None else str(custom_id)
    if name is not None and (len(name) > MAX_CUSTOM_ID_CHARACTERS or not is_storable(name)):
        limit = MAX_CUSTOM_ID_CHARACTERS
        return Row(line, None, None, f"The custom_id must have at most {limit} characters, and no NUL character.")
    if not isinstance(text, str):
        return Row(line, name, None, "The row has no text.")
    if not is_storable(text):
        detail = "The text contains a NUL character, or bytes that are not valid in the encoding of the file."
        return Row(line, name, None, detail)
    return Row(line, name, text)


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can store a string in UTF-8."""
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def make_storable(name: str) -> str:
    """A name without what PostgreSQL cannot store."""
    return name.replace("\0", "").encode(errors="replace").decode()


def shorten_number(number: float) -> float | int:
    """A number as people write it: 1, and not 1.0 as spreadsheets and pandas store it."""
    return int(number) if number.is_integer() and abs(number) < MAX_EXACT_FLOAT else number
