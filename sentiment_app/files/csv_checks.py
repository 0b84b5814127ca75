"""Checks of a record of CSV against the layout of its file: is it shifted, a part of a text, or a header?"""

import re
from collections.abc import Iterator

from sentiment_app.files.csv_layout import Layout
from sentiment_app.files.csv_records import GLUED_QUOTE
from sentiment_app.files.csv_types import (
    DIGITS,
    MAX_CODE_CHARACTERS,
    NULLS,
    NUMERIC,
    Types,
    count_wrong,
    is_empty,
    is_numeric,
)

NUMBER_START = re.compile(r"[+-]?\d+(?! )")
JOINED = re.compile(r"\d+[^\W\d]|\d[\d.:/TZ-]*[;|\t\"]")
MIN_UNTYPED_VALUES = 4


def is_shifted(fields: list[str], layout: Layout) -> bool:
    """Whether the fields are surely in the wrong columns. A single unusual value is not enough.

    They are if a column of numbers begins with a number and continues with words or signs, as where a delimiter is
    missing, or if at least two fields, and half of the fields that are compared, have the wrong type. They also are if
    a column that is always filled is empty, and another field looks as if it belonged to a neighbour column.
    """
    wrong = count_wrong(layout.types_near_text, fields)
    quote, before = layout.dialect.quote, layout.types_before_text.items()
    if any(quote in fields[index] and fields[index].strip() not in known for index, known in before):
        return True
    lacks_value = any(is_empty(fields[index]) for index in layout.filling.always)
    if lacks_value and (wrong.numbers or _has_strange_field(fields, layout)):
        return True
    if not wrong.numbers:
        return False
    if wrong.all >= 2 and 2 * wrong.all >= wrong.compared:
        return True
    return any(JOINED.match(fields[index].strip()) is not None for index, known in before if is_numeric(known))


def _has_strange_field(fields: list[str], layout: Layout) -> bool:
    """Whether a field looks as if it were in the wrong column, or as if it had been joined with its neighbour."""
    is_filled = not all(is_empty(fields[index]) for index in layout.filling.never)
    if is_filled or (layout.shape.has_enclosed_fields and any(map(GLUED_QUOTE.search, fields))):
        return True
    text_index = layout.text_index
    before, text = layout.types.get(text_index - 1), fields[text_index].strip()
    is_joined = before and any(len(known) > 1 and DIGITS.sub("9", text).startswith(known) for known in before)
    return bool(is_joined) or may_be_joined(text, layout) or any(_fits_neighbour(fields, layout))


def _fits_neighbour(fields: list[str], layout: Layout) -> Iterator[bool]:
    """For each neighbour of a column of numbers or codes: whether it has a value of this column instead of its own."""
    for index, known in layout.types.items():
        if not any("9" in value for value in known):
            continue
        for other in (index - 1, index + 1):
            value = fields[other].strip() if 0 <= other < len(fields) else ""
            own = layout.types.get(other, frozenset())
            shape = DIGITS.sub("9", value)
            yield bool(value) and shape in known and shape not in own and value not in own


def may_continue_text(fields: list[str], layout: Layout) -> bool:
    """Whether a record may be the rest of a text with a line break, because it does not begin like a record."""
    before = layout.types_before_text
    if not before:
        return True
    index = min(before)
    value = fields[index].strip() if index < len(fields) else ""
    is_word = is_numeric(before[index]) and not NUMBER_START.match(value)
    return is_word and value.lower() not in NULLS and not NUMERIC.fullmatch(value)


def is_header(fields: list[str], layout: Layout) -> bool:
    """Whether a record looks like another line of the header: it has no value of any type, and words for numbers."""
    wrong = count_wrong(layout.types, fields)
    return wrong.numbers > 0 and wrong.all == wrong.compared


def is_repeated_header(fields: list[str], layout: Layout) -> bool:
    """Whether a record is the header again, as in files that were joined. In one column, it may as well be a text."""
    return fields == layout.names and layout.header_line is not None and len(fields) > 1


def is_typed(fields: list[str], layout: Layout) -> bool:
    """Whether all columns before the text have values of their types."""
    wrong = count_wrong(layout.types_before_text, fields)
    return wrong.compared == len(layout.types_before_text) and not wrong.all


def has_unknown_end(fields: list[str], layout: Layout) -> bool:
    """Whether the last field does not have the type of its column."""
    last = len(fields) - 1
    known = layout.types.get(last)
    wrong = count_wrong({last: known}, fields) if known else None
    return wrong is None or wrong.all > 0 or wrong.compared == 0


def begins_record(fields: list[str], types: Types) -> bool:
    """Whether the first field that has a type at least begins with a value of this type."""
    index = min(types, default=len(fields))
    if index >= len(fields):
        return False
    value = fields[index].strip()
    is_number = NUMBER_START.match(value) is not None and any("9" in known for known in types[index])
    return is_number or DIGITS.sub("9", value) in types[index] or any(map(value.startswith, types[index] - {""}))


def may_be_joined(text: str, layout: Layout) -> bool:
    """Whether a text may end with the value of the next column, because the delimiter between them is missing."""
    known = layout.types.get(layout.text_index + 1)
    if known is None and len(layout.values_after_text) >= MIN_UNTYPED_VALUES:
        return True
    end = text[-MAX_CODE_CHARACTERS:]
    return text.endswith(layout.values_after_text) or DIGITS.sub("9", end).endswith(tuple(known or ()))
