"""Writes the table of docs/files.md from the readings of the corpus. Usage: python tests/files/corpus_table.py"""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs/files.md"
READINGS = ROOT / "tests/files/corpus/readings.json"


def table():
    """The table, in Markdown."""
    lines = ["| file | what it shows | options | how it is read |", "|---|---|---|---|"]
    for reading in json.loads(READINGS.read_text()):
        options = ", ".join(f"`{name}={value}`" for name, value in reading.get("options", {}).items())
        lines.append(f"| `{reading['file']}` | {reading['shows']} | {options} | {_outcome(reading)} |")
    return "\n".join(lines) + "\n"


def _outcome(reading):
    if "refused" in reading:
        return f"refused: “{reading['refused']}”"
    texts = reading["texts"]
    reported = texts.count(None)
    read = f"{len(texts) - reported:,} row{'s' if len(texts) - reported != 1 else ''}"
    return f"{read}, {reported} reported" if reported else read


if __name__ == "__main__":
    introduction = DOCS.read_text().split("-->")[0] + "-->\n\n"
    DOCS.write_text(introduction + table())
