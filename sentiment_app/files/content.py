"""Recognise files that are not what their sender says, to name what they are."""

from collections.abc import Iterator

from sentiment_app.files.errors import FileError

HEAD_BYTES = 512
# What a file is that begins with these bytes, and how to send it.
SIGNATURES = {
    b"PK\x03\x04": "a ZIP archive. Send an Excel workbook as .xlsx, and other files without the archive",
    b"\x1f\x8b": "compressed with gzip. Send it with `Content-Encoding: gzip`",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard. Send it with `Content-Encoding: zstd`",
    b"\xfd7zXZ\x00": "compressed with xz. Decompress it first",
    b"BZh": "compressed with bzip2. Decompress it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive. Send the file in it",
    b"PAR1": "a Parquet file. Send it as .parquet or with the Content-Type application/vnd.apache.parquet",
    b"%PDF-": "a PDF document. Send the texts as CSV or NDJSON",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Office document (such as .xls). Export it as CSV",
    b"{\\rtf": "an RTF document. Send the texts as CSV or NDJSON",
    b"SQLite format 3\x00": "an SQLite database. Export the table as CSV",
}
HTML = b"<!doctype html", b"<html", b"<?xml"


def refuse_binary(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces of a text file.

    Raises:
        FileError: the file is not a text file. The message names what it is.
    """
    head = b""
    while len(head) < HEAD_BYTES and (piece := next(pieces, b"")):
        head += piece
    found = _recognize(head)
    if found:
        raise FileError(f"The file is {found}.")
    if head:
        yield head
    yield from pieces


def _recognize(head: bytes) -> str | None:
    for signature, description in SIGNATURES.items():
        if head.startswith(signature):
            return description
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:20].lower().startswith(HTML):
        return "an HTML or XML document. Send the texts as CSV or NDJSON"
    if start.startswith(b"--") and b"content-disposition:" in start.lower():
        return "the body of a form. Send it with the Content-Type `multipart/form-data` and its boundary"
    return None
