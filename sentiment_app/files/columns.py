"""Find the requested columns of a table by their names or numbers."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sentiment_app.files.errors import FileError
from sentiment_app.files.rows import make_storable

DEFAULT_COLUMN, DEFAULT_ID_COLUMN = "text", "custom_id"
MAX_COLUMNS = 10_000
MAX_LISTED_COLUMNS = 20
MAX_CHOICES, MAX_CHOICE_CHARACTERS = 100, 200
MAX_KEPT_COLUMNS, MAX_KEPT_NAME_CHARACTERS = 100, 1_000


class Columns(NamedTuple):
    """Which columns to read: names, or numbers from 1. None means the default."""

    text: str | None = None
    id: str | None = None
    others: tuple[str, ...] = ()
    """Further columns, which may be missing."""
    has_header: bool = True
    keeps_others: bool = False
    """Whether to keep all columns except those of the text and the custom_id."""

    @property
    def text_name(self) -> str:
        """The name of the column with the texts."""
        return self.text or DEFAULT_COLUMN


class Indexes(NamedTuple):
    """The indexes of the requested columns."""

    text: int
    id: int | None
    others: list[int | None]
    kept: dict[int, str]
    """The columns that are kept, with different names."""


def find_columns(names: Sequence[str], columns: Columns) -> Indexes:
    """The requested columns. The only column of a table is the column with the texts.

    Raises:
        FileError: there are too many columns, or a requested column is missing or ambiguous.
    """
    if len(names) > MAX_COLUMNS:
        raise FileError(f"The header has {len(names):,} columns. The limit is {MAX_COLUMNS:,}.")
    text = _find(names, columns.text, DEFAULT_COLUMN, "column")
    if text is None and len(names) > 1:
        raise FileError(_no_column(names, columns), "column", _choices(names))
    id_ = _find(names, columns.id, DEFAULT_ID_COLUMN, "id_column")
    text = text or 0
    others = [next(iter(matching(names, name)), None) for name in columns.others]
    kept = {i: name for i, name in enumerate(names) if i not in (text, id_)} if columns.keeps_others else {}
    check_kept(kept.values())
    return Indexes(text, id_, others, _name_differently(kept))


def check_kept(names: Collection[str]) -> None:
    """Check the names of the columns that are kept.

    Raises:
        FileError: there are too many, or a name is too long.
    """
    if len(names) > MAX_KEPT_COLUMNS:
        detail = f"The file has {len(names):,} other columns. At most {MAX_KEPT_COLUMNS} can be kept."
        raise FileError(f"{detail} Remove columns from the file, or do not keep them.", "keep")
    longest = max(map(len, names), default=0)
    if longest > MAX_KEPT_NAME_CHARACTERS:
        detail = f"A column that is to be kept has a name of {longest:,} characters."
        raise FileError(f"{detail} The limit is {MAX_KEPT_NAME_CHARACTERS:,}.", "keep")


def matching(names: Sequence[str], wanted: str) -> list[int]:
    """The columns with a name, or the column with this number."""
    is_number = wanted.isascii() and wanted.isdigit() and len(wanted) < 6 and 1 <= int(wanted) <= len(names)
    return named(names, wanted) or ([int(wanted) - 1] if is_number else [])


def named(names: Sequence[str], wanted: str) -> list[int]:
    """The columns with a name; if there are none, without regard to case and spaces."""
    exact = [index for index, name in enumerate(names) if name.strip() == wanted]
    return exact or [index for index, name in enumerate(names) if _normal(name) == _normal(wanted)]


def _find(names: Sequence[str], requested: str | None, default: str, option: str) -> int | None:
    found = matching(names, requested or default)
    if len(found) > 1:
        numbers = ", ".join(str(index + 1) for index in found[:MAX_LISTED_COLUMNS])
        raise FileError(
            f"The file has {len(found)} columns named {requested or default!r}. Choose one by its number: {numbers}.",
            option,
            _choices(names),
        )
    if found:
        return found[0]
    if requested:
        raise FileError(f"The file has no column named {requested!r}. {_list_columns(names)}", option, _choices(names))
    return None


def _name_differently(names: dict[int, str]) -> dict[int, str]:
    """The names, with a number after a repeated name, and with a number in place of an empty name."""
    used: set[str] = set()
    for index, name in names.items():
        base = make_storable(name) or f"column {index + 1}"
        chosen, number = base, 2
        while chosen in used:
            chosen, number = f"{base} ({number})", number + 1
        used.add(chosen)
        names[index] = chosen
    return names


def _normal(name: str) -> str:
    return " ".join(name.casefold().split())


def _no_column(names: Sequence[str], columns: Columns) -> str:
    if columns.has_header:
        return f"The file has no column named {DEFAULT_COLUMN!r}. {_list_columns(names)} Choose one of them."
    return f"The file has {len(names)} columns and no header. Choose the column with the texts by its number."


def _choices(names: Sequence[str]) -> list[str]:
    return [make_storable(name)[:MAX_CHOICE_CHARACTERS] for name in names[:MAX_CHOICES]]


def _list_columns(names: Sequence[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:MAX_LISTED_COLUMNS])
    return f"Its columns are: {shown}{', …' if len(names) > MAX_LISTED_COLUMNS else ''}."
