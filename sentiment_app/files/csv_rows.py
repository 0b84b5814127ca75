"""Rows of CSV (RFC 4180, and the many other ways in which programs write it)."""

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator

from sentiment_app.files.columns import Columns
from sentiment_app.files.csv_checks import (
    begins_record,
    continues_damaged_record,
    has_unknown_end,
    is_header,
    is_repeated_header,
    is_shifted,
    is_typed,
    may_be_joined,
    may_continue_text,
)
from sentiment_app.files.csv_layout import Layout, find_layout
from sentiment_app.files.csv_records import UNCLOSED, Record, RecordReader
from sentiment_app.files.errors import FileError
from sentiment_app.files.rows import Row, make_row

SAMPLE_CHARACTERS, SAMPLE_LINES = 32 * 1024, 1000
MAX_MORE_HEADERS = 2
# How many values of a column that was always filled may be missing before this says nothing any more.
MAX_EMPTY, MAX_EMPTY_SHARE = 2, 0.01
MORE_HEADER = "The line looks like another line of the header."
SHIFTED = "The fields of the line do not fit their columns. A delimiter is missing or extra, or it is in a text."
CUT_OFF = "The text may be cut off, because the next line is not a row. Write texts with line breaks in quotes."
CONTINUES = "The line may continue the text of the line before it. Write texts with line breaks in quotes."
ENDS_EARLY = "The file ends in this line. It may be incomplete."


class CsvFile:
    """A CSV file that is read as a stream.

    Args:
        lines: the lines of the file; None in place of a line that is too long.
        columns: the requested columns.
        delimiter: a character or its name. It is detected if it is None.

    Raises:
        FileError: the delimiter is not acceptable, or a column is missing or ambiguous.
    """

    def __init__(self, lines: Iterator[str | None], columns: Columns, delimiter: str | None) -> None:
        sample: list[str | None] = []
        size = 0
        for line in lines:
            sample.append(line)
            size += len(line or "")
            if size > SAMPLE_CHARACTERS or len(sample) > SAMPLE_LINES:
                break
        _refuse_json(sample)
        following = next(lines, "")
        self.layout: Layout = find_layout(sample, columns, delimiter, is_whole=following == "")
        """How the file is written."""
        self._empty: Counter[int] = Counter()
        self._lines = itertools.chain(sample, [following] if following != "" else [], lines)

    def _forget_sparse_columns(self, layout: Layout, fields: list[str], count: int) -> Layout:
        """The layout without the columns that were filled at first, and then empty too often."""
        if "" not in fields or len(fields) != layout.shape.width:
            return layout
        empty = [index for index in layout.filled if not fields[index]]
        self._empty.update(empty)
        often = {index for index in empty if self._empty[index] > MAX_EMPTY + MAX_EMPTY_SHARE * count}
        return layout._replace(filled=layout.filled - often) if often else layout

    def __iter__(self) -> Iterator[Row | None]:
        """The rows, and None for each blank line."""
        layout = self.layout
        if not layout.names:  # all lines are blank
            return
        before = layout.header_line - 1 if layout.header_line else layout.skipped
        reader = RecordReader(itertools.islice(self._lines, before, None), layout.dialect, layout.shape)
        records = iter(reader)
        if layout.header_line:
            next(records, None)
        held: Row | None = None  # its text may continue on the next line
        is_after_fragment = is_after_damage = False
        blank_lines = 0
        for count, record in enumerate(records):
            if not record.fields and record.error is None:
                if held is None:
                    yield None
                blank_lines += 1
                continue
            layout = self._forget_sparse_columns(layout, record.fields, count)
            may_be_header = count < MAX_MORE_HEADERS and layout.header_line is not None
            row = _make_row(record.line + before, record, layout, may_be_header=may_be_header)
            is_fragment = held is not None and _is_fragment(record, layout)
            if held is not None:
                yield held._replace(text=None, error=CUT_OFF) if is_fragment else held
                yield from itertools.repeat(None, blank_lines)
            held, blank_lines = None, 0
            is_rest = (is_after_fragment and may_continue_text(record.fields, layout)) or (
                is_after_damage and continues_damaged_record(record.fields, layout)
            )
            if row.error is None and (is_fragment or is_rest):
                row = row._replace(text=None, error=CONTINUES)
            is_after_damage = record.error == UNCLOSED
            is_after_fragment = is_fragment or 0 < len(record.fields) < layout.shape.width
            if row.error is None and len(record.fields) == layout.text_index + 1 > 1 and not record.ends_with_quote:
                held = row
            else:
                yield row
        if held is not None:
            is_cut_off = layout.text_index + 1 < layout.shape.width and not reader.has_line_end
            yield held._replace(text=None, error=ENDS_EARLY) if is_cut_off else held


def _make_row(line: int, record: Record, layout: Layout, *, may_be_header: bool) -> Row:
    fields, error = (record.fields, record.error) if record.error else _fit(record.fields, layout)
    if error is None and (is_repeated_header(fields, layout) or (may_be_header and is_header(fields, layout))):
        error = MORE_HEADER
    if error:
        return Row(line, None, None, error)
    id_index = layout.id_index
    custom_id = fields[id_index] if id_index is not None and id_index < len(fields) else None
    row = make_row(line, custom_id or None, fields[layout.text_index])
    if layout.other_indexes:
        values = (None if i is None or i >= len(fields) else fields[i] for i in layout.other_indexes)
        row = row._replace(values=tuple(values))
    if layout.kept_names:
        kept = {name: fields[i] if i < len(fields) else None for i, name in layout.kept_names.items()}
        row = row._replace(columns=kept)
    return row


def _is_fragment(record: Record, layout: Layout) -> bool:
    """Whether a line seems to continue the text of the line before it, which ends with its text."""
    if record.error or is_repeated_header(record.fields, layout):
        return False
    if len(record.fields) < layout.shape.width:
        return not begins_record(record.fields, layout.types)
    return bool(layout.types_before_text) and may_continue_text(record.fields, layout)


def _is_sentence(parts: list[str], delimiter: str) -> bool:
    """Whether the delimiters between the parts belong to a text, because a space follows each of them."""
    return delimiter in ",;" and bool(parts[0]) and all(part[:1] == " " and not part.isspace() for part in parts[1:])


def _refuse_json(lines: list[str | None]) -> None:
    first = next((line.strip() for line in lines if line and not line.isspace()), "")
    if first.startswith(("{", "[")) and first.endswith(("}", "]", "[", ",")):
        with contextlib.suppress(ValueError, RecursionError):
            json.loads(first.rstrip(",") + "]" * (first[-1] in "[,"))
            raise FileError("The file looks like JSON. Write each object on its own line, and send it as NDJSON.")


def _fit(fields: list[str], layout: Layout) -> tuple[list[str], str | None]:
    """Fields that begin like the header, and the reason why they cannot be matched with it if there is one.

    A missing or an extra delimiter shifts the fields after it. So they are used only if the types of all columns before
    the text show that nothing before the text was shifted.
    """
    width, text_index = layout.shape.width, layout.text_index
    if len(fields) == width:
        is_short = layout.extra and has_unknown_end(fields, layout)
        return fields, SHIFTED if is_short or is_shifted(fields, layout) else None
    rest = fields[width:]
    is_aligned = layout.has_typed_start and is_typed(fields, layout)
    if len(fields) < width:
        has_text_last = text_index > 0 and len(fields) == text_index + 1 and (layout.id_index or 0) <= text_index
        lacks_value = any(index > text_index for index in layout.filled)
        if has_text_last and is_aligned and not lacks_value and not may_be_joined(fields[text_index], layout):
            return fields, None
    elif not any(rest):
        if len(rest) == layout.extra or (is_aligned and 0 < text_index == width - 1):
            return fields, None
    elif text_index == width - 1 and is_aligned and _is_sentence(fields[text_index:], layout.dialect.delimiter):
        return [*fields[:text_index], layout.dialect.delimiter.join(fields[text_index:])], None
    have = f"{len(fields):,} field{'s' if len(fields) > 1 else ''}"
    detail = f"The line has {have}, but the header has {width:,}. Write texts that contain a delimiter in quotes."
    return fields, detail if layout.header_line else detail.replace("the header has", "most lines have")
