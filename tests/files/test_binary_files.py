"""Excel workbooks and Parquet files, which other processes read and write."""

import datetime as dt
import io
import random
import zipfile
from contextlib import closing, contextmanager

import pyarrow as pa
import pytest
import xlsxwriter
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet as arrow_parquet
from test_round_trips import TEXTS, examples

from sentiment_app.files import binary, parquet, workbook
from sentiment_app.files.columns import Columns
from sentiment_app.files.errors import FileError, FileTooLargeError
from sentiment_app.files.reader import PARQUET, XLSX, File, Format, Limits
from sentiment_app.files.xlsx_writer import MAX_ROWS, write_workbook

LIMITS = Limits(10**6, 10**9)


def read(content, media_type=XLSX, **options):
    with closing(File(io.BytesIO(content), Format(media_type, **options), LIMITS)) as file:
        return list(file), file.describe()


def texts(rows):
    return [(row.line, row.custom_id, row.text) for row in rows]


def make_workbook(*sheets):
    """A workbook as XlsxWriter writes it. Each sheet is a name and a function that fills it."""
    content = io.BytesIO()
    with xlsxwriter.Workbook(content, {"in_memory": True, "strings_to_formulas": False}) as book:
        for name, fill in sheets:
            fill(book.add_worksheet(name), book)
    return content.getvalue()


def table(*rows):
    def fill(sheet, book):
        for number, row in enumerate(rows):
            sheet.write_row(number, 0, row)

    return fill


def make_parquet(**columns):
    content = io.BytesIO()
    arrow_parquet.write_table(pa.table(columns), content)
    return content.getvalue()


def test_cells_are_read_as_people_see_them():
    def fill(sheet, book):
        day = book.add_format({"num_format": "yyyy-mm-dd"})
        sheet.write_row(0, 0, ["custom_id", "text", "when"])
        sheet.write_row(1, 0, [17, "plain"])
        sheet.write_datetime(1, 2, dt.datetime(2026, 11, 28, 7, 30), day)  # noqa: DTZ001  # cells have no zone
        sheet.write(2, 0, 1.5)
        sheet.write_formula(2, 1, '="very " & "good"', None, "very good")
        sheet.write_rich_string(3, 1, "so ", book.add_format({"bold": True}), "bold")
        sheet.write_string(4, 1, "two\nlines and \x07 and _x0041_")
        sheet.write_boolean(5, 1, True)
        sheet.write(7, 0, 18)
        sheet.write_formula(7, 1, "=1/0", None, "#DIV/0!")

    rows, described = read(make_workbook(("Reviews", fill)), keeps_columns=True)
    assert texts(rows) == [
        (2, "17", "plain"),
        (3, "1.5", "very good"),
        (4, None, "so bold"),
        (5, None, "two\nlines and \x07 and _x0041_"),
        (6, None, "TRUE"),
        (8, "18", ""),  # row 7 is blank, and an error counts as empty
    ]
    assert rows[0].columns == {"when": "2026-11-28T07:30:00"}
    assert described == {
        "media_type": XLSX,
        "sheet": "Reviews",
        "header_line": 1,
        "columns": ["custom_id", "text", "when"],
        "column": "text",
        "id_column": "custom_id",
    }


def test_sheet_is_chosen_by_name():
    book = make_workbook(("About", table(["text"], ["made by Ada"])), ("Data 2026", table(["text"], ["fine"])))
    assert texts(read(book)[0]) == [(2, None, "made by Ada")]
    assert texts(read(book, sheet="data 2026")[0]) == [(2, None, "fine")]
    with pytest.raises(FileError, match=r"no sheet named 'x'\. Its sheets are: About, Data 2026") as refused:
        read(book, sheet="x")
    assert refused.value.option == "sheet"


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        ([["Export of 2026"], [], ["id", "review"], [1, "fine"]], {"column": "review"}, [(4, None, "fine")]),
        ([["id", "Review"], [1, "review"], [2, "bad"]], {"column": "review"}, [(2, None, "review"), (3, None, "bad")]),
        ([["fine"], ["bad"]], {"has_header": False}, [(1, None, "fine"), (2, None, "bad")]),
        ([[1, "fine"]], {"has_header": False, "column": "2", "id_column": "1"}, [(1, "1", "fine")]),
        ([["comment"], ["fine"]], {}, [(2, None, "fine")]),
        ([["id", "review", ""], [1, "fine", "x"]], {"column": "2"}, [(2, None, "fine")]),
        ([["id", "review"], [1, "fine"], [2, "good", "note"]], {"column": "2"}, [(2, None, "fine"), (3, None, "good")]),
        ([["c"], ["a", "b"], ["d"]], {"column": "1"}, [(2, None, "a"), (3, None, "d")]),
        ([], {}, []),
    ],
)
def test_header_and_columns_are_found(rows, options, expected):
    assert texts(read(make_workbook(("A", table(*rows))), **options)[0]) == expected


def test_row_of_data_is_not_taken_for_the_header():
    rows = ["id", "what they said", ""], [1, "fine", "x"], [2, "review", "x"], [3, "bad", "x"]
    with pytest.raises(FileError, match=r"no column named 'review'\. Its columns are: id, what they said"):
        read(make_workbook(("A", table(*rows))), column="review")


def test_rows_above_the_header_that_have_a_text_and_repeated_headers_are_reported():
    rows, described = read(make_workbook(("A", table(["great"], [], ["text", "x"], ["fine", 1], ["text", "x"]))))
    assert [(row.line, row.text, row.error) for row in rows] == [
        (1, None, "The row is above the header."),
        (4, "fine", None),
        (5, None, "The row looks like the header."),
    ]
    assert described["header_line"] == 3


def test_first_visible_sheet_is_the_default():
    def hidden(sheet, book):
        sheet.write_row(0, 0, ["text"])
        sheet.hide()

    def shown(sheet, book):
        sheet.write_row(0, 0, ["text"])
        sheet.activate()
        sheet.set_first_sheet()

    book = make_workbook(("Old", hidden), ("New", shown))
    assert read(book)[1]["sheet"] == "New"
    assert read(book, sheet="Old")[1]["sheet"] == "Old"


def test_text_of_a_small_file_is_limited():
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["x" * 9_000]))
    content = make_parquet(text=long)
    assert len(content) < 1000
    with (
        closing(File(io.BytesIO(content), Format(PARQUET), Limits(10**6, 10**6))) as file,
        pytest.raises(FileTooLargeError, match="The limit is 1,000,000 bytes after decompression"),
    ):
        list(file)


def test_process_is_admitted_after_the_file_has_arrived_until_it_is_closed():
    events = []

    @contextmanager
    def admit():
        events.append("begins")
        yield
        events.append("ends")

    class Stream(io.BytesIO):
        def read(self, size=-1):
            events.append("arrives")
            return super().read(size)

    stream = Stream(make_parquet(text=["a", "b"]))
    with closing(File(stream, Format(PARQUET), LIMITS._replace(acquire=admit))) as file:
        assert events == ["arrives", "arrives", "begins"]
        assert len(list(file)) == 2
    assert events[-1] == "ends"
    with pytest.raises(FileError):
        File(io.BytesIO(b"x"), Format(PARQUET), LIMITS._replace(acquire=admit))
    assert events[-2:] == ["begins", "ends"]


@pytest.mark.parametrize("type_", [pa.string(), pa.binary()])
def test_parquet_bytes_that_are_not_utf_8_are_reported_and_empty_texts_stay_empty(type_):
    values = pa.array([b"ok", b"", b"\xff bad", None], pa.binary())
    array = values if type_ == pa.binary() else pa.Array.from_buffers(pa.string(), 4, values.buffers(), 1)
    rows, _ = read(make_parquet(text=array, custom_id=["a", "b", "c", "d"]), PARQUET)
    assert [row.text for row in rows] == ["ok", "", None, None]
    rows, _ = read(make_parquet(text=["t"] * 4, note=array), PARQUET, keeps_columns=True)
    assert [row.columns for row in rows] == [{"note": "ok"}, {"note": ""}, None, {"note": None}]
    assert "characters that are not valid" in rows[2].error
    rows, _ = read(make_parquet(text=["t"] * 4, custom_id=array), PARQUET)
    assert [(row.custom_id, row.error is None) for row in rows] == [
        ("ok", True),
        ("", True),
        (None, False),
        (None, True),
    ]


def test_parquet_numbers_are_ids_as_people_write_them():
    rows, _ = read(make_parquet(text=["a", "b", "c"], custom_id=[1.0, 2.5, float("nan")]), PARQUET)
    assert [row.custom_id for row in rows] == ["1", "2.5", None]


def test_nanoseconds_have_one_format():
    when = pa.array([0] * 600 + [1], pa.timestamp("ns"))
    rows, _ = read(make_parquet(text=["t"] * 601, when=when), PARQUET, keeps_columns=True)
    assert rows[0].columns["when"] == "1970-01-01T00:00:00.000000000"
    assert rows[600].columns["when"] == "1970-01-01T00:00:00.000000001"


def test_what_looks_like_an_escape_is_escaped():
    for text in ("_x0041\x07", "_x0041_", "_x0041", "_x005F_x0041_", "\x07_x0041\x08"):
        content = b"".join(write_workbook([["text", "n"], [text, 1]]))
        assert [row.text for row in read(content)[0]] == [text]


def test_workbook_of_too_many_bytes_is_refused(monkeypatch):
    monkeypatch.setattr("sentiment_app.files.xlsx_writer.MAX_SHEET_BYTES", 1000)
    with pytest.raises(FileError, match="too large for a workbook"):
        list(write_workbook([["x" * 2000]]))


def test_missing_column_is_named():
    with pytest.raises(FileError, match=r"no column named 'text'\. Its columns are: id, review"):
        read(make_workbook(("A", table(["id", "review"], [1, "fine"]))))


@pytest.mark.parametrize("media_type", [XLSX, PARQUET])
@pytest.mark.parametrize(
    "content", [b"", b"some text", b"PK\x03\x04", b"PAR1" + b"\0" * 100 + b"PAR1", random.Random(1).randbytes(5000)]
)
def test_invalid_file_is_refused(content, media_type):
    with pytest.raises(FileError, match="not a valid"):
        read(content, media_type)


def test_truncated_files_are_refused():
    book = make_workbook(("A", table(["text"], *([f"text {i}"] for i in range(100)))))
    for content, media_type in ((book, XLSX), (make_parquet(text=["a"] * 1000), PARQUET)):
        for size in range(0, len(content), len(content) // 5):
            with pytest.raises(FileError):
                read(content[:size], media_type)


@pytest.mark.asvs("15.2.5")
def test_tiny_workbook_that_needs_gigabytes_is_refused():
    content, small = io.BytesIO(), io.BytesIO(make_workbook(("A", table(["text"], ["fine"]))))
    far = b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'
    with zipfile.ZipFile(small) as book, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in book.namelist():
            bomb.writestr(name, book.read(name).replace(b"</sheetData>", far))
    assert len(content.getvalue()) < 10_000
    with pytest.raises(FileError, match="too much memory"):
        read(content.getvalue())


def test_tiny_parquet_file_that_needs_gigabytes_is_refused():
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["x" * 10**6]))
    content = make_parquet(text=long)
    assert len(content) < 200_000
    with pytest.raises(FileError, match=r"too much memory|not a valid"):
        read(content, PARQUET)


@pytest.mark.asvs("15.2.5")
def test_process_that_dies_does_not_look_like_the_end_of_the_file():
    book = b"".join(write_workbook([["text"], *([f"text {i} " * 20] for i in range(20_000))]))
    with closing(File(io.BytesIO(book), Format(XLSX), LIMITS)) as file:
        rows = iter(file)
        next(rows)
        file._binary._process.kill()
        with pytest.raises(FileError, match="cannot be read"):
            list(rows)


def test_process_ends_when_the_file_is_closed():
    book = b"".join(write_workbook([["text"], *([f"text {i} " * 20] for i in range(20_000))]))
    file = File(io.BytesIO(book), Format(XLSX), LIMITS)
    next(iter(file))
    file.close()
    assert file._binary._process.poll() is not None


@pytest.mark.asvs("5.2.1")
def test_file_over_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(binary, "MAX_BYTES", 100)
    with pytest.raises(FileTooLargeError, match="The limit for this type is 100 bytes"):
        read(make_workbook(("A", table(["text"]))))


def test_parquet_columns_of_any_type_are_kept():
    rows, described = read(
        make_parquet(
            custom_id=pa.array([2**60, None]),
            text=pa.array(["good", None]).dictionary_encode(),
            price=pa.array([None, "1.50"], pa.string()).cast(pa.decimal128(9, 2)),
            when=pa.array([0, 1], pa.timestamp("us")),
            tags=[["a", "b"], []],
            nested=[{"a": dt.date(2026, 1, 2)}, None],
            score=[float("nan"), 2.5],
            raw=[b"ab", None],
            far=[float("inf"), 1.0],
        ),
        PARQUET,
        keeps_columns=True,
    )
    assert texts(rows) == [(1, str(2**60), "good"), (2, None, None)]
    assert rows[0].columns == {
        "price": None,
        "when": "1970-01-01T00:00:00",
        "tags": ["a", "b"],
        "nested": {"a": "2026-01-02"},
        "score": None,
        "raw": "ab",
        "far": "inf",
    }
    assert rows[1].columns["price"] == "1.50"
    assert rows[1].error == "The row has no text."
    assert (described["column"], described["id_column"]) == ("text", "custom_id")


def test_parquet_column_that_is_not_text_is_refused():
    with pytest.raises(FileError, match=r"The column 'text' has the type list<.*>, not text"):
        read(make_parquet(text=[["a"]]), PARQUET)


def test_numbers_are_texts_as_in_csv():
    assert texts(read(make_parquet(text=[1, 2]), PARQUET)[0]) == [(1, None, "1"), (2, None, "2")]


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), TEXTS
)


@examples
@given(st.lists(st.tuples(st.integers(1, 10**6), TEXTS, CELLS), min_size=1, max_size=20))
def test_workbook_that_we_write_is_read_back_exactly(rows):
    content = b"".join(write_workbook([["custom_id", "text", "other"], *rows]))
    found = list(workbook.read(io.BytesIO(content), Columns(keeps_others=True), None).rows)
    assert [(row.custom_id, row.text) for row in found] == [(str(id_), text) for id_, text, _ in rows]
    for row, (_, _, other) in zip(found, rows, strict=True):
        assert row.columns["other"] == other


@examples
@given(
    st.lists(st.tuples(TEXTS, TEXTS | st.none()), min_size=1, max_size=20),
    st.booleans(),
    st.sampled_from(["zstd", "snappy", "none"]),
)
def test_parquet_is_read_back_exactly(rows, is_dictionary, compression):
    content = io.BytesIO()
    written = pa.table({"text": [text for text, _ in rows], "other": [other for _, other in rows]})
    arrow_parquet.write_table(written, content, use_dictionary=is_dictionary, compression=compression)
    content.seek(0)
    found = list(parquet.read(content, Columns(keeps_others=True), None).rows)
    assert [(row.line, row.text, row.columns["other"]) for row in found] == [
        (line, text, other) for line, (text, other) in enumerate(rows, 1)
    ]


def test_workbook_has_at_most_as_many_rows_as_spreadsheets_read(monkeypatch):
    rows = [["a"]] * 3
    monkeypatch.setattr("sentiment_app.files.xlsx_writer.MAX_ROWS", 2)
    with pytest.raises(FileError, match="too large for a workbook"):
        list(write_workbook(rows))
    assert MAX_ROWS == 1_048_576


def test_parquet_is_written_as_a_stream():
    columns = [("index", "integer"), ("name", "string"), ("share", "number"), ("is_new", "boolean")]
    rows = ([i, f"name {i}", i / 7, i % 2 == 0 or None] for i in range(30_000))
    pieces = list(binary.write_parquet(rows, columns))
    assert len(pieces) > 1
    read_back = arrow_parquet.read_table(io.BytesIO(b"".join(pieces)))
    assert read_back.num_rows == 30_000
    assert read_back.slice(29_999).to_pylist() == [
        {"index": 29_999, "name": "name 29999", "share": 29_999 / 7, "is_new": None}
    ]


def test_parquet_that_cannot_be_written_is_an_error():
    with pytest.raises(FileError, match="cannot be written"):
        list(binary.write_parquet([["no number"]], [("index", "integer")]))
