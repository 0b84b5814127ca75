"""A table with one damaged row, for each damage and column: no text is lost, cut or exchanged without a report.

The everyday run damages every thirteenth row. DAMAGED_ROWS=1 damages each row.
"""

import io
import os

import pytest

from sentiment_app.files.reader import CSV, File, Format, Limits

HEADER = ["day", "order", "price", "product", "review", "link", "note"]
PRODUCTS = ["Garden chair", "Kettle, 2 litres", 'Shelf, 60" wide', "Reading lamp", "Coat hooks", 'Mirror 12"']
REVIEWS = [
    "It wobbles on stone, but my father sits in it every evening.",
    "Boils fast and the lid stays cool",
    "The instructions say 'two people', and they mean it.",
    'My daughter calls it "the sun", and reads until midnight.',
    "Holds five coats. Then the wall came down, plaster and all.",
    "Arrived in pieces!",
    "Exactly as shown, well packed, no complaints",
]
ROWS = [
    [
        f"2026-03-{i % 28 + 1:02}",
        f"K-{4100 + 7 * i}",
        f"{i % 9 + 3}.{i % 4}5",
        PRODUCTS[i % len(PRODUCTS)],
        f"{REVIEWS[i % len(REVIEWS)]} ({i})",
        f"https://shop.example/items/K_{4100 + 7 * i}",
        "",
    ]
    for i in range(40)
]
STEP = int(os.environ.get("DAMAGED_ROWS") or 13)


def quote_minimal(index, value):
    return '"' + value.replace('"', '""') + '"' if '"' in value or "," in value else value


def quote_texts(index, value):
    return '"' + value.replace('"', '""') + '"' if index in (3, 4, 5) else value


def insert_delimiter(fields, index):
    return [*fields[:index], "", *fields[index:]]


def remove_delimiter(fields, index):
    return [*fields[:index], "".join(fields[index : index + 2]), *fields[index + 2 :]]


def move_delimiter(fields, index):
    """Remove a delimiter, and insert another delimiter two columns before it."""
    return insert_delimiter(remove_delimiter(fields, index), max(index - 2, 1))


def insert_quote(position):
    def damage(fields, index):
        value = fields[index]
        at = {"first": 0, "middle": len(value) // 2, "last": len(value)}[position]
        return [*fields[:index], value[:at] + '"' + value[at:], *fields[index + 1 :]]

    return damage


DAMAGES = {
    "inserted delimiter": insert_delimiter,
    "removed delimiter": remove_delimiter,
    "moved delimiter": move_delimiter,
    "quote before a field": insert_quote("first"),
    "quote in a field": insert_quote("middle"),
    "quote after a field": insert_quote("last"),
    "missing fields": lambda fields, index: fields[: index + 1],
}


@pytest.mark.parametrize("quote", [quote_minimal, quote_texts])
@pytest.mark.parametrize("column", ["review", "product"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_reported_and_affects_no_other_row(damage, column, quote):
    lines = [[quote(index, value) for index, value in enumerate(fields)] for fields in ROWS]
    for damaged in range(0, len(ROWS), STEP):
        for index in range(len(HEADER)):
            broken = DAMAGES[damage](lines[damaged], index)
            table = [HEADER, *lines[:damaged], broken, *lines[damaged + 1 :]]
            assert_no_silent_loss([",".join(fields) for fields in table], column, damaged)


def assert_no_silent_loss(lines, column, damaged):
    content = "".join(line + "\n" for line in lines).encode()
    rows = list(File(io.BytesIO(content), Format(CSV, column=column), Limits(1000, 10**6)))
    assert [row.line for row in rows] == list(range(2, len(ROWS) + 2))
    for i, (row, fields) in enumerate(zip(rows, ROWS, strict=True)):
        text = fields[HEADER.index(column)]
        if i == damaged:
            # A quote that was inserted into the text belongs to it, as nobody can know better.
            is_text = row.text is not None and row.text.replace('"', "") == text.replace('"', "")
            assert row.error or row.text == "" or is_text, (lines[damaged + 1], row)
        else:
            assert (row.text, row.error) == (text, None)


def test_properly_quoted_inches_and_speech_are_texts():
    rows = [f'{i},"He said ""wow""but left","a 5""x7"" frame, and ""more""",{i}.5' for i in range(12)]
    content = "\n".join(["id,text,detail,price", *rows]).encode()
    found = list(File(io.BytesIO(content), Format(CSV), Limits(1000, 10**6)))
    assert {row.text for row in found} == {'He said "wow"but left'}
    assert not any(row.error for row in found)


def test_missing_value_with_an_ordinary_row_is_no_shift():
    rows = [f"2026-01-{i + 1:02},{100 + i},fine number {i},berlin" for i in range(20)]
    rows += ["2026-02-01,,fine without an id,berlin", "2026-02-02,,fine without an id,rome"]
    content = "\n".join(["day,id,text,city", *rows]).encode()
    found = list(File(io.BytesIO(content), Format(CSV), Limits(1000, 10**6)))
    assert len(found) == 22
    assert not any(row.error for row in found)
