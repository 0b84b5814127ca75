"""Reads uploaded texts as a stream: NDJSON or CSV, plain or gzip, a bounded part of it in memory at any time.

A row that cannot be used comes with its reason and its line, and the rows after it come all the same.
"""

import codecs
import contextlib
import csv
import encodings.aliases
import gzip
import itertools
import json
import math
import pkgutil
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import orjson
from charset_normalizer import from_bytes

from sentiment_app.errors import AppError, InvalidError, MalformedError
from sentiment_app.ml.text import MAX_CHARACTERS, TextError, normalize

NDJSON, CSV = "application/x-ndjson", "text/csv"
MAX_KEY = 200
# Of one line: a text of 20 000 characters, each escaped as a surrogate pair, and a key.
MAX_LINE = 256 * 1024
SAMPLE = 64 * 1024
DELIMITERS = ",;\t|"
ENCODINGS = re.compile(
    r"ascii|utf-8(-sig)?|utf-16(-[lb]e)?|cp\d{3,4}|iso8859-\d+|koi8-[ru]|mac-.+|gbk|gb18030|gb2312|big5|big5hkscs"
    r"|shift_jis|euc_jp|euc_kr|johab|tis-620|hp-roman8"
)
NAMES = {*encodings.aliases.aliases, *(module.name for module in pkgutil.iter_modules(encodings.__path__))}
# What files come in, the likeliest first: among all that there are, the guess often falls on one that nobody uses.
GUESSES = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp874", "koi8_r", "utf_16"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949"),
]
MOST_CHAOS = 0.4  # its own 0.2 is not enough for short texts with many accents
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
OVERLONG = "x" * (csv.field_size_limit() + 1)
TOO_LONG = f"The line has more than {MAX_LINE} characters."


class TooLargeError(AppError):
    """More than this service takes at once."""

    status, kind = 413, "too-large"


class Item(NamedTuple):
    """A row of an upload: a text, or the reason why there is none."""

    line: int
    custom_id: str | None
    text: str | None
    error: str | None = None


class Format(NamedTuple):
    """How an upload is to be read; what is None is found out."""

    kind: str
    column: str | None = None
    id_column: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    is_gzip: bool = False


class Limits(NamedTuple):
    """The largest upload: rows, and bytes after decompression."""

    rows: int
    size: int


def read(stream: IO[bytes], form: Format, limits: Limits) -> Iterator[Item]:
    """The rows of an upload, in their order.

    Raises:
        InvalidError: a parameter does not fit the file, such as a column that it has not.
        MalformedError: what was sent as gzip is none.
        TooLargeError: it has more rows or bytes than the limits.
    """
    characters = _characters(stream, form, limits.size)
    items = _ndjson(_lines(characters)) if form.kind == NDJSON else _csv(_lines(characters), form)
    for number, item in enumerate(items, 1):
        if number > limits.rows:
            raise TooLargeError(f"An upload may have at most {limits.rows:,} rows, blank lines among them.")
        if item:
            yield item


def checked(line: int, custom_id: Any, text: Any) -> Item:
    """A row, or what is wrong with it."""
    key = None if custom_id is None else str(custom_id)
    if key is not None and (len(key) > MAX_KEY or not _is_storable(key)):
        return Item(line, None, None, f"The custom_id must have at most {MAX_KEY} characters, without NUL.")
    if not isinstance(text, str):
        return Item(line, key, None, "There is no text.")
    try:
        normal = normalize(text)
    except TextError as error:
        return Item(line, key, None, f"The text {error}.")
    if not 1 <= len(normal) <= MAX_CHARACTERS:
        return Item(line, key, None, f"The text must have 1 to {MAX_CHARACTERS} characters, not {len(normal)}.")
    if not _is_storable(normal):
        return Item(line, key, None, "The text holds NUL, or what is not valid in the upload's encoding.")
    return Item(line, key, normal)


def _is_storable(text: str) -> bool:
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _characters(stream: IO[bytes], form: Format, most: int) -> Iterator[str]:
    pieces = _pieces(stream, form.is_gzip, most)
    sample = next(pieces, b"")
    encoding = form.encoding or _encoding(sample)
    decoder = codecs.getincrementaldecoder(_known(encoding))(errors="surrogateescape")
    try:
        for piece in itertools.chain([sample], pieces):
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)
    except UnicodeError:
        raise MalformedError(f"The body is not {encoding}; name its encoding with ?encoding=") from None


def _known(encoding: str) -> str:
    """The codec's name. Not every codec of Python's is an encoding of text, and some take quadratic time."""
    # Python remembers for ever every name that it was asked for.
    normal = encodings.normalize_encoding(encoding.lower()).replace(".", "_")
    try:
        name = codecs.lookup(normal).name if normal in NAMES else ""
    except LookupError:  # of another system
        name = ""
    if not ENCODINGS.fullmatch(name):
        raise _invalid("encoding", "There is no such encoding here.")
    return "utf-8-sig" if name == "utf-8" else name  # with a mark at its beginning, or without


def _pieces(stream: IO[bytes], is_gzip: bool, most: int) -> Iterator[bytes]:
    source = gzip.GzipFile(fileobj=stream) if is_gzip else stream
    size = 0
    try:
        while piece := source.read(SAMPLE):
            size += len(piece)
            if size > most:
                raise TooLargeError(f"An upload may have at most {most:,} bytes, after decompression.")
            yield piece
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise MalformedError("The body is not gzip, as Content-Encoding says.") from None


def _encoding(sample: bytes) -> str:
    for mark, name in MARKS.items():
        if sample.startswith(mark):
            return name
    # A character may be cut at the sample's end; and a broken byte makes no other encoding of it.
    decoded = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape").decode(sample)
    broken = sum("\udc80" <= one <= "\udcff" for one in decoded)
    if broken <= sum(one > "\x7f" for one in decoded) // 2:
        return "utf-8"
    found = from_bytes(sample, cp_isolation=GUESSES, threshold=MOST_CHAOS)
    ranked = sorted((round(one.chaos, 2), GUESSES.index(one.encoding)) for one in found)
    return GUESSES[ranked[0][1]] if ranked else "utf-8"


def _lines(characters: Iterator[str]) -> Iterator[str | None]:
    """Lines with their ends; None in place of one that is too long, of which no more than that is kept."""
    rest, skipping = "", False
    for piece in characters:
        # Not splitlines: to it a form feed or U+2028, which texts may hold, ends a line too.
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            if not skipping:
                yield line + "\n" if len(line) <= MAX_LINE else None
            skipping = False
        if len(rest) > MAX_LINE:
            if not skipping:
                yield None
            rest, skipping = "", True
    if rest and not skipping:
        yield rest


def _ndjson(lines: Iterator[str | None]) -> Iterator[Item | None]:
    """Its rows, and None for each line that is blank."""
    for number, line in enumerate(lines, 1):
        if line is None:
            yield Item(number, None, None, TOO_LONG)
        else:
            yield None if line.isspace() else _object(number, line)


def _object(number: int, line: str) -> Item:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:  # it is stricter, and stops at a surrogate that stands alone, which is to be told
            record = json.loads(line)
        except (ValueError, RecursionError):
            return Item(number, None, None, "The line is not JSON.")
    if isinstance(record, str):
        return checked(number, None, record)
    if not isinstance(record, dict):
        return Item(number, None, None, 'The line is no object such as {"text": "…"}.')
    custom_id = record.get("custom_id")
    if isinstance(custom_id, float):  # as which it takes a whole number of more than 64 bits, too
        with contextlib.suppress(ValueError):  # thousands of digits
            custom_id = json.loads(line)["custom_id"]
    if isinstance(custom_id, bool | list | dict) or (isinstance(custom_id, float) and not math.isfinite(custom_id)):
        return Item(number, None, None, "The custom_id must be a string or a number.")
    return checked(number, custom_id, record.get("text"))


class _Counted:
    """The lines that a CSV reader asks for, and how many. It refuses a line, or a record of many, that is too long."""

    def __init__(self, lines: Iterator[str | None]) -> None:
        self._lines = lines
        self._number = 0
        self._size = 0

    def next_record(self) -> int:
        """The line where the next record begins."""
        self._size = 0
        return self._number + 1

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self._number += 1
            self._size += len(line or "")
            yield OVERLONG if line is None or self._size > MAX_LINE else line


def _csv(lines: Iterator[str | None], form: Format) -> Iterator[Item | None]:
    """Its rows, and None for each line that is blank."""
    head = next(lines, None) or ""
    delimiter = form.delimiter or _delimiter(head)
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise _invalid("delimiter", "Must be one character, and no quote or line break.")
    counted = _Counted(itertools.chain([head], lines))
    reader = csv.reader(iter(counted), delimiter=delimiter)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise MalformedError(f"The header of the file is not CSV: {error}.") from None
    if header is None:
        return
    text_at, id_at = _columns([name.strip() for name in header], form)
    while True:
        line = counted.next_record()
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Item(line, None, None, f"The line is not CSV: {error}.")
            continue
        if len(record) > len(header):
            yield Item(line, None, None, f"The line has {len(record)} fields, the header {len(header)}.")
        elif record:
            custom_id = record[id_at] if id_at is not None and id_at < len(record) else None
            yield checked(line, custom_id or None, record[text_at] if text_at < len(record) else None)
        else:
            yield None


def _delimiter(header: str) -> str:
    # Not csv.Sniffer, whose regular expressions take quadratic time.
    outside_quotes = "".join(header.split('"')[::2])
    return max(DELIMITERS, key=outside_quotes.count)


def _columns(header: list[str], form: Format) -> tuple[int, int | None]:
    known = ", ".join(header[:20])
    wanted = form.column or ("text" if "text" in header else header[0] if len(header) == 1 else None)
    if wanted is None or wanted not in header:
        raise _invalid("column", f"Name the column of the texts; the file has: {known}.")
    if form.id_column and form.id_column not in header:
        raise _invalid("id_column", f"The file has no such column; it has: {known}.")
    id_column = form.id_column or ("custom_id" if "custom_id" in header else None)
    return header.index(wanted), header.index(id_column) if id_column else None


def _invalid(name: str, detail: str) -> InvalidError:
    return InvalidError(errors=[{"in": "query", "pointer": f"/{name}", "detail": detail}])
