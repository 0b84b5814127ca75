"""Read the lines of a file as a stream: decompress, decode and split it in bounded memory."""

import codecs
import gzip
import itertools
import zlib
from collections.abc import Iterator
from typing import IO

from sentiment_app.files import encodings
from sentiment_app.files.errors import FileError, FileTooLargeError

PIECE_BYTES = 64 * 1024
# Room for a text of 20,000 characters, even if each is escaped as a surrogate pair, and for a custom_id.
MAX_LINE_CHARACTERS = 256 * 1024
LINE_TOO_LONG = f"The line has more than {MAX_LINE_CHARACTERS:,} characters."


def read_lines(stream: IO[bytes], *, encoding: str | None, is_gzip: bool, max_bytes: int) -> Iterator[str | None]:
    """The lines with their line ends; None in place of a line that is too long.

    If `encoding` is None, the encoding is detected from the first PIECE_BYTES bytes.

    Raises:
        FileError: the file is not gzip, or not in the encoding; or the encoding is not known.
        FileTooLargeError: it has more than `max_bytes` bytes after decompression.
    """
    return _split(_decode(_read(stream, is_gzip, max_bytes), encoding))


def _read(stream: IO[bytes], is_gzip: bool, max_bytes: int) -> Iterator[bytes]:
    source = gzip.GzipFile(fileobj=stream) if is_gzip else stream
    size = 0
    try:
        while piece := source.read(PIECE_BYTES):
            size += len(piece)
            if size > max_bytes:
                raise FileTooLargeError(
                    f"The file is too large. The limit is {max_bytes:,} bytes after decompression. Split it."
                )
            yield piece
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise FileError("The file is not valid gzip, or it is incomplete.") from None


def _decode(pieces: Iterator[bytes], encoding: str | None) -> Iterator[str]:
    sample = next(pieces, b"")
    encoding = encoding or encodings.detect(sample)
    decoder = codecs.getincrementaldecoder(encodings.find_codec(encoding))(errors="surrogateescape")
    try:
        for piece in itertools.chain([sample], pieces):
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)
    except UnicodeError:
        raise FileError(f"The file is not valid {encoding}. Name its encoding with the option `encoding`.") from None


def _split(texts: Iterator[str]) -> Iterator[str | None]:
    rest, is_skipping = "", False
    for text in texts:
        # Not splitlines: it would also split at form feeds and U+2028, which texts may contain.
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            if not is_skipping:
                yield line + "\n" if len(line) <= MAX_LINE_CHARACTERS else None
            is_skipping = False
        if len(rest) > MAX_LINE_CHARACTERS:
            if not is_skipping:
                yield None
            rest, is_skipping = "", True
    if rest and not is_skipping:
        yield rest
