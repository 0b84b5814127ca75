"""Errors of a whole file. The error of a single row is stored in the row."""


class FileError(Exception):
    """The file cannot be read.

    Args:
        detail: says what is wrong, and what to do.
        option: the name of the option that is wrong, if an option is wrong.
    """

    def __init__(self, detail: str, option: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.option = option


class FileTooLargeError(FileError):
    """The file has more rows or bytes than the limits allow."""
