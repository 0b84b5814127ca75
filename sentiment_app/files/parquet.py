"""Reads and writes Parquet files. Runs in a process of its own (see `converter`)."""

import datetime as dt
import decimal
import sys
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any

import orjson
import pyarrow as pa
from pyarrow import parquet

from sentiment_app.files.columns import Columns, Indexes, find_columns
from sentiment_app.files.converter import Table, limit_resources, serve
from sentiment_app.files.errors import FileError
from sentiment_app.files.rows import Row, make_row

BATCH_ROWS, BUFFER_BYTES = 500, 1024**2
WRITTEN_ROWS = 5_000
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
            strict = {names[found.text], found.id is not None and names[found.id]}
            values = {name: _values(batch.column(name), is_strict=name in strict) for name in wanted}
            ids = [None] * batch.num_rows if found.id is None else values[names[found.id]]
            for index, (custom_id, text) in enumerate(zip(ids, values[names[found.text]], strict=True)):
                line += 1
                row = make_row(line, custom_id, text if text is None else str(text))
                if columns.others:
                    others = (None if other is None else values[names[other]][index] for other in found.others)
                    row = row._replace(values=tuple(others))
                if columns.keeps_others:
                    row = row._replace(columns={name: values[names[i]][index] for i, name in found.kept.items()})
                yield row
    except (pa.ArrowException, OSError):
        raise _invalid() from None


def _values(column: pa.Array, *, is_strict: bool) -> list[Any]:
    """The values of a column for JSON. Invalid bytes become lone surrogates if `is_strict`, and otherwise U+FFFD."""
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        errors = "surrogateescape" if is_strict else "replace"
        encoded = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        values = [value and value.decode(errors=errors) for value in encoded.cast(pa.large_binary()).to_pylist()]
    except (ValueError, OverflowError):  # such as a date in the year 100,000, or a time in nanoseconds
        values = column.cast(pa.string()).to_pylist()
    is_simple = pa.types.is_string(column.type) or pa.types.is_integer(column.type)
    return values if is_simple else list(map(_value, values))


def _value(value: Any) -> Any:
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | dt.timedelta):
        return str(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple):  # a map is a list of pairs
        return [_value(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _value(item) for name, item in value.items()}
    return value


def _invalid() -> FileError:
    return FileError("The file is not a valid Parquet file, or it is incomplete.")


def write(rows: Iterator[list[Any]], columns: list[tuple[str, str]], stream: IO[bytes]) -> None:
    """Write a Parquet file.

    Args:
        rows: the values of each row, in the order of the columns.
        columns: the name and the type ("string", "integer", "number" or "boolean") of each column.
        stream: it is written from start to end.
    """
    schema = pa.schema([(name, TYPES[type_]) for name, type_ in columns])
    with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        while part := list(islice(rows, WRITTEN_ROWS)):
            arrays = [
                pa.array(values, field.type) for values, field in zip(zip(*part, strict=True), schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        limit_resources()
        write(map(orjson.loads, sys.stdin.buffer), orjson.loads(sys.argv[2]), sys.stdout.buffer)
    else:
        serve(read)
