"""Read a user's labelled texts from CSV or NDJSON, optionally compressed with gzip, or from Parquet.

The columns are `text`, `label` and optionally `source`. A source with the same name as a special source of the packaged
data is renamed to "own …".
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

from sentiment_app.ml.runtime import LABELS, ModelError
from sentiment_app.ml.text import TextError, normalize
from sentiment_app.ml.training.datasets import SPECIAL_SOURCES, Row
from sentiment_app.ml.training.templates import SOURCE as TEMPLATES

SOURCE = "file"


class DataFileError(ModelError):
    """The file cannot be used."""


def read_file(path: Path, names: Mapping[str, int] | None = None) -> list[Row]:
    """Read a file of labelled texts.

    Args:
        path: `.csv` with a header, or `.ndjson`/`.jsonl` with an object on each line, optionally `.gz`; or `.parquet`.
        names: the labels in the file, with their index in LABELS. Defaults to the names in LABELS.

    Raises:
        DataFileError: the file cannot be read, or a line has no text or an unknown label.
    """
    known = names or {name: index for index, name in enumerate(LABELS)}
    try:
        rows = [_row(path, line, record, known) for line, record in _records(path)]
    except UnicodeDecodeError as error:
        raise DataFileError(
            f"{path} is not valid UTF-8 (at byte {error.start}). Convert it, for example with: iconv -f latin1 -t utf-8"
        ) from None
    except (OSError, EOFError, zlib.error, ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise DataFileError(f"{path} cannot be read: {error}") from None
    if not rows:
        raise DataFileError(f"{path} contains no texts")
    return rows


def parse_names(text: str) -> dict[str, int]:
    """Label names as given on a command line: "0=negative,4=positive", or "bad,neutral,good" in that order.

    Raises:
        DataFileError: the text has neither form.
    """
    parts = [part.strip() for part in text.split(",")]
    if all("=" in part for part in parts):
        pairs = [part.split("=", 1) for part in parts]
        if all(label in LABELS for _, label in pairs):
            return {name: LABELS.index(label) for name, label in pairs}
    elif len(parts) == len(LABELS):
        return {name: index for index, name in enumerate(parts)}
    raise DataFileError(f"{text!r} is not a list of labels. Write for example 0=negative,1=neutral,2=positive")


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
        raise DataFileError(f"the type of {path} is not known. Its name must end in .csv, .ndjson, .jsonl or .parquet")


def _row(path: Path, line: int, record: Any, names: Mapping[str, int]) -> Row:
    if not isinstance(record, dict):
        raise DataFileError(f"{path}, line {line}: not a JSON object")
    text, label = record.get("text"), record.get("label")
    if not isinstance(text, str) or label is None:
        columns = ", ".join(str(name) for name in list(record)[:20])
        raise DataFileError(f"{path}, line {line}: the columns text and label are required. The columns are: {columns}")
    if str(label) not in names:
        raise DataFileError(
            f"{path}, line {line}: the label {label!r} is not one of {', '.join(names)}. "
            "Name the labels of the file with --labels, such as 0=negative,1=neutral,2=positive"
        )
    try:
        normal = normalize(text)  # texts are normalised in the same way before they are scored
    except TextError as error:
        raise DataFileError(f"{path}, line {line}: the text {error}") from None
    source = str(record.get("source") or SOURCE)
    return Row(normal, names[str(label)], f"own {source}" if source in {*SPECIAL_SOURCES, TEMPLATES} else source)
