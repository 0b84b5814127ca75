"""Rows of a JSON array of objects or strings, read as a stream.

The standard library decodes one element after the other, because it keeps lone surrogates and large integers, so that
`make_row` can report or keep them. If an element is not valid JSON, there is no safe place to continue.
"""

import json
import re
from collections.abc import Iterator

from sentiment_app.files.errors import FileError
from sentiment_app.files.lines import MAX_LINE_CHARACTERS
from sentiment_app.files.ndjson import Keys, make_object, make_row_of_value
from sentiment_app.files.rows import Row

SPACE = re.compile(r"[ \t\r\n]*")


class _Buffer:
    """The part of the text that has not been decoded."""

    def __init__(self, texts: Iterator[str]) -> None:
        self._texts = texts
        self._decoder = json.JSONDecoder(object_pairs_hook=make_object)
        self.text = ""
        self.position = 0

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            self.position = SPACE.match(self.text, self.position).end()  # type: ignore[union-attr]  # it always matches
            if self.position < len(self.text) or not self._grow(1):
                return self.text[self.position : self.position + 1]

    def decode(self) -> object:
        """The next value.

        Raises:
            ValueError: it is not valid JSON, or too long.
            RecursionError: it is nested too deeply.
        """
        size = 1024
        while True:
            is_last = not self._grow(size)
            try:
                value, end = self._decoder.raw_decode(self.text, self.position)
            except json.JSONDecodeError:
                if is_last or size > MAX_LINE_CHARACTERS:
                    raise
                size *= 4  # each attempt decodes from the start, so that the attempts together take linear time
                continue
            self.position = end
            return value

    def _grow(self, size: int) -> bool:
        """Make at least `size` characters available. Returns whether there are as many."""
        available = len(self.text) - self.position
        if available >= size:
            return True
        parts = [self.text[self.position :]]
        while available < size and (more := next(self._texts, None)) is not None:
            parts.append(more)
            available += len(more)
        self.text, self.position = "".join(parts), 0
        return available >= size


def read_json_array(texts: Iterator[str], keys: Keys) -> Iterator[Row]:
    """The rows. The line of a row is the number of its element, from 1.

    Raises:
        FileError: the file is not a JSON array, or an element is not valid JSON.
    """
    buffer = _Buffer(texts)
    if not buffer.peek():
        return
    if buffer.peek() != "[":
        raise FileError("The file is not a JSON array. If each line is an object, send it as application/x-ndjson.")
    buffer.position += 1
    number = 0
    while (character := buffer.peek()) != "]" or number:
        if number:
            if character == "]":
                break
            if character != ",":
                raise FileError(_invalid(number, "a comma or the end of the array must follow it"))
            buffer.position += 1
            buffer.peek()
        number += 1
        try:
            value = buffer.decode()
        except json.JSONDecodeError as error:
            raise FileError(_invalid(number, error.msg)) from None
        except (ValueError, RecursionError):
            raise FileError(_invalid(number, "it is too long or nested too deeply")) from None
        yield make_row_of_value(number, value, keys)
    buffer.position += 1
    if buffer.peek():
        raise FileError("The file has more content after the end of the JSON array.")


def _invalid(number: int, reason: str) -> str:
    return f"Element {number:,} of the JSON array is not valid: {reason}."
