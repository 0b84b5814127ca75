"""Checks of a record of CSV against the layout of its file: is it shifted, a part of a text, or a header?"""

import re
from collections.abc import Iterator

from sentiment_app.files.csv_layout import Layout
from sentiment_app.files.csv_records import GLUED_QUOTE
from sentiment_app.files.csv_types import (
    DIGITS,
    MAX_CATEGORY_CHARACTERS,
    MAX_CODE_CHARACTERS,
    NULLS,
    Types,
    count_wrong,
    is_empty,
    is_number,
    is_numeric,
)

NUMBER_START = re.compile(r"[+-]?\d+(?! )")
# A number that a word follows, also after another delimiter; but not 10am, 3rd, 12USD and 5|6.
JOINED = re.compile(r"\d[\d.:/TZ-]*(?:[^\W\d]{4}|[;|\t][^\W\d]|\")")
MIN_UNTYPED_VALUES = 4


def is_shifted(fields: list[str], layout: Layout) -> bool:
    """Whether the fields are surely in the wrong columns. A single unusual value is not enough.

    They are if a column of numbers or codes has a quote, if a number is joined with a word, as where a delimiter is
    missing, or if at least two fields near the text, and half of those that are compared, have the wrong type. They
    also are if a field is empty or has the wrong type, and the text looks as if it came from a neighbour column.
    """
    quote = layout.dialect.quote
    if any(quote in fields[index] and fields[index].strip() not in known for index, known in layout.code_types.items()):
        return True
    wrong = count_wrong(layout.types_near_text, fields)
    lacks_value = "" in fields and any(not fields[index] for index in layout.filled)
    if lacks_value and (wrong.numbers or _has_strange_field(fields, layout)):
        return True
    if _is_category_of_neighbour(fields, layout) and count_wrong(layout.types, fields).numbers:
        return True
    if not wrong.numbers:
        return False
    if wrong.all >= 2 and 2 * wrong.all >= wrong.compared:
        return True
    before = layout.types_before_text.items()
    return any(JOINED.match(fields[index].strip()) is not None for index, known in before if is_numeric(known))


def _has_strange_field(fields: list[str], layout: Layout) -> bool:
    """Whether a field looks as if it were in the wrong column, or as if it had been joined with its neighbour."""
    if layout.shape.has_enclosed_fields and any(map(GLUED_QUOTE.search, fields)):
        return True
    index = layout.text_index
    text = DIGITS.sub("9", fields[index].strip())
    before, after = layout.types.get(index - 1), layout.types.get(index + 1)
    if before and is_empty(fields[index - 1]) and any(len(known) > 1 and text.startswith(known) for known in before):
        return True
    if after and is_empty(fields[index + 1]) and text.endswith(tuple(known for known in after if len(known) > 1)):
        return True
    return any(_fits_neighbour(fields, layout))


def _fits_neighbour(fields: list[str], layout: Layout) -> Iterator[bool]:
    """For each neighbour of a column of numbers or codes: whether it has a value of this column instead of its own."""
    for index, known in layout.code_types.items():
        for other in (index - 1, index + 1):
            value = fields[other].strip() if 0 <= other < len(fields) else ""
            own = layout.types.get(other, frozenset())
            shape = DIGITS.sub("9", value)
            yield bool(value) and shape in known and shape not in own and value not in own


def _is_category_of_neighbour(fields: list[str], layout: Layout) -> bool:
    """Whether the text is a value of the column before or after it, which has only a few different values."""
    text, index = fields[layout.text_index].strip(), layout.text_index
    return len(text) <= MAX_CATEGORY_CHARACTERS and any(
        text in layout.types.get(other, ()) for other in (index - 1, index + 1)
    )


def may_continue_text(fields: list[str], layout: Layout) -> bool:
    """Whether a record may be the rest of a text with a line break, because it does not begin like a record."""
    before = layout.types_before_text
    if not before:
        return True
    index = min(before)
    value = fields[index].strip() if index < len(fields) else ""
    is_word = is_numeric(before[index]) and not NUMBER_START.match(value)
    return is_word and value.lower() not in NULLS and not is_number(value)


def continues_damaged_record(fields: list[str], layout: Layout) -> bool:
    """Whether a record may be the rest of a damaged record, because a column does not have a value of its type."""
    is_rest = bool(layout.types_before_text) and may_continue_text(fields, layout)
    return is_rest or count_wrong(layout.types, fields).numbers > 0


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
