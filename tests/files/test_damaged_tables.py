"""A table with one damaged row, for each damage and column: no text is lost, cut or exchanged without a report.

The everyday run damages every thirteenth row. DAMAGED_ROWS=1 damages each row.
"""

import io
import os
import time

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


def read(content, **options):
    content = content if isinstance(content, bytes) else content.encode()
    return list(File(io.BytesIO(content), Format(CSV, **options), Limits(10**6, 10**9)))


def test_column_that_is_sometimes_empty_after_the_sample_is_no_shift():
    rows = [f"{i},{'guest' * (i < 1000 or i % 4 > 0)},Fine {i},10/10 advice {i}\n" for i in range(3000)]
    assert not any(row.error for row in read("id,name,text,advice\n" + "".join(rows)))


def test_list_in_a_text_of_a_file_that_encloses_all_fields_is_not_taken_for_rows():
    rows = "".join(f'"{i}","Fine, {i}"\n' for i in range(2, 30))
    found = read('"custom_id","text"\n"1","Steps:\n2, open the box\n3, cry\n4, return it"\n' + rows)
    assert [(row.custom_id, row.error) for row in found] == [(str(i), None) for i in range(1, 30)]
    assert found[0].text == "Steps:\n2, open the box\n3, cry\n4, return it"


def test_text_that_was_cut_off_before_a_column_that_is_always_filled_is_reported():
    rows = [f"{i},I liked it,{i % 5 + 1}\n" for i in range(40)]
    rows[20] = "20,I lik\n"
    assert [row.line for row in read("custom_id,text,rating\n" + "".join(rows)) if row.error] == [22]


@pytest.mark.parametrize("replacement", ["", " ", ";", "|", "-", "/", ":", ".", " - ", "("])
def test_delimiter_before_a_quoted_text_that_became_another_character_is_reported(replacement):
    rows = [f'{i},Thing {i},"Good, really",https://x/{i}\n' for i in range(40)]
    rows[20] = rows[20].replace(',"', f'{replacement}"')
    assert [row.line for row in read("custom_id,title,text,link\n" + "".join(rows)) if row.error] == [22]


def test_rows_of_another_encoding_are_reported():
    content = "text\nTrès bon\n".encode("cp1252") + b"a b c\n" * 30_000 + "Café, Größe\n".encode() * 50
    found = read(content)
    assert found[0].text == "Très bon"
    assert sum(row.error is not None for row in found) == 50
    assert {row.text for row in found} == {"Très bon", "a b c", None}


def test_character_that_was_cut_off_at_the_end_is_reported():
    for ending in ("Café".encode()[:-1], "nice 😀".encode()[:-1]):
        assert [row.error is None for row in read(b"text\nok\n" + ending)] == [True, False]
    assert read("text\nCafé".encode("cp1252"))[0].text == "Café"


def test_byte_order_mark_of_a_file_that_was_appended_is_no_part_of_a_value():
    part = "\ufefftitle,text\n" + "".join(f"a{i},Fine {i}\n" for i in range(20))
    found = read(part + part, id_column="title")
    assert [row.error is None for row in found] == [True] * 20 + [False] + [True] * 20
    assert found[21].custom_id == "a0"


@pytest.mark.parametrize("delimiter", ["[", "]", "*", "+", "(", ")", "{", "?", ".", "^", "$", "-"])
def test_delimiter_may_be_any_character(delimiter):
    content = f'id{delimiter}text\n1{delimiter}"good one"\n2{delimiter}bad\n'
    assert [row.text for row in read(content, delimiter=delimiter, column="text")] == ["good one", "bad"]


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "content",
    [
        b"id,n,text\n" + b"".join(b"%d,%d,fine\n" % (i, i) for i in range(20)) + b"1," + b"1" * 200_000 + b"x,fine\n",
        b"id,n,text\n" + b"".join(b"%d,%d,fine\n" % (i, i) for i in range(20)) + b"1 " * 100_000 + b"x,1,fine\n",
        b"text\nfine\rgood\n" + b"x" * 60_000 + b"\r" + b"y" * 200_000,
    ],
    ids=["digits", "digits and spaces", "CR"],
)
def test_hostile_line_takes_linear_time(content):
    started = time.process_time()
    read(content, column="text")
    assert time.process_time() - started < 30  # a quadratic algorithm took minutes
