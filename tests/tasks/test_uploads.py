"""Uploads as people send them: forms, previews, and the format that a task reports."""

import contextlib
import errno
import gzip
import io
import json
import socket
import sys
import threading
import uuid
from pathlib import Path
from urllib.parse import quote

import pytest

from sentiment_app.files.reader import XLSX
from sentiment_app.files.xlsx_writer import write_workbook
from sentiment_app.tasks import request_body

CSV, NDJSON = "text/csv", "application/x-ndjson"
FILE = "id;review\n1;Lovely, really\n2;awful\n".encode("cp1252")


@pytest.fixture
def submit_form(client, as_ada):
    def submit(*fields, path="", **headers):
        """Send a form with these fields. A field that is a file is a tuple of content, name and type."""
        boundary = uuid.uuid4().hex
        body = b""
        for name, value in fields:
            content, filename, kind = value if isinstance(value, tuple) else (value.encode(), None, None)
            extra = f'; filename="{filename}"' if filename else ""
            if filename and not filename.isascii():
                extra = f"; filename*=utf-8''{quote(filename)}"  # as Python's requests sends it
            type_ = f"Content-Type: {kind}\r\n" if kind else ""
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n{type_}\r\n'
            body += head.encode() + content + b"\r\n"
        body += f"--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        url = "/api/v1/sentiment/tasks" + path
        return client.post(url, data=io.BytesIO(body), content_type=kind, headers={**as_ada, **headers})

    return submit


def test_task_reports_format(upload, fetch):
    task = upload(FILE, CSV, "?column=review&id_column=id").json
    assert task["format"] == {
        "media_type": CSV,
        "encoding": "utf-8",
        "delimiter": ";",
        "quote": '"',
        "escape": None,
        "header_line": 1,
        "columns": ["id", "review"],
        "column": "review",
        "id_column": "id",
    }
    assert fetch(f"/{task['task_id']}").json["format"] == task["format"]


def test_format_names_encoding_that_was_found_late(upload):
    rows = "".join(f"the room was fine number {number}\n" for number in range(5000))
    task = upload(("text\n" + rows + "La café était fermé\n").encode("cp1252"), CSV).json
    assert task["format"]["encoding"] == "cp1252"


def test_batch_has_no_format(client, as_ada, model):
    answer = client.post("/api/v1/sentiment/analyze/batch", json={"texts": ["fine"]}, headers=as_ada)
    assert answer.json["format"] is None


def test_header_may_be_absent(upload):
    for kind, query in (("text/csv; header=absent", ""), (CSV, "?header=absent")):
        task = upload("Lovely\nAwful\n", kind, query).json
        assert task["request_counts"]["total"] == 2
        assert task["format"]["header_line"] is None


@pytest.mark.parametrize("path", ["", "/preview"])
def test_form_with_file_is_read(submit_form, path):
    answer = submit_form(
        ("column", "review"),
        ("id_column", "id"),
        ("file", (FILE, "reviews.csv", "application/octet-stream")),
        path=path,
    )
    assert answer.status_code == (200 if path else 202), answer.text
    assert answer.json["format"]["column"] == "review"


def test_name_of_file_in_form_may_have_any_letters(submit_form):
    file = gzip.compress(FILE), "Отзывы.csv.gz", "application/octet-stream"
    assert submit_form(("column", "review"), ("file", file)).status_code == 202


def test_workbook_in_form_is_kept_with_its_columns(submit_form):
    book = b"".join(write_workbook([["id", "review", "stars"], [1, "Lovely", 5]]))
    answer = submit_form(("column", "review"), ("keep", "columns"), ("file", (book, "reviews.xlsx", "x/y")))
    assert answer.status_code == 202, answer.text
    assert [column["name"] for column in answer.json["format"]["kept_columns"]] == ["id", "stars"]
    preview = submit_form(("column", "review"), ("file", (book, "reviews.xlsx", "x/y")), path="/preview")
    assert [row["text"] for row in preview.json["rows"]] == ["Lovely"]


def test_type_of_file_in_form_follows_from_its_name_or_type(submit_form):
    compressed = gzip.compress(b'{"text":"fine"}\n')
    for file in (
        (b"text\nfine\n", "reviews.csv", "application/vnd.ms-excel"),
        (b"text\nfine\n", "reviews", "text/csv; charset=utf-8"),
        (b'{"text":"fine"}\n', "reviews.jsonl", None),
        (compressed, "reviews.ndjson.gz", "application/gzip"),
    ):
        answer = submit_form(("file", file), path="/preview")
        assert [row["text"] for row in answer.json["rows"]] == ["fine"], answer.text
    assert submit_form(("file", (b"fine", "reviews.doc", "application/msword"))).status_code == 415


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ([], 400, "has no file"),
        ([("column", "text")], 400, "has no file"),
        ([("file", (b"text\nfine\n", "a.csv", None)), ("column", "text")], 400, "Send all fields before the file"),
        ([("file", (b"text\nfine\n", "a.csv", None)), ("file", (b"x", "b.csv", None))], 400, "before the file"),
        ([("colunm", "text"), ("file", (b"text\nfine\n", "a.csv", None))], 422, "Unknown field"),
        ([("column", "x" * 20_000), ("file", (b"text\nfine\n", "a.csv", None))], 400, "more than 10,000 bytes"),
    ],
)
def test_form_that_cannot_be_used_leaves_nothing(submit_form, fetch, fields, status, message):
    answer = submit_form(*fields)
    assert (answer.status_code, message in answer.text) == (status, True), answer.text
    assert fetch().json["items"] == []


def test_body_that_is_not_a_form_is_refused(upload):
    for content, kind in ((b"text\n", "multipart/form-data"), (b"text\n", "multipart/form-data; boundary=x")):
        assert upload(content, kind).status_code == 400


def test_form_sent_again_is_the_same_request(submit_form):
    first, second = (
        submit_form(("file", (b"text\nfine\n", "a.csv", None)), **{"Idempotency-Key": "k"}) for _ in range(2)
    )
    assert second.json["task_id"] == first.json["task_id"]
    other = submit_form(("file", (b"text\nother\n", "a.csv", None)), **{"Idempotency-Key": "k"})
    assert other.status_code == 422
    other = submit_form(("column", "text"), ("file", (b"text\nfine\n", "a.csv", None)), **{"Idempotency-Key": "k"})
    assert other.status_code == 422


def test_preview_shows_rows_and_errors_and_stores_nothing(client, as_ada, fetch):
    rows = "".join(f"{number},fine {number}\n" for number in range(100))
    content = f'id,text\n1,"open\n{rows}'
    answer = client.post("/api/v1/sentiment/tasks/preview?id_column=id", data=content, content_type=CSV, headers=as_ada)
    assert answer.status_code == 200
    assert len(answer.json["rows"]) == 20
    assert answer.json["rows"][0]["error"].startswith("A quote in the line is not closed")
    assert answer.json["rows"][1] == {"line": 3, "custom_id": "0", "text": "fine 0", "error": None}
    assert fetch().json["items"] == []


@pytest.mark.parametrize(
    ("content", "status", "pointer"),
    [("id,review\n1,fine\n", 422, "/column"), ("%PDF-1.7", 400, None), ('{"text":"fine"}\n', 400, None)],
)
def test_preview_of_unusable_file_has_the_same_error_as_the_upload(client, as_ada, upload, content, status, pointer):
    preview = client.post("/api/v1/sentiment/tasks/preview", data=content, content_type=CSV, headers=as_ada)
    assert preview.status_code == status
    assert preview.json["detail"] == upload(content, CSV).json["detail"]
    if pointer:
        assert preview.json["errors"][0]["pointer"] == pointer


def test_form_with_other_parameters_of_the_file_is_another_request(submit_form):
    first = submit_form(("file", (b"text\nfine\n", "a.csv", "text/csv")), **{"Idempotency-Key": "k"})
    assert first.status_code == 202
    other = submit_form(("file", (b"text\nfine\n", "a.csv", "text/csv; header=absent")), **{"Idempotency-Key": "k"})
    assert other.status_code == 422


@pytest.mark.asvs("5.3.2")
@pytest.mark.parametrize("name", ["../../../tmp/evil.csv", "/etc/evil.csv", "..\\evil.csv", "evil.csv\0.png"])
def test_name_of_a_file_in_a_form_is_no_path(submit_form, name):
    """The name tells the type of the file at most. Nothing is opened under it, by whatever function."""
    opened, is_watching = [], True

    def watch(event, arguments):
        if is_watching and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)  # it cannot be removed
    with Path("/dev/null").open():
        pass
    answer = submit_form(("file", (b"text\ngood\n", name, "text/csv")))
    is_watching = False
    assert answer.status_code in (202, 400, 415)
    assert "/dev/null" in opened
    assert not [path for path in opened if "evil" in path]


@pytest.mark.asvs("15.3.7")
def test_form_with_the_same_field_twice_is_refused(submit_form):
    answer = submit_form(("column", "a"), ("column", "b"), ("file", (b"a,b\n1,2\n", "a.csv", None)))
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("content", "kind", "query"),
    [
        (b"a\0b,x\nfine,y\n", CSV, "?column=1"),
        (b"a\xff\xfe\x81b,x\nfine,y\n", CSV, "?column=1&encoding=utf-8"),
        (b"[" * 100_000 + b"]" * 100_000 + b"\n", CSV, ""),
        (b'{"text":"a","custom_id":1.5,"x":' + b"[" * 1000 + b"]" * 1000 + b"}\n", NDJSON, ""),
        (b"[" * 100_000, "application/json", ""),
        (b'[{"text":"a","custom_id":' + b"1" * 5000 + b"}]", "application/json", ""),
    ],
)
def test_hostile_files_are_answered(upload, content, kind, query):
    for path in ("", "/preview"):
        assert upload(content, kind, path + query).status_code in (200, 202, 400, 422)


def test_compressed_json_body_is_refused(client, as_ada, model):
    body = gzip.compress(json.dumps({"text": "fine"}).encode())
    headers = {**as_ada, "Content-Encoding": "gzip"}
    answer = client.post("/api/v1/sentiment/analyze", data=body, content_type="application/json", headers=headers)
    assert answer.status_code == 415


def test_invalid_json_names_its_place(client, as_ada, model):
    answer = client.post(
        "/api/v1/sentiment/analyze", data='{"text": "fine",}', content_type="application/json", headers=as_ada
    )
    assert answer.status_code == 400
    assert "line 1, column 17" in answer.json["detail"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EAGAIN])
def test_full_temporary_folder_is_unavailable(upload, monkeypatch, number):
    def full():
        raise OSError(number, "no room")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    answer = upload(b"".join(write_workbook([["text"], ["fine"]])), XLSX)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "send CSV or NDJSON" in answer.json["detail"]


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(request_body.time, "monotonic", lambda: self.now)


def test_only_waiting_for_the_sender_counts(app, monkeypatch):
    clock, body = Clock(monkeypatch), request_body.Body()
    with app.test_request_context(data=b"x" * 100_000):
        body.read(100)
        clock.now += 3600  # this process is busy, for example because PostgreSQL is slow
        assert not body.is_too_slow()
        body._waiting_since = clock.now  # the next read has begun
        clock.now += request_body.PATIENCE_SECONDS - 1
        assert not body.is_too_slow()
        clock.now += 2
        assert body.is_too_slow()


def test_sender_with_the_minimum_rate_is_not_too_slow(app, monkeypatch):
    clock, body = Clock(monkeypatch), request_body.Body()
    piece = request_body.PIECE_BYTES
    for _ in range(100):
        body._waiting_since = clock.now
        clock.now += piece / request_body.MIN_BYTES_PER_SECOND
        assert not body.is_too_slow()  # just before the read ends
        body._waited += piece / request_body.MIN_BYTES_PER_SECOND
        body._received, body._waiting_since = body._received + piece, None


@pytest.mark.parametrize("cause", ["trickle", "silence", "timeout"])
def test_connection_of_a_slow_sender_is_cut_off(app, monkeypatch, cause):
    """The read is blocked, as gunicorn's is until all its bytes have arrived."""
    monkeypatch.setattr(request_body, "CHECK_SECONDS", 0.01)
    if cause != "timeout":
        monkeypatch.setattr(request_body, "PATIENCE_SECONDS", 0.1)
        monkeypatch.setattr(request_body, "MIN_BYTES_PER_SECOND", 10**9)
    ours, theirs = socket.socketpair()
    has_ended = threading.Event()

    def send():
        while cause == "trickle" and not has_ended.wait(0.005):
            with contextlib.suppress(OSError):
                theirs.send(b"x")

    sender = threading.Thread(target=send)
    environ = {"wsgi.input": ours.makefile("rb"), "gunicorn.socket": ours, "CONTENT_LENGTH": "100000"}
    with theirs, ours, environ["wsgi.input"], app.test_request_context(method="POST", environ_overrides=environ):
        sender.start()
        with (
            pytest.raises(request_body.UploadTooSlowError) as raised,
            request_body.watch_sender(0.1 if cause == "timeout" else 3600) as body,
        ):
            request_body.HashingStream(body, 100_000).drain()
        has_ended.set()
        sender.join()
    assert ("within" in raised.value.detail) == (cause == "timeout")


def test_other_errors_of_an_upload_are_not_taken_for_slowness(app):
    with (
        app.test_request_context(data=b"x"),
        pytest.raises(ZeroDivisionError),
        request_body.watch_sender(3600),
    ):
        raise ZeroDivisionError


def test_error_lists_the_columns_to_choose_from(upload):
    answer = upload("id,stars,opinion\n1,5,good\n", "text/csv")
    assert (answer.status_code, answer.json["columns"]) == (422, ["id", "stars", "opinion"])
    assert "columns" not in upload("\0", "text/csv").json
