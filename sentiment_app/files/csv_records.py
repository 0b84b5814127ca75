"""Split lines of CSV into records, strictly: a damaged record never affects the records after it.

RFC 4180 says that a quoted field may contain line breaks. So a single quote that is not closed can swallow the rest of
a file, and `csv.reader` reports nothing. Here a quoted field that continues on the next line is accepted only if

- its closing quote is followed by a delimiter or the line end,
- the record has the expected number of fields, and
- the lines that it swallowed do not look like records of their own.

Otherwise the record is damaged. Its lines after the first are read again as records. This takes linear time: the lines
between the opening quote and the first quote after it contain no quotes, so that no line is swallowed twice.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sentiment_app.files.lines import LINE_TOO_LONG, MAX_LINE_CHARACTERS

UNCLOSED = "A quote in the line is not closed, or text follows a closing quote. Write quotes inside a text twice."
LONE_CR = "The line contains a CR (carriage return), which may end a row or belong to a text. Write texts in quotes."
NOT_ENCLOSED = (
    "The line does not begin with a quote, as all rows of this file do. It may continue the text of the row before it."
)
# A quote between letters, as where a delimiter is missing.
GLUED_QUOTE = re.compile(r'[^\s"(\[{<=/,;|:~^-]"[^\W_]')
NULL = r"\N"  # in files of MySQL and PostgreSQL, which use backslashes


class Dialect(NamedTuple):
    """How records are written. An empty delimiter means that the file has one column."""

    delimiter: str = ","
    quote: str = '"'
    escape: str = ""
    skip_spaces: bool = False
    """Whether a space follows each delimiter."""


class Record(NamedTuple):
    """A record: the number of its first line, its fields, and the reason why it cannot be read if it is damaged."""

    line: int
    fields: list[str]
    error: str | None = None
    ends_with_quote: bool = False
    """Whether a quote ends its last field, so that it certainly does not continue on the next line."""


class Shape(NamedTuple):
    """What is known about the records of a file."""

    width: int
    """Number of fields."""
    are_records: Callable[[list[str], list[list[str]]], bool]
    """Whether the lines after a record look like records of their own, although a quote in the record is not closed."""
    has_cr_in_texts: bool = False
    """Whether lines usually end with LF, so that a CR alone may belong to a text."""
    has_literal_quotes: bool = False
    """Whether quotes do not enclose fields, so that a line that is not valid may be split at its delimiters."""
    has_enclosed_fields: bool = False
    """Whether some fields of the file are enclosed in double quotes."""
    encloses_all: bool = False
    """Whether all fields of the file are enclosed, so that each record begins with a quote."""


ANY_SHAPE = Shape(0, lambda *_: False)


class _Open(NamedTuple):
    """A quoted field that does not end in its line, after the fields that do."""

    fields: list[str]
    parts: list[str]


class _Splitter:
    """Splits lines into fields."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        delimiter, quote, escape = map(re.escape, dialect[:3])
        end = f"(?P<end>{delimiter}|\\Z)" if delimiter else r"(?P<end>\Z)"
        spaces = "[\t]*+" if dialect.delimiter == " " else "[ ]*+" if dialect.delimiter == "\t" else "[ \t]*+"
        escaped = f"|{escape}(?:.|\\Z)" if escape else ""
        other = f"[^{delimiter}{escape}]" if delimiter or escape else "."
        self._opening = re.compile(f"{spaces}{quote}")
        self._content = re.compile(f"(?:[^{quote}{escape}]++|{quote}{quote}{escaped})*+", re.DOTALL)
        self._after_quote = re.compile(f"{quote}{spaces}{end}")
        self._loose = re.compile(f"(?P<field>.*?){quote}{spaces}{end}", re.DOTALL)
        self._plain = re.compile(f"(?P<field>(?:{other}++{escaped})*+){end}", re.DOTALL)
        self._escapes = re.compile(f"{escape}([{escape}{quote}{delimiter}])") if escape else None
        self._doubled = dialect.quote * 2
        self._next_field = dialect.delimiter and dialect.delimiter + dialect.quote
        self._inner_quote = re.compile(f"[^{quote}{delimiter}]{quote}[^\\s{quote}{delimiter}]")
        inside = f"[^{quote}{delimiter}]*"
        self._split_quote = re.compile(
            f"(?:^|{delimiter}){spaces}[^\\s{quote}{delimiter}]{inside}{quote}[^\\s{quote}{delimiter}]"
            f"(?:[^{quote}]|{quote}{quote})*{delimiter}{inside}{quote}{end}"
        )

    def is_plain(self, line: str) -> bool:
        """Whether `split_plain` is the only way to split the line."""
        return self._dialect.quote not in line and not (self._dialect.escape and self._dialect.escape in line)

    def has_split_quote(self, line: str) -> bool:
        """Whether a quote is opened inside a field and closed at the end of another field."""
        has_inner_quote = self._inner_quote.search(line)  # false for most lines, and ten times faster
        return bool(self._dialect.delimiter and has_inner_quote) and self._split_quote.search(line) is not None

    def split_plain(self, line: str) -> list[str]:
        """The fields of a line in which quotes and escapes have no meaning."""
        fields = line.split(self._dialect.delimiter) if self._dialect.delimiter else [line]
        return [field.lstrip(" ") for field in fields] if self._dialect.skip_spaces else fields

    def split(self, line: str) -> list[str] | _Open | None:
        """The fields of a line; None if a quote is followed by text."""
        return self._split(line, 0, [])

    def resume(self, opened: _Open, line: str) -> list[str] | _Open | None:
        """Continue a quoted field with the next line. As `split`."""
        end = self._end_of_content(line, 0)
        opened.parts.append(line[:end])
        if end == len(line):
            return opened
        after = self._after_quote.match(line, end)
        if after is None:
            return None
        opened.fields.append(self._unquote("".join(opened.parts)))
        return self._split(line, after.end(), opened.fields) if after["end"] else opened.fields

    def split_loosely(self, line: str) -> list[str] | None:
        """The fields of a line in which quotes inside quoted fields are not doubled.

        None if a quote is not closed, if another field seems to begin inside a quoted field, or if a field ends with
        two quotes, which may be a quote in the text.
        """
        fields: list[str] = []
        position = 0
        while True:
            opening = self._opening.match(line, position)
            found = self._loose.match(line, opening.end()) if opening else self._plain.match(line, position)
            if found is None or (opening and self._is_ambiguous(found["field"])):
                return None
            fields.append(self._unquote(found["field"]) if opening else self._unescape(found["field"]))
            if not found["end"]:
                return fields
            position = found.end()

    def _is_ambiguous(self, content: str) -> bool:
        return content.endswith(self._dialect.quote) or bool(self._next_field and self._next_field in content)

    def _split(self, line: str, position: int, fields: list[str]) -> list[str] | _Open | None:
        while True:
            opening = self._opening.match(line, position)
            if opening:
                end = self._end_of_content(line, opening.end())
                content = line[opening.end() : end]
                if end == len(line):
                    return _Open(fields, [content])
                found = self._after_quote.match(line, end)
            else:
                content = ""
                found = self._plain.match(line, position)
            if found is None:
                return None
            fields.append(self._unquote(content) if opening else self._unescape(found["field"]))
            if not found["end"]:
                return fields
            position = found.end()

    def _end_of_content(self, line: str, position: int) -> int:
        content = self._content.match(line, position)
        return content.end() if content else position

    def _unquote(self, content: str) -> str:
        content = content.replace(self._doubled, self._dialect.quote)
        return self._escapes.sub(r"\1", content) if self._escapes else content

    def _unescape(self, field: str) -> str:
        if self._escapes and field == NULL:
            return ""
        field = field.lstrip(" ") if self._dialect.skip_spaces else field
        return self._escapes.sub(r"\1", field) if self._escapes else field


class RecordReader:
    """Reads the records of CSV. A blank line is a record without fields and without an error.

    Args:
        lines: with their line ends; None in place of a line that is too long.
        dialect: how the records are written.
        shape: what is known about the records. Without it, each record that is not strictly valid is damaged.
    """

    def __init__(self, lines: Iterator[str | None], dialect: Dialect, shape: Shape = ANY_SHAPE) -> None:
        self._lines = lines
        self._returned: deque[str | None] = deque()
        self._dialect = dialect
        self._shape = shape
        self._splitter = _Splitter(dialect)
        self._number = 0
        self._last_line: str | None = None
        self._swallowed_until = 0
        self._records_until = 0

    def __iter__(self) -> Iterator[Record]:
        while (line := self._next_line()) != "":
            number = self._number
            if line is None:
                yield Record(number, [], LINE_TOO_LONG)
                continue
            if self._shape.has_cr_in_texts and line[-1] == "\r" and number > self._records_until:
                line = self._join_at_cr(line)
                if not line:
                    yield Record(number, [], LONE_CR)
                    continue
            yield self._read_record(number, line)

    def _read_record(self, number: int, line: str) -> Record:
        content, splitter = line.rstrip("\r\n"), self._splitter
        if not content or content.isspace():
            return Record(number, [])
        if self._shape.encloses_all and content[0] != self._dialect.quote:
            return Record(number, [], NOT_ENCLOSED)
        if splitter.is_plain(content):
            return Record(number, splitter.split_plain(content))
        if self._shape.has_enclosed_fields and splitter.has_split_quote(content):
            return Record(number, [], UNCLOSED)
        fields = splitter.split(content)
        if isinstance(fields, _Open):
            fields = self._continue(fields, line) or self._split_literally(content)
        elif fields is None:
            fields = self._repair(content)
        return (
            Record(number, fields, ends_with_quote=self._ends_with_quote()) if fields else Record(number, [], UNCLOSED)
        )

    @property
    def has_line_end(self) -> bool:
        """Whether the last line that was read has a line end."""
        return (self._last_line or "\n")[-1] in "\r\n"

    def _ends_with_quote(self) -> bool:
        return (self._last_line or "").rstrip()[-1:] == self._dialect.quote

    def _join_at_cr(self, line: str) -> str:
        """The line up to the next LF, unless the lines that end with CR are records of their own.

        The text is empty if nobody can know, as in a file of one column.
        """
        parts: list[str | None] = [line]
        size = len(line)
        while (last := parts[-1]) and last[-1] == "\r" and size <= MAX_LINE_CHARACTERS:
            parts.append(self._next_line())
            size += len(parts[-1] or "")
        if parts[-1] == "":
            parts.pop()
        elif parts[-1] is None:
            self._put_back([parts.pop()])
        texts = [part or "" for part in parts]
        joined = "".join(texts)
        if self._shape.width == 1 and len(texts) > 1 and self._splitter.is_plain(joined):
            return ""
        is_record = [self._is_record(text) for text in texts]
        if self._shape.width > 1 and 2 * sum(is_record) <= len(texts) and self._is_record(joined):
            return joined
        self._records_until = self._number
        self._put_back(texts[1:])
        return line

    def _is_record(self, line: str) -> bool:
        fields = self._splitter.split(line.rstrip("\r\n"))
        return isinstance(fields, list) and len(fields) == self._shape.width

    def _next_line(self) -> str | None:
        """The next line; None if it is too long, and an empty text at the end."""
        line = self._returned.popleft() if self._returned else next(self._lines, "")
        if line != "":
            self._number += 1
            self._last_line = line
        return line

    def _continue(self, opened: _Open, line: str) -> list[str] | None:
        """The fields of a record that continues on the next lines; None if it only seems to continue."""
        if self._number < self._swallowed_until:
            return None  # it would swallow the same lines as before, up to the same place
        before = [*opened.fields, "".join(opened.parts)]
        swallowed: list[str | None] = []
        found: list[str] | _Open | None = opened
        size = len(line)
        while isinstance(found, _Open):
            found.parts.append(line[len(line.rstrip("\r\n")) :])
            following = self._next_line()
            if following != "":
                swallowed.append(following)
            size += len(following or "")
            if not following or size > MAX_LINE_CHARACTERS or len(found.fields) > self._shape.width > 0:
                found = None
            else:
                line = following
                found = self._splitter.resume(found, line.rstrip("\r\n"))
        has_width = found and (not self._shape.width or len(found) == self._shape.width)
        if has_width and not self._are_records(before, swallowed):
            return found
        self._swallowed_until = self._number
        self._put_back(swallowed)
        return None

    def _put_back(self, lines: Sequence[str | None]) -> None:
        self._returned.extendleft(reversed(lines))
        self._number -= len(lines)

    def _are_records(self, before: list[str], lines: list[str | None]) -> bool:
        if self._shape.encloses_all:
            lines = [line if (line or "")[:1] == self._dialect.quote else "" for line in lines]
        rows = [self._splitter.split_plain((line or "").rstrip("\r\n")) for line in lines]
        return self._shape.are_records(before, rows)

    def _repair(self, line: str) -> list[str] | None:
        """The fields of a line in which text follows a closing quote, if there is only one way to read it."""
        fields = None if self._dialect.escape else self._splitter.split_loosely(line)
        if fields and len(fields) == self._shape.width:
            return fields
        return self._split_literally(line)

    def _split_literally(self, line: str) -> list[str] | None:
        """The fields of a line, if quotes belong to texts in this file."""
        is_even = line.count(self._dialect.quote) % 2 == 0
        # Texts contain no tabs, and many programs then write quotes as they are.
        is_table = self._dialect.delimiter == "\t" and self._shape.has_literal_quotes
        if is_table or (not self._dialect.delimiter and is_even):
            fields = self._splitter.split_plain(line)
            if len(fields) == self._shape.width:
                return fields
        return None
