"""Errors of a whole file. The error of a single row is stored in the row."""

from collections.abc import Sequence


class FileError(Exception):
    """The file cannot be read.

    Args:
        detail: says what is wrong, and what to do.
        option: the name of the option that is wrong, if an option is wrong.
        columns: the columns of the file, if one of them must be chosen.
    """

    def __init__(self, detail: str, option: str | None = None, columns: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.option = option
        self.columns = list(columns)


class FileTooLargeError(FileError):
    """The file has more rows or bytes than the limits allow."""
