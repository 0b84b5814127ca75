"""Reads the rows of a file as a stream. A row that cannot be used has an error, and the rows after it follow."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import PurePath
from typing import IO, Any, NamedTuple

from sentiment_app.files.binary import BinaryFile
from sentiment_app.files.columns import Columns
from sentiment_app.files.csv_rows import CsvFile
from sentiment_app.files.encodings import Decoder
from sentiment_app.files.errors import FileTooLargeError
from sentiment_app.files.json_array import read_json_array
from sentiment_app.files.lines import read_lines, read_pieces, read_texts
from sentiment_app.files.ndjson import Keys, read_ndjson
from sentiment_app.files.rows import Row, make_storable

NDJSON, CSV, JSON = "application/x-ndjson", "text/csv", "application/json"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
PARQUET = "application/vnd.apache.parquet"
# NDJSON has no registered media type. The first type is documented, and the other types are also accepted.
NDJSON_TYPES = (NDJSON, "application/ndjson", "application/jsonl")
CSV_TYPES = (CSV, "text/tab-separated-values")
PARQUET_TYPES = (PARQUET, "application/x-parquet")
# The modules that read files which are not text.
BINARY = {XLSX: "workbook", PARQUET: "parquet"}
SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt"), CSV),
    **dict.fromkeys((".ndjson", ".jsonl"), NDJSON),
    ".json": JSON,
    **dict.fromkeys((".xlsx", ".xlsm"), XLSX),
    ".parquet": PARQUET,
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
MAX_NAMED_COLUMNS, MAX_NAME_CHARACTERS = 100, 200


def recognize(filename: str) -> tuple[str, str | None] | None:
    """The media type and the compression of a file; None if the name does not say them."""
    path = PurePath(filename.lower())
    compression = COMPRESSIONS.get(path.suffix)
    media_type = SUFFIXES.get(path.with_suffix("").suffix if compression else path.suffix)
    return (media_type, compression) if media_type else None


class Format(NamedTuple):
    """How to read a file. Options that are None are detected.

    `others` are further columns, for Row.values. `keeps_columns` keeps all other columns, in Row.columns. `sheet` is
    the name of a sheet of a workbook.
    """

    media_type: str
    column: str | None = None
    id_column: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    others: tuple[str, ...] = ()
    has_header: bool = True
    compression: str | None = None
    sheet: str | None = None
    keeps_columns: bool = False


class Limits(NamedTuple):
    """The limits on a file: rows, and bytes after decompression.

    `acquire` admits the process that reads a workbook or a Parquet file, when the file has arrived.
    """

    rows: int
    bytes: int
    acquire: Callable[[], AbstractContextManager[None]] = nullcontext


class File:
    """A file that is read as a stream. Close it after use.

    Raises:
        FileError: the file cannot be read, or an option does not fit it.
        FileTooLargeError: it has more bytes than the limit.
    """

    def __init__(self, stream: IO[bytes], format_: Format, limits: Limits) -> None:
        self._format = format_
        self._limits = limits
        self._decoder = Decoder(format_.encoding)
        pieces = read_pieces(stream, format_.compression, limits.bytes)
        self._csv: CsvFile | None = None
        self._binary: BinaryFile | None = None
        self._rows: Iterator[Row | None]
        columns = Columns(format_.column, format_.id_column, format_.others, format_.has_header, format_.keeps_columns)
        if format_.media_type in BINARY:
            self._binary = BinaryFile(
                pieces,
                BINARY[format_.media_type],
                columns,
                format_.sheet,
                max_text_bytes=limits.bytes,
                acquire=limits.acquire,
            )
            self._rows = iter(self._binary)
            return
        if format_.media_type == CSV:
            self._csv = CsvFile(read_lines(pieces, self._decoder), columns, format_.delimiter)
            self._rows = iter(self._csv)
            return
        keys = Keys(
            format_.column or Keys().text, format_.id_column or Keys().id, format_.others, format_.keeps_columns
        )
        if format_.media_type == JSON:
            self._rows = read_json_array(read_texts(pieces, self._decoder), keys)
        else:
            self._rows = read_ndjson(read_lines(pieces, self._decoder), keys)

    def __iter__(self) -> Iterator[Row]:
        """The rows, in order.

        Raises:
            FileError: the rest of the file cannot be read.
            FileTooLargeError: the file has more rows or bytes than the limits.
        """
        for number, row in enumerate(self._rows, 1):
            if number > self._limits.rows:
                raise FileTooLargeError(
                    f"The file has too many rows. The limit is {self._limits.rows:,} rows, including blank lines. "
                    "Split it."
                )
            if row:
                yield row

    def describe(self) -> dict[str, Any]:
        """The format that the file was read in. The encoding may change until all rows were read."""
        described: dict[str, Any] = {"media_type": self._format.media_type}
        if self._binary:
            return described | {name: _shorten(value) for name, value in self._binary.description.items()}
        described["encoding"] = self._decoder.encoding
        if self._csv:
            layout = self._csv.layout
            described |= {
                "delimiter": layout.dialect.delimiter or None,
                "quote": layout.dialect.quote,
                "escape": layout.dialect.escape or None,
                "header_line": layout.header_line,
                "columns": _shorten(layout.names),
                "column": _shorten(layout.names[layout.text_index]) if layout.names else None,
                "id_column": None if layout.id_index is None else _shorten(layout.names[layout.id_index]),
            }
        return described

    def close(self) -> None:
        """Stop reading."""
        if self._binary:
            self._binary.close()


def _shorten(value: Any) -> Any:
    """The beginning of a name or of a list of names, without what PostgreSQL cannot store."""
    if isinstance(value, list):
        return [_shorten(name) for name in value[:MAX_NAMED_COLUMNS]]
    return make_storable(value[:MAX_NAME_CHARACTERS]) if isinstance(value, str) else value
