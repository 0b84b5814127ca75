"""Decode files: find the codec for the name of a character encoding, or detect the encoding."""

import codecs
import encodings.aliases
import itertools
import pkgutil
import re
from collections.abc import Iterator

from sentiment_app.files.detection import detect
from sentiment_app.files.errors import FileError

# Not every codec of Python is an encoding of text, and some take quadratic time.
ALLOWED = re.compile(
    r"ascii|utf-8(-sig)?|utf-16(-[lb]e)?|utf-32|cp\d{3,4}|iso8859-\d+|koi8-[ru]|mac-.+|gbk|gb18030|gb2312|big5"
    r"|big5hkscs|shift_jis|euc_jp|euc_kr|johab|tis-620|hp-roman8"
)
NAMES = {*encodings.aliases.aliases, *(module.name for module in pkgutil.iter_modules(encodings.__path__))}
# Files that are labelled with an old encoding are in practice in its superset (https://encoding.spec.whatwg.org/#names).
SUPERSETS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
}
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # begins with the mark of UTF-16 LE
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
MARK = "\ufeff"
# With pieces of 64 KB, at least 32 KB after the first byte that is not ASCII.
SAMPLE_BYTES = 96 * 1024
# cp9… are the encodings of East Asia, apart from the Thai cp874.
SINGLE_BYTE = ("cp12", "cp4", "cp7", "cp8", "iso8859", "koi8", "mac-")


class Decoder:
    """Decodes a file as a stream.

    Args:
        declared: the name of the encoding. It is detected if it is None. A byte order mark has precedence.

    Raises:
        FileError: the encoding is not known.
    """

    def __init__(self, declared: str | None) -> None:
        self._declared = find_codec(declared) if declared else None
        self.encoding = self._declared or "utf-8"
        """The encoding that is used. ASCII counts as UTF-8 until the first other byte was read."""

    def decode(self, pieces: Iterator[bytes]) -> Iterator[str]:
        """The text of the file without byte order marks. Invalid bytes become lone surrogates.

        Raises:
            FileError: the file is not in a UTF-16 or UTF-32 encoding.
        """
        texts = self._decode(pieces)
        for text in texts:
            if text.lstrip(MARK):  # some programs write the mark twice
                yield text.lstrip(MARK)
                break
        yield from texts

    def _decode(self, pieces: Iterator[bytes]) -> Iterator[str]:
        first = next(pieces, b"")
        known = _find_mark(first) or self._declared or _find_utf_16(first)
        pieces = itertools.chain([first], pieces)
        if known is None:
            sample = b""
            for piece in pieces:
                if sample or not piece.isascii():
                    sample += piece
                    if len(sample) >= SAMPLE_BYTES:
                        break
                else:
                    yield piece.decode("ascii")
            known = detect(sample)
            pieces = itertools.chain([sample], pieces)
        self.encoding = known
        is_single_byte = self._declared is None and known.startswith(SINGLE_BYTE)
        decode = _decode_lines if is_single_byte else _decode_pieces
        yield from decode(pieces, known)


def _decode_lines(pieces: Iterator[bytes], encoding: str) -> Iterator[str]:
    """Decode a file whose detected encoding has one byte for each character.

    A line that is valid UTF-8 belongs to another file that was joined with this file. Its bytes become lone surrogates,
    so that it is reported.
    """
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield "".join(_decode_line(line, encoding) + "\n" for line in lines)
        if len(rest) > SAMPLE_BYTES:  # lines that end with CR, or a line that is refused
            yield rest.decode(encoding, errors="surrogateescape")
            rest = b""
    yield _decode_line(rest, encoding)


def _decode_line(line: bytes, encoding: str) -> str:
    if line.isascii():
        return line.decode("ascii")
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode(encoding, errors="surrogateescape")
    return line.decode("ascii", errors="surrogateescape")


def _decode_pieces(pieces: Iterator[bytes], encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="surrogateescape")
    try:
        for piece in pieces:
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)
    except UnicodeError:
        raise FileError(f"The file is not valid {encoding}. Name its encoding.", "encoding") from None


def find_codec(encoding: str) -> str:
    """The codec for the name of an encoding.

    Raises:
        FileError: there is no such encoding.
    """
    # Look up only known names, because Python caches every name forever.
    normal = encodings.normalize_encoding(encoding.strip().lower()).replace(".", "_")
    try:
        name = codecs.lookup(normal).name if normal in NAMES else ""
    except LookupError:  # a codec of another operating system
        name = ""
    if not ALLOWED.fullmatch(name):
        raise FileError(f"The encoding {encoding[:40]!r} is not known. Use for example utf-8 or cp1252.", "encoding")
    return "utf-8" if name == "utf-8-sig" else SUPERSETS.get(name, name)


def _find_mark(head: bytes) -> str | None:
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)


def _find_utf_16(head: bytes) -> str | None:
    """UTF-16 without a mark. It has line breaks in which only the same byte of each pair is zero."""
    zeros = {"utf-16-le": head[1::2].count(0), "utf-16-be": head[::2].count(0)}
    for name, other in (("utf-16-le", "utf-16-be"), ("utf-16-be", "utf-16-le")):
        is_frequent = zeros[name] >= max(4, len(head) // 50, 4 * zeros[other])
        if is_frequent and "\n" in head.decode(name, errors="ignore").replace("\r", "\n"):
            return name
    return None
