"""Reads and writes Parquet files. Runs in a process of its own (see `converter`)."""

import datetime as dt
import decimal
import math
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any

import orjson
import pyarrow as pa
from pyarrow import parquet

from sentiment_app.files.columns import Columns, Indexes, find_columns
from sentiment_app.files.converter import Table, limit_resources, serve
from sentiment_app.files.errors import FileError
from sentiment_app.files.rows import Row, make_row, shorten_number

BATCH_ROWS, BUFFER_BYTES = 500, 1024**2
WRITTEN_ROWS, WRITTEN_BYTES = 5_000, 8 * 1024**2
TYPES = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}


def read(stream: IO[bytes], columns: Columns, sheet: str | None) -> Table:
    """The table of a Parquet file. The line of a row is its number, from 1.

    Raises:
        FileError: the file is not a Parquet file, or a column is missing or ambiguous.
    """
    try:
        file = parquet.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError):
        raise _invalid() from None
    names = file.schema_arrow.names
    if not names:
        raise FileError("The Parquet file has no columns.")
    if len(set(names)) < len(names):
        raise FileError("The Parquet file has several columns with the same name.")
    found = find_columns(names, columns)
    _check_types(file.schema_arrow, found)
    description = {
        "columns": names,
        "column": names[found.text],
        "id_column": None if found.id is None else names[found.id],
    }
    return Table(description, _rows(file, names, found, columns))


def _check_types(schema: pa.Schema, found: Indexes) -> None:
    for index, option in ((found.text, "column"), (found.id, "id_column")):
        if index is not None and pa.types.is_nested(schema.field(index).type):
            field = schema.field(index)
            raise FileError(f"The column {field.name!r} has the type {field.type}, not text.", option)


def _rows(file: parquet.ParquetFile, names: list[str], found: Indexes, columns: Columns) -> Iterator[Row]:
    indexes = {found.text, found.id, *found.others, *found.kept}
    wanted = [names[index] for index in sorted(index for index in indexes if index is not None)]
    line = 0
    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False):
            values = {name: _values(batch.column(name)) for name in wanted}
            ids = [None] * batch.num_rows if found.id is None else map(_plain, values[names[found.id]])
            texts = map(_plain, values[names[found.text]])
            for index, (custom_id, text) in enumerate(zip(ids, texts, strict=True)):
                line += 1
                row = make_row(line, custom_id, None if text is None else str(text))
                if columns.others:
                    others = (None if other is None else values[names[other]][index] for other in found.others)
                    row = row._replace(values=tuple(others))
                if columns.keeps_others:
                    row = row._replace(columns={name: values[names[i]][index] for i, name in found.kept.items()})
                yield row
    except (pa.ArrowException, OSError):
        raise _invalid() from None


def _values(column: pa.Array) -> list[Any]:
    """The values of a column for JSON. Invalid bytes become lone surrogates."""
    type_ = column.type
    if pa.types.is_timestamp(type_) and type_.unit == "ns":  # Python's datetime has microseconds
        return [value and value.replace(" ", "T", 1) for value in column.cast(pa.string()).to_pylist()]
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        encoded = column.dictionary_decode() if pa.types.is_dictionary(type_) else column
        values = encoded.cast(pa.large_binary()).to_pylist()
    except (ValueError, OverflowError):  # such as a date in the year 100,000
        values = column.cast(pa.string()).to_pylist()
    return values if pa.types.is_integer(type_) else list(map(_value, values))


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | dt.timedelta) or (isinstance(value, float) and math.isinf(value)):
        return str(value)
    if isinstance(value, list | tuple):  # a map is a list of pairs
        return [_value(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _value(item) for name, item in value.items()}
    return value


def _plain(value: Any) -> Any:
    """A text or an id: whole numbers without decimals, and None for NaN, which pandas stores for a missing value."""
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else shorten_number(value)


def _invalid() -> FileError:
    return FileError("The file is not a valid Parquet file, or it is incomplete.")


def write(lines: Iterable[bytes], stream: IO[bytes]) -> None:
    """Write a Parquet file.

    Args:
        lines: JSON. The first line has the name and the type ("string", "integer", "number" or "boolean") of each
            column, and each following line has the values of a row.
        stream: it is written from start to end.
    """
    remaining = iter(lines)
    schema = pa.schema([(name, TYPES[type_]) for name, type_ in orjson.loads(next(remaining))])
    with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        rows: list[list[Any]] = []
        size = 0
        for line in remaining:
            rows.append(orjson.loads(line))
            size += len(line)
            if len(rows) == WRITTEN_ROWS or size > WRITTEN_BYTES:
                writer.write_batch(_to_batch(rows, schema))
                rows, size = [], 0
        if rows:
            writer.write_batch(_to_batch(rows, schema))


def _to_batch(rows: list[list[Any]], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        limit_resources()
        write(sys.stdin.buffer, sys.stdout.buffer)
    else:
        serve(read)
