"""Find out how a CSV file is written: its delimiter, its quotes, its header and the types of its columns.

Everything is decided with the first lines. For each dialect that these lines could be written in, they are split into
records. The dialect that has the requested column wins, and of several such dialects the most consistent.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

from sentiment_app.files.columns import Columns, find_columns, matching, named
from sentiment_app.files.csv_records import UNCLOSED, Dialect, Record, RecordReader, Shape
from sentiment_app.files.csv_types import MIN_CONSISTENCY, Types, code_types, column_types, count_wrong, filled_columns
from sentiment_app.files.errors import FileError

DELIMITERS = ",;\t|"
# These also occur in texts and names. They are delimiters only if the header then has the requested column.
RARE_DELIMITERS = " :~^\x1f\x01"
DELIMITER_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
SEPARATOR_LINE = re.compile(r'"?sep=([,;|:~^ \t])"?\s*', re.IGNORECASE)  # an instruction to Excel
# A writer that doubles quotes also encloses fields with quotes, so that this does not occur outside quotes.
ESCAPED = re.compile(r"\\\"|(?:^|[,;\t|])\\N(?:$|[,;\t|])", re.MULTILINE)
DOUBLED = re.compile(r'[^,;\t|\n\r"]""')
ESCAPED_DELIMITER = re.compile(r"\\[,;\t|]")
SINGLE_QUOTED = re.compile(r"(?:^|[,;\t|])\s?'(?:[^']|'')*'\s*(?:$|[,;\t|])")
DOUBLE_QUOTED = re.compile(r'(?:^|[,;\t|])\s?"', re.MULTILINE)
ENCLOSED = re.compile(r'(?:^|\t)"(?:[^"\t]|"")*"(?:\t|\r?\n?$)')
PLAIN_NAME = re.compile(r'"[^",;\t|]+"')
MAX_HEADER_LINE = 20
NUMBER = re.compile(r"\d+")


class Layout(NamedTuple):
    """How a CSV file is written."""

    dialect: Dialect
    header_line: int | None
    """None if the file has no header."""
    skipped: int
    """Number of lines before the first record."""
    names: list[str]
    text_index: int
    id_index: int | None
    other_indexes: list[int | None]
    kept_names: dict[int, str]
    """The columns that are kept, with different names."""
    types: Types
    types_before_text: Types
    types_near_text: Types
    """The types of the four columns nearest to the text."""
    values_after_text: tuple[str, ...]
    """The values of the next column."""
    code_types: Types
    """The types of columns of numbers, dates and codes."""
    filled: frozenset[int]
    """The columns that have a value in nearly all records."""
    has_typed_start: bool
    """Whether all columns before the text have a type, so that a missing or extra delimiter is noticed."""
    extra: int
    """Number of empty fields that follow the last column in most records."""
    shape: Shape


class _Reading(NamedTuple):
    """The first records of a file, as a dialect reads them."""

    dialect: Dialect
    header: list[str]
    header_line: int | None
    has_column: bool
    damaged_line: int | None
    """The number of a damaged line before the header."""
    records: list[list[str]]
    """The records after the header. A damaged record has no fields."""
    width: int
    """The number of fields that most records have."""
    consistency: float
    """The share of records with this number of fields."""


def find_layout(lines: Sequence[str | None], columns: Columns, delimiter: str | None, *, is_whole: bool) -> Layout:
    """The layout of a file.

    Args:
        lines: the first lines of the file.
        columns: the requested columns.
        delimiter: a character or its name. It is detected if it is None.
        is_whole: whether the file has no more lines.

    Raises:
        FileError: the delimiter is not acceptable, or a column is missing or ambiguous.
    """
    given = _parse_delimiter(delimiter) if delimiter else None
    separator = SEPARATOR_LINE.fullmatch(lines[0] or "") if lines else None
    if separator:
        lines = lines[1:]
        given = given or separator[1]
    dialects = _candidates([line for line in lines if line], given, columns)
    best = max((_read(lines, dialect, columns, is_whole=is_whole) for dialect in dialects), key=_rank)
    return _describe(best, columns, lines, skipped=1 if separator else 0)


def _parse_delimiter(delimiter: str) -> str:
    found = DELIMITER_NAMES.get(delimiter.lower(), delimiter)
    if len(found) != 1 or found in "\r\n'\"\\":
        names = ", ".join(name for name in DELIMITER_NAMES if name.isalpha())
        raise FileError(
            f"The delimiter {delimiter[:20]!r} is not acceptable. Use a character that is not a quote, a backslash or "
            f"a line break, or one of these names: {names}.",
            "delimiter",
        )
    return found


def _candidates(lines: list[str], delimiter: str | None, columns: Columns) -> Iterator[Dialect]:
    text = "".join(lines)
    wanted = columns.text_name
    heads = lines[:MAX_HEADER_LINE]
    rare = [rare for rare in RARE_DELIMITERS if any(named(line.split(rare), wanted) for line in heads if rare in line)]
    delimiters = [delimiter] if delimiter else ["", *(found for found in DELIMITERS if found in text), *rare]
    quotes = ['"']
    single_quoted = sum(SINGLE_QUOTED.search(line[:1000]) is not None for line in lines)
    if single_quoted and not DOUBLE_QUOTED.search(text):
        # The first dialect wins among dialects that read the file equally well.
        quotes = ["'", '"'] if single_quoted * 2 > len(lines) else ['"', "'"]
    escapes = [""]
    if ESCAPED.search(text) or ESCAPED_DELIMITER.search(text):
        # The first dialect wins among dialects that read the file equally well.
        escapes = ["\\", ""] if ESCAPED.search(text) and not DOUBLED.search(text) else ["", "\\"]
    for delimiter_, quote, escape in product(delimiters, quotes, escapes):
        after_delimiter = re.findall(f"{re.escape(delimiter_)}(.?)", text) if delimiter_.strip() else []
        yield Dialect(delimiter_, quote, escape, skip_spaces=set(after_delimiter) == {" "})


def _read(lines: Sequence[str | None], dialect: Dialect, columns: Columns, *, is_whole: bool) -> _Reading:
    found = [record for record in RecordReader(iter(lines), dialect) if record.fields or record.error]
    if not is_whole and len(found) > 1:
        found.pop()  # it may be incomplete
    width = _modal_width([record.fields for record in found])
    index = _find_header(found, columns, width)
    header = found[index] if index is not None else None
    damaged = next((record for record in found[: index or 0] if record.error), None)
    records = [record.fields for record in found[0 if index is None else index + 1 :]]
    names = [name.strip() for name in header.fields] if header else [str(number + 1) for number in range(width)]
    data_width = _modal_width(records) or width
    consistency = sum(len(fields) == data_width for fields in records) / len(records) if records else 1.0
    return _Reading(
        dialect,
        names,
        header.line if header else None,
        bool(matching(names, columns.text_name)),
        damaged.line if damaged else None,
        records,
        data_width,
        consistency,
    )


def _modal_width(records: list[list[str]]) -> int:
    widths = Counter(len(fields) for fields in records if fields)
    return max(widths, key=lambda width: (widths[width], width)) if widths else 0


def _find_header(found: list[Record], columns: Columns, width: int) -> int | None:
    """The index of the header. Lines before it, such as a title, are skipped if they cannot be data."""
    if not columns.has_header or not found:
        return None
    wanted = columns.text_name
    heads = enumerate(found[:MAX_HEADER_LINE])
    index = next((index for index, record in heads if named(record.fields, wanted)), None)
    if index is not None:
        before = [record.fields for record in found[:index]]
        types = column_types([record.fields for record in found[index + 1 :]])
        if not any(_is_data(fields, width, types) for fields in before):
            return index
    return next((index for index, record in enumerate(found) if len(record.fields) == width), 0)


def _is_data(fields: list[str], width: int, types: Types) -> bool:
    is_sparse = width > 1 and sum(map(bool, fields)) <= 1
    return len(fields) == width and not is_sparse and not (types and count_wrong(types, fields).numbers)


def _rank(reading: _Reading) -> tuple[int, float]:
    """How well a dialect reads the file. The first candidate wins among equal candidates."""
    width = len(reading.header)
    is_table = reading.width > 1 and bool(reading.records)
    if not reading.dialect.delimiter:
        level = 2 if reading.has_column else 0
    elif reading.has_column:
        # If all rows have several fields, but the header has only one name, the header is incomplete.
        level = 4 if width > 1 else 3 if is_table and _lacks_names(reading) else 1
    else:
        is_regular = is_table and reading.width == width and reading.consistency >= MIN_CONSISTENCY
        level = 1 if is_regular and reading.dialect.delimiter in DELIMITERS else -1
    return level, reading.consistency


def _lacks_names(reading: _Reading) -> bool:
    """Whether all rows have several fields, but the header has only one name. Delimiters in sentences do not count."""
    is_regular = reading.consistency == 1 and len(reading.records) > 1 and reading.dialect.delimiter in DELIMITERS
    return (
        is_regular
        and not reading.dialect.skip_spaces
        and any(part and part[0] != " " for fields in reading.records for part in fields[1:])
    )


def _describe(reading: _Reading, columns: Columns, lines: Sequence[str | None], *, skipped: int) -> Layout:
    names, records = reading.header, reading.records
    width = len(names)
    if reading.damaged_line is not None:
        raise FileError(f"Line {reading.damaged_line + skipped}, before the header, cannot be read. {UNCLOSED}")
    found = find_columns(names, columns)
    text_index = found.text
    types = {index: type_ for index, type_ in column_types(records).items() if text_index != index < width}
    longer = [fields for fields in records if len(fields) == reading.width > width]
    has_extra = bool(longer) and reading.consistency >= MIN_CONSISTENCY and not any(any(row[width:]) for row in longer)
    ends = Counter(line[-1] for line in lines if line)
    return Layout(
        dialect=reading.dialect,
        header_line=None if reading.header_line is None else reading.header_line + skipped,
        skipped=skipped,
        names=names,
        text_index=text_index,
        id_index=found.id,
        other_indexes=found.others,
        kept_names=found.kept,
        has_typed_start=all(index in types for index in range(text_index)),
        types=types,
        types_before_text={index: known for index, known in types.items() if index < text_index},
        types_near_text=_nearest(types, text_index),
        values_after_text=tuple({row[text_index + 1].strip() for row in records if len(row) > text_index + 1} - {""}),
        code_types=code_types({index: known for index, known in types.items() if index != text_index}),
        filled=filled_columns(records, width),
        extra=reading.width - width if has_extra else 0,
        shape=Shape(
            width,
            _are_records(types, text_index, _is_ordered(records)),
            has_cr_in_texts=ends["\n"] > ends["\r"] and not _ends_at_cr(lines, reading.dialect, width),
            has_literal_quotes=not any(ENCLOSED.search(line) for line in lines if line),
            has_enclosed_fields=any(DOUBLE_QUOTED.search(line) for line in lines if line),
            encloses_all=reading.header_line is not None and _encloses_all(lines, reading, width),
        ),
    )


def _are_records(types: Types, text_index: int, is_ordered: bool) -> Callable[[list[str], list[list[str]]], bool]:
    """A function that says whether the lines after an unclosed quote are records of their own.

    The last of these lines shows nothing, because a quote closes the text in it. In a file whose first column counts
    upwards, the other lines are records if each of them has a higher number. Otherwise they must have the types of all
    columns.
    """

    def are_records(before: list[str], rows: list[list[str]]) -> bool:
        inner = rows[:-1]
        if is_ordered and text_index > 0:
            numbers = [_leading_number(fields[0]) for fields in [before, *inner]]
            return bool(inner) and all(len(row) > 1 for row in inner) and all(a < b for a, b in pairwise(numbers))
        checks = [count_wrong(types, row) for row in inner]
        return bool(inner) and all(check.compared and not check.all for check in checks)

    return are_records


def _encloses_all(lines: Sequence[str | None], reading: _Reading, width: int) -> bool:
    """Whether the writer encloses each field in quotes: then a line that does not begin with a quote is no record."""
    delimiter = reading.dialect.delimiter
    following = f'(?:{re.escape(delimiter)}"[^"]*+"){{{width - 1}}}' if delimiter else ""
    enclosed = re.compile(rf'"[^"]*+"{following}\s*')
    header = lines[(reading.header_line or 1) - 1] or ""
    # A name without a special character is not enclosed by other writers.
    if reading.dialect.quote != '"' or not enclosed.fullmatch(header) or not PLAIN_NAME.search(header):
        return False
    plain = [line for line in lines if line and line.count(delimiter or "\0") == width - 1]
    return 2 * sum(enclosed.fullmatch(line) is not None for line in lines if line) > len(plain)


def _leading_number(value: str) -> int:
    found = NUMBER.match(value.strip())
    return int(found[0][:18]) if found else -1


def _is_ordered(records: list[list[str]]) -> bool:
    """Whether the first column counts upwards."""
    numbers = [_leading_number(fields[0]) for fields in records if len(fields) > 1]
    return len(numbers) > 1 and all(a < b for a, b in pairwise(numbers))


def _nearest(types: Types, text_index: int) -> Types:
    return dict(sorted(types.items(), key=lambda item: abs(item[0] - text_index))[:4])


def _ends_at_cr(lines: Sequence[str | None], dialect: Dialect, width: int) -> bool:
    """Whether lines that end with CR alone, and the lines after them, are records. Lines with quotes do not count."""
    if not dialect.delimiter:  # every line is a record of one column, so only their number can tell
        return 10 * sum(line[-1:] == "\r" for line in lines if line) > len(lines)

    def is_record(line: str) -> bool:
        return line.count(dialect.delimiter) == width - 1

    pairs = [(line, following) for line, following in pairwise(lines) if line and line[-1] == "\r" and following]
    plain = [pair for pair in pairs if not any(dialect.quote in line for line in pair)]
    return sum(all(map(is_record, pair)) for pair in plain) >= MIN_CONSISTENCY * len(plain) > 0
