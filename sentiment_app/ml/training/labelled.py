"""Read a user's labelled texts from any file that tasks read: CSV, NDJSON, JSON, an Excel workbook or Parquet.

And write such texts as NDJSON.

The files have a column with texts, a column with labels, and perhaps a column `source`. A source with the same name as
a special source of the packaged data is renamed to "own …".
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from sentiment_app.files.errors import FileError
from sentiment_app.files.reader import SUFFIXES, File, Format, Limits, recognize
from sentiment_app.ml.runtime import LABELS, ModelError
from sentiment_app.ml.text import TextError, normalize
from sentiment_app.ml.training.datasets import SPECIAL_SOURCES, Row
from sentiment_app.ml.training.templates import SOURCE as TEMPLATES

SOURCE = "file"
FEEDBACK_SOURCE = "feedback"
LABEL_COLUMN, SOURCE_COLUMN = "label", "source"
UNLIMITED = Limits(rows=10**12, bytes=10**15)


class DataFileError(ModelError):
    """The file cannot be used."""


class LabelledFile(NamedTuple):
    """A file of labelled texts, and how to read it.

    Args:
        path: `.csv`, `.tsv` or `.txt`; `.ndjson` or `.jsonl` with an object on each line; `.json` with an array;
            `.xlsx` or `.parquet`; all of them optionally `.gz` or `.zst`.
        names: the labels in the file, with their index in LABELS. Defaults to the names in LABELS.
        column: the column with the texts. Defaults to `text`.
        label_column: the column with the labels.
    """

    path: Path
    names: Mapping[str, int] | None = None
    column: str | None = None
    label_column: str = LABEL_COLUMN


def read_file(file: LabelledFile) -> list[Row]:
    """The labelled texts of a file.

    Raises:
        DataFileError: the file or a row of it cannot be read, or a row has no text or an unknown label.
    """
    names = file.names or {name: index for index, name in enumerate(LABELS)}
    try:
        rows = [_row(file, names, *record) for record in _records(file)]
    except FileError as error:
        raise DataFileError(f"{file.path}: {error.detail}") from None
    except OSError as error:
        raise DataFileError(f"{file.path} cannot be read: {error}") from None
    if not rows:
        raise DataFileError(f"{file.path} contains no texts")
    return rows


def label_feedback(given: Iterable[tuple[str, str]]) -> Iterator[Row]:
    """The texts and labels that users of the service gave, as rows. The service has checked them."""
    return (Row(text, LABELS.index(label), FEEDBACK_SOURCE) for text, label in given)


def write(rows: Iterable[Row]) -> Iterator[bytes]:
    """The rows as the lines of an NDJSON file, which `read_file` reads."""
    for row in rows:
        fields = {"text": row.text, LABEL_COLUMN: LABELS[row.label], SOURCE_COLUMN: row.source}
        yield orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def parse_names(text: str) -> dict[str, int]:
    """Label names as given on a command line: "0=negative,4=positive", or "bad,neutral,good" in that order.

    Raises:
        DataFileError: the text has neither form.
    """
    parts = [part.strip() for part in text.split(",")]
    if all("=" in part for part in parts):
        pairs = [part.split("=", 1) for part in parts]
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise DataFileError(f"{text!r} names a label of the file twice")
        if all(label in LABELS for _, label in pairs):
            return {name: LABELS.index(label) for name, label in pairs}
    elif len(set(parts)) == len(parts) == len(LABELS):
        return {name: index for index, name in enumerate(parts)}
    raise DataFileError(f"{text!r} is not a list of labels. Write for example 0=negative,1=neutral,2=positive")


def _records(file: LabelledFile) -> Iterator[tuple[int, Any, Any, Any]]:
    """The line, the text, the label and the source of each row."""
    columns = file.column or "text", file.label_column, SOURCE_COLUMN
    recognized = recognize(file.path.name)
    if recognized is None:
        names = ", ".join(SUFFIXES)
        raise DataFileError(f"the type of {file.path} is not known. Its name must end in one of {names}")
    media_type, compression = recognized
    with file.path.open("rb") as stream:
        format_ = Format(media_type, column=file.column, others=columns[1:], compression=compression)
        with contextlib.closing(File(stream, format_, UNLIMITED)) as opened:
            for row in opened:
                if row.error:
                    raise DataFileError(f"{file.path}, line {row.line}: {row.error}")
                if row.values[0] is None:
                    raise DataFileError(_no_label(file, opened.describe().get("columns", []), row.line))
                yield row.line, row.text, *row.values


def _no_label(file: LabelledFile, columns: list[str], line: int = 1) -> str:
    known = f" The columns are: {', '.join(columns[:20])}." if columns else ""
    return (
        f"{file.path}, line {line}: the row has no label in the column {file.label_column!r}.{known} "
        "Choose the column with --label-column"
    )


def _row(file: LabelledFile, names: Mapping[str, int], line: int, text: Any, label: Any, source: Any) -> Row:
    if str(label).strip() not in names:
        raise DataFileError(
            f"{file.path}, line {line}: the label {label!r} is not one of {', '.join(names)}. "
            "Name the labels of the file with --labels, such as 0=negative,1=neutral,2=positive"
        )
    if not isinstance(text, str):
        raise DataFileError(f"{file.path}, line {line}: the row has no text. Choose the column with --column")
    try:
        normal = normalize(text)  # texts are normalised in the same way before they are scored
    except TextError as error:
        raise DataFileError(f"{file.path}, line {line}: the text {error}") from None
    name = str(source or SOURCE)
    is_special = name in {*SPECIAL_SOURCES, TEMPLATES}
    return Row(normal, names[str(label).strip()], f"own {name}" if is_special else name)
