"""Anyone's own labelled texts: CSV or NDJSON, plain or gzip-compressed, or Parquet.

The columns are `text` and `label`, and `source` where texts of several kinds are to be told apart. Where training has
rules of its own for packaged data of the same name, it becomes "own …".
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import parquet

from sentiment_app.ml.datasets import TREATED_APART, Row
from sentiment_app.ml.runtime import LABELS, ModelError
from sentiment_app.ml.templates import SOURCE as TEMPLATES
from sentiment_app.ml.text import TextError, normalize

SOURCE = "file"


class DataFileError(ModelError):
    """A file that cannot be used, and the line that says so."""


def read_file(path: Path, names: Mapping[str, int] | None = None) -> list[Row]:
    """Read a file of labelled texts.

    Args:
        path: `.csv` with a header line, or `.ndjson`/`.jsonl` with an object a line; `.gz` may follow. Or `.parquet`.
        names: what the file calls each label, by its place in LABELS; otherwise the names of LABELS.

    Raises:
        DataFileError: naming the line that has no text or an unknown label.
    """
    known = names or {name: place for place, name in enumerate(LABELS)}
    try:
        rows = [_row(path, line, record, known) for line, record in _records(path)]
    except UnicodeDecodeError as error:
        raise DataFileError(
            f"{path} is not UTF-8 (byte {error.start}); convert it, such as with: iconv -f latin1 -t utf-8"
        ) from None
    except (OSError, EOFError, zlib.error, ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise DataFileError(f"{path} cannot be read: {error}") from None
    if not rows:
        raise DataFileError(f"{path} holds no texts")
    return rows


def parse_names(text: str) -> dict[str, int]:
    """Label names as given on a command line: "0=negative,4=positive", or "bad,neutral,good" in that order.

    Raises:
        DataFileError: it is neither.
    """
    parts = [part.strip() for part in text.split(",")]
    if all("=" in part for part in parts):
        pairs = [part.split("=", 1) for part in parts]
        if all(label in LABELS for _, label in pairs):
            return {name: LABELS.index(label) for name, label in pairs}
    elif len(parts) == len(LABELS):
        return {name: place for place, name in enumerate(parts)}
    raise DataFileError(f"{text!r} does not name labels; write for instance 0=negative,1=neutral,2=positive")


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind == ".parquet":
        yield from enumerate(parquet.read_table(path).to_pylist(), 1)
    elif kind == ".csv":
        with _open(path) as file:
            reader = csv.DictReader(file)
            for record in reader:
                yield reader.line_num, record
    elif kind in (".ndjson", ".jsonl"):
        with _open(path) as file:
            for line, content in enumerate(file, 1):
                if content.strip():
                    yield line, json.loads(content)
    else:
        raise DataFileError(f"{path} is of no known kind; it must end in .csv, .ndjson, .jsonl or .parquet")


def _row(path: Path, line: int, record: Any, names: Mapping[str, int]) -> Row:
    if not isinstance(record, dict):
        raise DataFileError(f"{path}, line {line}: is no object")
    text, label = record.get("text"), record.get("label")
    if not isinstance(text, str) or label is None:
        columns = ", ".join(str(name) for name in list(record)[:20])
        raise DataFileError(f"{path}, line {line}: needs a column text and a column label; it has {columns}")
    if str(label) not in names:
        raise DataFileError(
            f"{path}, line {line}: the label {label!r} is none of {', '.join(names)}; "
            "--labels says what the file calls them, such as 0=negative,1=neutral,2=positive"
        )
    try:
        normal = normalize(text)  # as the service does before it scores
    except TextError as error:
        raise DataFileError(f"{path}, line {line}: the text {error}") from None
    source = str(record.get("source") or SOURCE)
    return Row(normal, names[str(label)], f"own {source}" if source in {*TREATED_APART, TEMPLATES} else source)
