"""Read the lines of a file as a stream: decompress, decode and split it in bounded memory."""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, cast

from backports import zstd

from sentiment_app.files import content
from sentiment_app.files.encodings import MARK, Decoder
from sentiment_app.files.errors import FileError, FileTooLargeError

PIECE_BYTES = 64 * 1024
# Room for a text of 20,000 characters, even if each is escaped as a surrogate pair, and for a custom_id.
MAX_LINE_CHARACTERS = 256 * 1024
LINE_TOO_LONG = f"The line has more than {MAX_LINE_CHARACTERS:,} characters."
OPENERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "gzip": lambda stream: cast(IO[bytes], gzip.GzipFile(fileobj=stream)),
    "zstd": lambda stream: cast(IO[bytes], zstd.ZstdFile(stream)),
}
# Not str.splitlines: it would also split at form feeds and U+2028, which texts may contain. Some programs write \r\r\n.
LINE = re.compile(r"[^\r\n]*(?:\r?\r?\n|\r)")


INNER_MARK = re.compile(f"([\r\n]){MARK}+")


def read_pieces(stream: IO[bytes], compression: str | None, max_bytes: int) -> Iterator[bytes]:
    """The bytes of a file after decompression.

    Args:
        stream: the file.
        compression: "gzip" or "zstd"; None if the file is not compressed.
        max_bytes: the limit on the bytes after decompression.

    Raises:
        FileError: the compressed file is not valid, or it is incomplete.
        FileTooLargeError: it has more bytes than the limit.
    """
    source = OPENERS[compression](stream) if compression else stream
    size = 0
    try:
        while piece := source.read(PIECE_BYTES):
            size += len(piece)
            if size > max_bytes:
                raise FileTooLargeError(
                    f"The file is too large. The limit is {max_bytes:,} bytes after decompression. Split it."
                )
            yield piece
    except (gzip.BadGzipFile, EOFError, zlib.error, zstd.ZstdError):
        raise FileError(f"The file is not valid {compression}, or it is incomplete.") from None


def read_lines(pieces: Iterator[bytes], decoder: Decoder) -> Iterator[str | None]:
    """The lines with their line ends; None in place of a line that is too long.

    A line ends with LF, CR LF, CR CR LF or CR.

    Raises:
        FileError: the file is not a text file, or not in its encoding.
    """
    return _split(read_texts(pieces, decoder))


def read_texts(pieces: Iterator[bytes], decoder: Decoder) -> Iterator[str]:
    """The text of the file, in pieces.

    Raises:
        FileError: the file is not a text file, or not in its encoding.
    """
    return decoder.decode(content.refuse_binary(pieces))


def _split(texts: Iterator[str]) -> Iterator[str | None]:
    rest, is_skipping = "", False
    for text in texts:
        joined = rest + text
        if MARK in joined:  # files that were joined have a byte order mark at the beginning of each part
            joined = INNER_MARK.sub(r"\1", joined)
        lines, rest = _lines(joined)
        for line in lines:
            if not is_skipping:
                yield line if len(line) <= MAX_LINE_CHARACTERS else None
            is_skipping = False
        if len(rest) > MAX_LINE_CHARACTERS:
            if not is_skipping:
                yield None
            rest, is_skipping = rest[-1:] if rest.endswith("\r") else "", True
    if rest and not is_skipping:
        yield rest


def _lines(text: str) -> tuple[list[str], str]:
    """The complete lines of a text, and the rest."""
    if text.count("\r") == text.count("\r\n"):  # without this shortcut, splitting takes twice as long
        lines = text.split("\n")
        rest = lines.pop()
        return [line + "\n" for line in lines], rest
    # The line end of a "\r" at the end of the text may continue. Without the rest after the last line end, each search
    # finds a line, so that this takes linear time.
    complete = text.rstrip("\r")
    lines = LINE.findall(complete, 0, max(complete.rfind("\n"), complete.rfind("\r")) + 1)
    return lines, text[sum(map(len, lines)) :]
