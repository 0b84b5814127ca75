"""Small files as people have them, with the right reading of each: `corpus/readings.json`. docs/files.md lists them."""

import json
from pathlib import Path

import pytest
from corpus_table import DOCS, table

from sentiment_app.files.errors import FileError
from sentiment_app.files.reader import CSV, File, Format, Limits

CORPUS = Path(__file__).parent / "corpus"
READINGS = json.loads((CORPUS / "readings.json").read_text())


def test_corpus_lists_every_file():
    assert {reading["file"] for reading in READINGS} == {path.name for path in CORPUS.iterdir()} - {"readings.json"}
    assert len(READINGS) >= 120


def test_documentation_lists_the_corpus():
    assert DOCS.read_text().endswith("-->\n\n" + table()), "Run: .venv/bin/python tests/files/corpus_table.py"


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading["file"])
def test_file_is_read_correctly(reading):
    options = {"media_type": CSV, **reading.get("options", {})}

    def read():
        with (CORPUS / reading["file"]).open("rb") as stream:
            return list(File(stream, Format(**options), Limits(10_000, 1_000_000)))

    if "refused" in reading:
        with pytest.raises(FileError, match=reading["refused"]):
            read()
        return
    rows = read()
    # A text of null means that the row is reported, with the reason.
    assert [row.text for row in rows] == reading["texts"]
    assert [row.error is None for row in rows] == [text is not None for text in reading["texts"]]
    if "ids" in reading:
        assert [row.custom_id for row in rows] == reading["ids"]
    if "lines" in reading:
        assert [row.line for row in rows] == reading["lines"]
