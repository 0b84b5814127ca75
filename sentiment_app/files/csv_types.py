"""The types of columns, which show that a field is in the wrong column."""

import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

NUMERIC = re.compile(r"[\s\d.,:/+\-%$€£TZ]*\d[\s\d.,:/+\-%$€£TZ]*")
DIGITS = re.compile(r"\d+")
CODE = re.compile(r"[^\s\"]*\d[^\s\"]*")
MAX_CODE_CHARACTERS = 80
MAX_CATEGORY_CHARACTERS = 30
MAX_TYPED_COLUMNS = 1000
MIN_CONSISTENCY = 0.9
MIN_FILLED_RECORDS = 10
MAX_EXCEPTIONS = 0.01
# Values that say nothing about a column.
NULLS = frozenset(["", "-", "n/a", "na", "nan", "none", "null", "unknown", "\\n"])
# By column: the values that it has, with "9" in place of each number.
Types = dict[int, frozenset[str]]


def column_types(records: list[list[str]]) -> Types:
    """The types of the columns that have a type: numbers, dates and codes, or few different values.

    Types show when a field is in the wrong column.
    """
    types: Types = {}
    for index in range(min(max(map(len, records), default=0), MAX_TYPED_COLUMNS)):
        values = [fields[index].strip() for fields in records if index < len(fields)]
        values = [value for value in values if value.lower() not in NULLS]
        shapes = Counter(DIGITS.sub("9", value) for value in values if _is_code(value))
        known = {shape: count for shape, count in shapes.items() if count > 1}
        if sum(known.values()) >= min(MIN_CONSISTENCY * len(values), len(values) - 1) > 0:
            types[index] = frozenset(known)
            continue
        categories = {value: count for value, count in Counter(values).items() if count > 1}
        is_categorical = sum(categories.values()) >= MIN_CONSISTENCY * len(values) >= 4 * len(categories) > 0
        if is_categorical and all(len(value) <= MAX_CATEGORY_CHARACTERS for value in categories):
            types[index] = frozenset(categories)
    return types


def filled_columns(records: list[list[str]], width: int) -> frozenset[int]:
    """The columns that have a value in each record, apart from rare exceptions. A few records show nothing."""
    complete = [fields for fields in records if len(fields) == width]
    if len(complete) < MIN_FILLED_RECORDS:
        return frozenset()
    exceptions = max(1, int(MAX_EXCEPTIONS * len(complete)))
    columns = range(min(width, MAX_TYPED_COLUMNS))
    return frozenset(i for i in columns if sum(is_empty(fields[i]) for fields in complete) <= exceptions)


def code_types(types: Types) -> Types:
    """The types of columns of numbers, dates and codes."""
    return {index: known for index, known in types.items() if any("9" in value for value in known)}


def is_empty(value: str) -> bool:
    """Whether a field has no characters that people see."""
    return not value or value.isspace()


def _is_code(value: str) -> bool:
    """Whether a value is a number, a date, or a word with a digit, such as R-17."""
    return is_number(value) or (len(value) <= MAX_CODE_CHARACTERS and CODE.fullmatch(value) is not None)


def is_number(value: str) -> bool:
    """Whether a value is a number, a date or a time. On longer values, the expression would take quadratic time."""
    return len(value) <= MAX_CODE_CHARACTERS and NUMERIC.fullmatch(value) is not None


class Wrong(NamedTuple):
    """Fields that do not have the type of their column."""

    numbers: int
    """Words in columns of numbers."""
    all: int
    compared: int


def count_wrong(types: Types, fields: list[str]) -> Wrong:
    """Compare fields with the types of their columns. Empty and unknown values are not compared."""
    numbers = unknown = compared = 0
    for index, known in types.items():
        value = fields[index].strip() if index < len(fields) else ""
        if (value.isdecimal() and "9" in known) or value in known:
            compared += 1
            continue
        if value.lower() in NULLS:
            continue
        compared += 1
        if DIGITS.sub("9", value) in known:
            continue
        if is_numeric(known) and not is_number(value):
            numbers += 1
        else:
            unknown += 1
    return Wrong(numbers, numbers + unknown, compared)


@lru_cache(maxsize=MAX_TYPED_COLUMNS)
def is_numeric(known: frozenset[str]) -> bool:
    """Whether a type is of numbers or dates."""
    return all(map(is_number, known))
