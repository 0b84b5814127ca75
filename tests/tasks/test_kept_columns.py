"""The columns of a file come back with the results (`keep=columns`, `include=text,columns`), in every format."""

import csv
import io
import json
from uuid import UUID, uuid4

import pytest
from pyarrow import parquet
from python_calamine import CalamineWorkbook
from sqlalchemy import select

from sentiment_app.files.reader import PARQUET, XLSX
from sentiment_app.files.xlsx_writer import write_workbook
from sentiment_app.infrastructure.database import db
from sentiment_app.tasks import chunks, submission
from sentiment_app.tasks import upload as tasks
from sentiment_app.tasks.models import Chunk

CSV, NDJSON = "text/csv", "application/x-ndjson"
KEEP = "?keep=columns"
BOTH = "?include=text,columns"
TABLE = "id,review,stars,sentiment\n7,Lovely,5,=1+1\n8,Awful,1,\n9,,3,x\n"


@pytest.fixture
def completed(upload, work):
    """Uploads a file, scores it, and returns the id of the task."""

    def completed(content, kind=CSV, query=f"{KEEP}&column=review&id_column=id"):
        answer = upload(content, kind, query)
        assert answer.status_code == 202, answer.text
        work()
        return answer.json["task_id"]

    return completed


def read_csv(answer):
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


@pytest.mark.asvs("1.1.2")
def test_json_has_texts_and_columns(completed, fetch):
    task = completed(TABLE)
    lovely, awful, empty = fetch(f"/{task}/results{BOTH}").json["items"]
    assert (lovely["custom_id"], lovely["text"], lovely["sentiment"]) == ("7", "Lovely", "positive")
    assert lovely["columns"] == {"stars": "5", "sentiment": "=1+1"}
    assert awful["columns"] == {"stars": "1", "sentiment": ""}
    assert (empty["text"], empty["columns"]["stars"], "error" in empty) == (None, "3", True)
    ndjson = fetch(f"/{task}/results{BOTH}", Accept=NDJSON).text.splitlines()
    assert [json.loads(line) for line in ndjson] == [lovely, awful, empty]
    assert "columns" not in fetch(f"/{task}/results?include=text").json["items"][0]
    assert fetch(f"/{task}").json["format"]["kept_columns"] == [
        {"name": "stars", "type": "string"},
        {"name": "sentiment", "type": "string"},
    ]


@pytest.mark.asvs("1.1.2")
def test_csv_has_columns_under_their_names_without_formulas(completed, fetch):
    task = completed(TABLE)
    rows = read_csv(fetch(f"/{task}/results{BOTH}", Accept=CSV))
    assert list(rows[0])[:6] == ["index", "line", "custom_id", "stars", "input_sentiment", "text"]
    assert [(row["custom_id"], row["stars"], row["input_sentiment"], row["text"]) for row in rows] == [
        ("7", "5", "'=1+1", "Lovely"),
        ("8", "1", "", "Awful"),
        ("9", "3", "x", ""),
    ]
    assert read_csv(fetch(f"/{task}/results{BOTH}&formulas=raw", Accept=CSV))[0]["input_sentiment"] == "=1+1"
    assert list(read_csv(fetch(f"/{task}/results", Accept=CSV))[0])[2:4] == ["custom_id", "sentiment"]


def test_workbook_has_columns(completed, fetch):
    task = completed(TABLE)
    answer = fetch(f"/{task}/results{BOTH}", Accept=XLSX)
    assert answer.headers["Content-Disposition"] == f"attachment; filename=results-{task}.xlsx"
    header, first, *_ = CalamineWorkbook.from_filelike(io.BytesIO(answer.data)).get_sheet_by_index(0).to_python()
    row = dict(zip(header, first, strict=True))
    assert (row["custom_id"], row["stars"], row["input_sentiment"], row["text"]) == ("7", "5", "=1+1", "Lovely")
    assert (row["sentiment"], row["index"]) == ("positive", 0)


def test_parquet_has_columns_with_their_types(completed, fetch):
    lines = [
        {"text": "fine", "custom_id": 1, "stars": 5, "price": 1, "is_new": True, "tags": ["a"], "mixed": 1},
        {"text": "bad", "stars": None, "price": 2.5, "is_new": None, "tags": None, "mixed": "b", "big": 2**63},
        {"text": ""},
        "only a text",
    ]
    task = completed("\n".join(map(json.dumps, lines)), NDJSON, KEEP)
    answer = fetch(f"/{task}/results{BOTH}", Accept=PARQUET)
    table = parquet.read_table(io.BytesIO(answer.data))
    types = {field.name: str(field.type) for field in table.schema}
    assert [types[name] for name in ("index", "stars", "price", "is_new", "tags", "mixed", "positive")] == [
        *("int64", "int64", "double", "bool", "string", "string", "double")
    ]
    rows = table.to_pylist()
    assert [row["stars"] for row in rows] == [5, None, None, None]
    assert (rows[0]["price"], rows[0]["tags"], rows[0]["mixed"], rows[1]["mixed"]) == (1.0, '["a"]', "1", "b")
    assert rows[1]["big"] == str(2**63)
    assert [row["text"] for row in rows] == ["fine", "bad", None, "only a text"]


def test_workbook_comes_back_with_its_columns(completed, fetch):
    book = b"".join(write_workbook([["Export"], ["id", "review", "stars"], [17, "Lovely", 5], [18, "Awful", 1.5]]))
    task = completed(book, XLSX)
    items = fetch(f"/{task}/results{BOTH}").json["items"]
    assert [(item["line"], item["custom_id"], item["text"], item["columns"]) for item in items] == [
        (3, "17", "Lovely", {"stars": 5}),
        (4, "18", "Awful", {"stars": 1.5}),
    ]
    described = fetch(f"/{task}").json["format"]
    assert (described["sheet"], described["header_line"]) == ("Results", 2)
    assert described["kept_columns"] == [{"name": "stars", "type": "number"}]


def test_columns_that_were_not_kept_cannot_be_included(completed, fetch):
    task = completed(TABLE, CSV, "?column=review")
    answer = fetch(f"/{task}/results?include=columns")
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/include")
    assert "keep=columns" in answer.json["errors"][0]["detail"]
    assert fetch(f"/{task}/results?include=text").json["items"][0]["text"] == "Lovely"


@pytest.mark.parametrize("value", ["rows", "text,", "text;columns", ""])
def test_unknown_names_are_refused(completed, fetch, value):
    answer = fetch(f"/{completed(TABLE)}/results?include={value}")
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/include")


def test_columns_with_the_same_name_are_told_apart(completed, fetch):
    task = completed("text,note,note,,index,line\nfine,a,b,c,d,e\n", CSV, KEEP)
    (item,) = fetch(f"/{task}/results{BOTH}").json["items"]
    assert item["columns"] == {"note": "a", "note (2)": "b", "column 4": "c", "index": "d", "line": "e"}
    (row,) = read_csv(fetch(f"/{task}/results{BOTH}", Accept=CSV))
    assert (row["index"], row["input_index"], row["input_line"]) == ("0", "d", "e")


def test_too_many_columns_are_refused(upload):
    header = ",".join(["text", *(f"c{i}" for i in range(101))])
    for content, kind in (
        (f"{header}\n{'x,' * 101}x\n", CSV),
        (json.dumps({"text": "a", **{f"c{i}": i for i in range(101)}}), NDJSON),
    ):
        answer = upload(content, kind, KEEP)
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/keep")
        assert "101 other columns. At most 100 can be kept" in answer.json["errors"][0]["detail"]


def test_row_whose_columns_are_too_large_or_not_storable_is_reported(completed, fetch):
    rows = [{"text": "fine", "note": "x" * 20_000}, {"text": "fine", "note": 2**70}, {"text": "fine", "note": "ok"}]
    others = [
        '{"text": "fine", "note": "\\ud800"}',
        '{"text": "fine", "note": 1e400}',
        '{"text": "fine", "note": [NaN]}',
        '{"text": "fine", "note": ' + "[" * 300 + "]" * 300 + "}",
        '{"text": "fine", "a\\u0000": 1, "a": 2}',
    ]
    task = completed("\n".join([*map(json.dumps, rows), *others]), NDJSON, KEEP)
    items = fetch(f"/{task}/results{BOTH}").json["items"]
    assert ["error" in item for item in items] == [True, True, False, *[True] * 5]
    assert "20,011 bytes. With keep=columns, the limit is 20,000" in items[0]["error"]
    assert [item["columns"] for item in items] == [{}, {}, {"note": "ok"}, *[{}] * 5]
    assert "same name" in items[-1]["error"]


def test_names_lose_what_cannot_be_stored(completed, fetch):
    task = completed('{"text": "fine", "a\\u0000b": 1}\n{"text": "fine", "\\ud800": 2}', NDJSON, KEEP)
    first, second = fetch(f"/{task}/results{BOTH}").json["items"]
    assert first["columns"] == {"ab": 1}
    assert "characters that are not valid" in second["error"]


def test_columns_stay_with_their_rows_in_several_chunks(monkeypatch, completed, fetch):
    monkeypatch.setattr(submission, "CHUNK_ROWS", 3)
    lines = [json.dumps({"text": f"text {i}", "n": i}) for i in range(8)]
    task = completed("\n".join(lines), NDJSON, KEEP)
    items = fetch(f"/{task}/results{BOTH}").json["items"]
    assert [(item["text"], item["columns"]["n"]) for item in items] == [(f"text {i}", i) for i in range(8)]


def test_columns_stay_with_their_rows_when_a_chunk_is_bisected(upload, chunk_jobs):
    lines = [json.dumps({"text": f"text {i}", "n": i}) for i in range(5)]
    upload("\n".join(lines), NDJSON, KEEP)
    (chunk_id,) = chunk_jobs()
    chunks.bisect(chunks.claim(UUID(chunk_id), uuid4()))
    kept = db.session.execute(select(Chunk.texts, Chunk.columns).order_by(Chunk.first)).all()
    assert [chunks.unpack(columns) for _, columns in kept] == [[{"n": 0}, {"n": 1}], [{"n": 2}, {"n": 3}, {"n": 4}]]
    assert [chunks.unpack(texts) for texts, _ in kept] == [["text 0", "text 1"], ["text 2", "text 3", "text 4"]]


def test_many_wide_rows_end_a_chunk(upload, monkeypatch):
    monkeypatch.setattr(submission, "CHUNK_CHARACTERS", 1000)
    lines = [json.dumps({"text": "short", "note": "x" * 400}) for _ in range(9)]
    task = upload("\n".join(lines), NDJSON, KEEP).json["task_id"]
    sizes = db.session.scalars(select(Chunk.size).where(Chunk.task_id == UUID(task)).order_by(Chunk.first)).all()
    assert sizes == [3, 3, 3]


def test_large_integers_stay_exact_beside_other_numbers(completed, fetch):
    lines = [{"text": "fine", "k": 2**53 + 1, "n": 2**60}, {"text": "fine", "k": 0.5, "n": 1}]
    task = completed("\n".join(map(json.dumps, lines)), NDJSON, KEEP)
    types = {column["name"]: column["type"] for column in fetch(f"/{task}").json["format"]["kept_columns"]}
    assert types == {"k": "string", "n": "integer"}
    answer = fetch(f"/{task}/results{BOTH}", Accept=PARQUET)
    rows = parquet.read_table(io.BytesIO(answer.data)).to_pylist()
    assert [(row["k"], row["n"]) for row in rows] == [(str(2**53 + 1), 2**60), ("0.5", 1)]


def test_parquet_with_many_long_names_and_wide_rows_is_written(completed, fetch):
    names = [f"{number:03}" + "長" * 900 for number in range(100)]
    rows = [{"text": "fine", names[number % 100]: "😀" + "a" * 16_000} for number in range(1500)]
    task = completed("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), NDJSON, KEEP)
    answer = fetch(f"/{task}/results{BOTH}", Accept=PARQUET)
    table = parquet.read_table(io.BytesIO(answer.data))
    assert (table.num_rows, table.column(names[7]).null_count) == (1500, 1485)


def test_download_whose_process_fails_is_unavailable(completed, fetch, monkeypatch):
    task = completed(TABLE)
    monkeypatch.setattr("sentiment_app.files.binary.sys.executable", "/bin/false")
    answer = fetch(f"/{task}/results", Accept=PARQUET)
    assert (answer.status_code, answer.json["type"]) == (503, "urn:sentiment-app:problem:unavailable")
    assert "use CSV or NDJSON" in answer.json["detail"]


@pytest.mark.asvs("15.2.2")
def test_workbooks_beyond_the_limit_on_conversions_are_refused(app, upload, full):
    with full(tasks.CONVERSIONS.get(app)):
        assert upload("text\nfine\n", CSV).status_code == 202
        answer = upload(b"".join(write_workbook([["text"], ["fine"]])), XLSX)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert upload(b"".join(write_workbook([["text"], ["fine"]])), XLSX).status_code == 202
