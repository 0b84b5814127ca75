"""Tasks over HTTP, which a real worker takes from a real queue and scores."""

import gzip
import json
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from sqlalchemy import update

from sentiment_app.infrastructure.database import db
from sentiment_app.registry.serving import serving
from sentiment_app.tasks import executor, submission
from sentiment_app.tasks.models import Task
from sentiment_app.web.operation import BODY_LIMIT

TASKS, BATCH = "/api/v1/sentiment/tasks", "/api/v1/sentiment/analyze/batch"
NDJSON, CSV = "application/x-ndjson", "text/csv"


def age(task_id, **time):
    made = datetime.now(UTC) - timedelta(**time)
    db.session.execute(update(Task).where(Task.id == task_id).values(created_at=made, touched_at=made))


def test_batch_is_accepted_then_scored(client, as_ada, work, fetch, model):
    answer = client.post(BATCH, json={"texts": ["I love it", "I hate it"]}, headers=as_ada)
    assert answer.status_code == 202
    assert answer.headers["Retry-After"]
    assert answer.json["status"] == "queued"
    assert answer.json["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
    work()
    task = client.get(answer.headers["Location"], headers=as_ada).json
    assert (task["status"], task["percent"], task["model_version"]) == ("completed", 100.0, model[1])
    assert [entry["sentiment"] for entry in task["result"]] == ["positive", "negative"]
    assert task["summary"]["counts"] == {"negative": 1, "neutral": 0, "positive": 1}
    assert sum(task["summary"]["histogram"]) == 2
    again = client.get(f"/api/v1/sentiment/task/{task['task_id']}", headers=as_ada).json
    assert again == task


def test_items_keep_their_custom_ids(client, as_ada, work):
    items = [{"custom_id": "a", "text": "I love it"}, {"text": "no name"}]
    location = client.post(BATCH, json={"items": items}, headers=as_ada).headers["Location"]
    work()
    assert [entry["custom_id"] for entry in client.get(location, headers=as_ada).json["result"]] == ["a", None]


@pytest.mark.asvs("2.2.3")
@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/texts"),
        ({"texts": ["a"], "items": [{"text": "b"}]}, "/texts"),
        ({"texts": []}, "/texts"),
        ({"texts": ["fine", ""]}, "/texts/1"),
        ({"items": [{"custom_id": "x"}]}, "/items/0/text"),
        ({"texts": ["a"], "model": "nope"}, "/model"),
        ({"texts": ["a"], "webhook_url": "https://127.0.0.1/"}, "/webhook_url"),
    ],
)
def test_invalid_batch_is_refused_with_pointers(client, as_ada, body, pointer):
    answer = client.post(BATCH, json=body, headers=as_ada)
    assert answer.status_code == (404 if pointer == "/model" else 422)
    assert [entry["pointer"] for entry in answer.json["errors"]] == [pointer]


def test_results_equal_the_scorer_in_order(upload, work, fetch, small_chunks, lines):
    texts = [f"The {word} is not {other}" for word in ("food", "room", "staff") for other in ("good", "bad", "red")]
    task = upload(lines(*texts)).json
    work()
    answer = fetch(f"/{task['task_id']}/results", Accept=NDJSON)
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.mimetype == NDJSON
    assert [row["index"] for row in rows] == list(range(9))
    assert [row["custom_id"] for row in rows] == [f"row-{index}" for index in range(9)]
    scorer = serving().current().scorer
    for row, text in zip(rows, texts, strict=True):
        assert row["scores"] == scorer.score(text)._asdict()


def test_invalid_rows_fail_alone_with_their_line(upload, work, fetch):
    content = '{"text":"fine"}\n\n{"text":7}\nnot json\n[]\n"just a string"\n{"text":""}\n{"text":"a\\u0000b"}\n'
    task = upload(content).json
    assert task["request_counts"]["total"] == 7
    work()
    result = fetch(f"/{task['task_id']}").json
    assert result["request_counts"] == {"total": 7, "completed": 2, "failed": 5}
    errors = {entry["line"]: entry["error"] for entry in result["result"] if "error" in entry}
    assert set(errors) == {3, 4, 5, 7, 8}
    assert errors[4] == "The line is not valid JSON: invalid literal, expected 'null' (column 1)."


def test_csv_with_another_delimiter_column_and_encoding(upload, work, fetch):
    content = 'id;Bewertung\n1;"Sehr gut; süß"\n2;schlecht\n'.encode("cp1252")
    task = upload(content, CSV, "?column=Bewertung&id_column=id&encoding=cp1252").json
    work()
    assert [entry["custom_id"] for entry in fetch(f"/{task['task_id']}").json["result"]] == ["1", "2"]


def test_gzip_is_read_as_a_stream(upload, work, fetch, lines):
    task = upload(gzip.compress(lines("I love it", "bad").encode()), **{"Content-Encoding": "gzip"}).json
    work()
    assert fetch(f"/{task['task_id']}").json["request_counts"]["completed"] == 2


@pytest.mark.asvs("2.2.2")
@pytest.mark.parametrize(
    ("content", "kind", "query", "headers", "status", "message"),
    [
        ("", NDJSON, "", {}, 422, "no texts"),
        ("\n\n", NDJSON, "", {}, 422, "no texts"),
        ("text\n", CSV, "", {}, 422, "no texts"),
        ("a,b\n1,2\n", CSV, "", {}, 422, "Its columns are: a, b"),
        ("a,b\n1,2\n", CSV, "?column=c", {}, 422, "Its columns are: a, b"),
        ("text,b\n1,2\n", CSV, "?id_column=c", {}, 422, "Its columns are: text, b"),
        ("text\nx\n", CSV, "?delimiter=ab", {}, 422, "not acceptable"),
        ("x", NDJSON, "?encoding=nope", {}, 422, "is not known"),
        ("not valid gzip", NDJSON, "", {"Content-Encoding": "gzip"}, 400, "not valid gzip"),
        ("x", NDJSON, "", {"Content-Encoding": "br"}, 415, "gzip"),
        ("x", "text/plain", "", {}, 415, "text/csv"),
        ("x", NDJSON, "?columns=text", {}, 422, "Unknown field"),
        ("x", NDJSON, "", {"Idempotency-Key": "a b"}, 422, "visible ASCII"),
    ],
)
def test_unusable_upload_leaves_nothing(upload, fetch, content, kind, query, headers, status, message):
    answer = upload(content, kind, query, **headers)
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert message in answer.text
    assert fetch().json["items"] == []


@pytest.mark.asvs("2.3.2", "5.2.1")
def test_too_large_upload_leaves_nothing(make_app, as_ada, fetch, lines):
    rows = make_app(max_upload_rows=2).test_client()
    answer = rows.post(TASKS, data=lines("a", "b", "c"), content_type=NDJSON, headers=as_ada)
    shown = "The file has too many rows. The limit is 2 rows, including blank lines. Split it."
    assert (answer.status_code, answer.json["detail"]) == (413, shown)
    size = make_app(max_upload_bytes=1000).test_client()
    bomb = gzip.compress(lines("a" * 5000).encode())
    headers = {**as_ada, "Content-Encoding": "gzip"}
    assert size.post(TASKS, data=bomb, content_type=NDJSON, headers=headers).status_code == 413
    assert size.post(TASKS, data=lines("a" * 5000), content_type=NDJSON, headers=as_ada).status_code == 413
    assert fetch().json["items"] == []


def test_results_are_pages_of_json(upload, work, fetch, small_chunks, lines):
    task = upload(lines(*"abcdefg")).json
    work()
    first = fetch(f"/{task['task_id']}/results?limit=4").json
    assert [entry["index"] for entry in first["items"]] == [0, 1, 2, 3]
    second = fetch(f"/{task['task_id']}/results?limit=4&cursor={first['next_cursor']}").json
    assert [entry["index"] for entry in second["items"]] == [4, 5, 6]
    assert second["next_cursor"] is None


def test_csv_results_escape_formulas_and_can_be_resumed(client, as_ada, work, fetch):
    items = [{"custom_id": name, "text": "good"} for name in ("=1+1", "@x", "plain")]
    task = client.post(BATCH, json={"items": items}, headers=as_ada).json
    work()
    whole = fetch(f"/{task['task_id']}/results", Accept=CSV).text.split("\r\n")
    assert whole[0] == "index,line,custom_id,sentiment,confidence,negative,neutral,positive,coverage,warnings,error"
    assert [line.split(",")[2] for line in whole[1:4]] == ["'=1+1", "'@x", "plain"]
    rest = fetch(f"/{task['task_id']}/results?cursor=1", Accept=CSV).text.split("\r\n")
    assert rest[:1] == whole[3:4]


def test_results_of_running_task_end_before_unfinished_chunk(upload, fetch, small_chunks, lines, chunk_jobs):
    task = upload(lines(*"abcdefgh")).json
    first, second, third = chunk_jobs()
    executor.score_chunk(third)
    assert fetch(f"/{task['task_id']}/results?partial=true").json["items"] == []
    executor.score_chunk(first)
    running = fetch(f"/{task['task_id']}").json
    assert (running["status"], running["percent"]) == ("running", 62.5)
    assert running["seconds_left"] >= 0
    assert [entry["index"] for entry in fetch(f"/{task['task_id']}/results?partial=true").json["items"]] == [0, 1, 2]
    executor.score_chunk(second)
    assert fetch(f"/{task['task_id']}").json["status"] == "completed"


def test_cancelled_task_keeps_finished_results(client, as_ada, upload, work, fetch, small_chunks, lines, chunk_jobs):
    task = upload(lines(*"abcdefgh")).json
    executor.score_chunk(chunk_jobs()[1])
    cancelled = client.post(f"{TASKS}/{task['task_id']}/cancel", headers=as_ada)
    assert (cancelled.status_code, cancelled.json["status"]) == (200, "cancelled")
    work()
    assert [entry["index"] for entry in fetch(f"/{task['task_id']}/results?partial=true").json["items"]] == [3, 4, 5]
    assert client.post(f"{TASKS}/{task['task_id']}/cancel", headers=as_ada).status_code == 200


@pytest.mark.asvs("2.3.1")
def test_finished_task_cannot_be_cancelled(client, as_ada, upload, work, lines):
    task = upload(lines("a")).json
    work()
    answer = client.post(f"{TASKS}/{task['task_id']}/cancel", headers=as_ada)
    assert (answer.status_code, answer.json["type"]) == (409, "urn:sentiment-app:problem:task-state")


def test_deleted_task_is_gone(client, as_ada, upload, work, fetch, lines):
    task = upload(lines("a")).json
    assert client.delete(f"{TASKS}/{task['task_id']}", headers=as_ada).status_code == 204
    assert fetch(f"/{task['task_id']}").status_code == 404
    assert fetch().json["items"] == []
    work()  # its job finds nothing to do


@pytest.mark.parametrize(
    "method_and_path", ["GET ", "DELETE ", "POST /cancel", "POST /retry", "GET /results", "GET /events"]
)
def test_task_of_another_user_is_not_found(client, make_user, sign_in, upload, method_and_path, lines):
    task = upload(lines("a")).json["task_id"]
    method, _, path = method_and_path.partition(" ")
    answer = client.open(f"{TASKS}/{task}{path}", method=method, headers=sign_in(make_user("eve")))
    assert answer.status_code == 404


def test_tasks_are_listed_newest_first_and_by_status(upload, work, fetch, lines):
    first = upload(lines("a")).json["task_id"]
    work()
    second = upload(lines("b")).json["task_id"]
    assert [entry["task_id"] for entry in fetch().json["items"]] == [second, first]
    assert [entry["task_id"] for entry in fetch("?status=completed").json["items"]] == [first]
    page = fetch("?limit=1").json
    assert [entry["task_id"] for entry in fetch(f"?cursor={page['next_cursor']}").json["items"]] == [first]


@pytest.mark.asvs("2.3.2")
def test_quota_of_tasks_is_enforced(make_app, as_ada, lines):
    client = make_app(max_tasks=1).test_client()
    assert client.post(BATCH, json={"texts": ["a"]}, headers=as_ada).status_code == 202
    for answer in (
        client.post(BATCH, json={"texts": ["a"]}, headers=as_ada),
        client.post(TASKS, data=lines("a"), content_type=NDJSON, headers=as_ada),
    ):
        assert (answer.status_code, answer.json["type"]) == (429, "urn:sentiment-app:problem:too-many-tasks")
        assert answer.headers["Retry-After"] == "30"


@pytest.mark.asvs("2.3.2")
def test_quota_of_rows_is_enforced(make_app, as_ada):
    client = make_app(max_queued_rows=3).test_client()
    assert client.post(BATCH, json={"texts": ["a"] * 3}, headers=as_ada).status_code == 202
    assert client.post(BATCH, json={"texts": ["a"]}, headers=as_ada).status_code == 429


def test_idempotency_key_creates_one_task(client, as_ada, upload, fetch):
    headers = {**as_ada, "Idempotency-Key": str(uuid4())}
    first, second = (client.post(BATCH, json={"texts": ["a"]}, headers=headers) for _ in range(2))
    assert (second.status_code, second.json) == (first.status_code, first.json)
    other = client.post(BATCH, json={"texts": ["b"]}, headers=headers)
    assert (other.status_code, other.json["type"]) == (422, "urn:sentiment-app:problem:idempotency-key-reused")
    assert len(fetch().json["items"]) == 1


def test_idempotency_key_works_for_uploads(upload, fetch, lines):
    key = {"Idempotency-Key": "my-upload"}
    first = upload(lines("a", "b"), **key)
    assert upload(lines("a", "b"), **key).json["task_id"] == first.json["task_id"]
    assert upload(lines("a", "c"), **key).status_code == 422
    assert upload(lines("a", "b"), **{"Idempotency-Key": "other"}).json["task_id"] != first.json["task_id"]


def test_idempotency_key_is_refused_during_first_request(app, ada, upload, model, lines):
    submission.open_task(submission.Submission(ada.id, idempotency_key="busy"), model[1])
    answer = upload(lines("a"), **{"Idempotency-Key": "busy"})
    assert (answer.status_code, answer.json["type"]) == (409, "urn:sentiment-app:problem:idempotency-in-progress")


def test_refused_request_frees_its_idempotency_key(upload, lines):
    key = {"Idempotency-Key": "again"}
    assert upload("", **key).status_code == 422
    assert upload(lines("a"), **key).status_code == 202


def test_idempotency_key_expires_after_a_day(upload, ada, lines):
    key = {"Idempotency-Key": "old"}
    first = upload(lines("a"), **key).json["task_id"]
    age(first, days=2)
    assert upload(lines("b"), **key).json["task_id"] != first


def test_metrics_count_rows_of_tasks(client, upload, work, model):
    upload("text\nI love it\nwonderful\nI hate it\n", "text/csv")
    work()
    arrived = {"gunicorn.socket": SimpleNamespace(getsockname=lambda: ("127.0.0.1", 9464))}
    lines = client.get("/metrics", environ_overrides=arrived).text.splitlines()
    assert f'sentiment_task_rows{{model_version="{model[1]}",sentiment="positive"}} 2.0' in lines
    assert f'sentiment_task_rows{{model_version="{model[1]}",sentiment="negative"}} 1.0' in lines


@pytest.mark.parametrize("value", ["{}", "[]", '{"a":[]}'])
def test_large_body_with_too_many_values_is_refused(client, as_ada, value):
    body = '{"texts":[' + ",".join([value] * 400_000) + "]}"
    answer = client.post(BATCH, data=body, content_type="application/json", headers=as_ada)
    assert (answer.status_code, answer.json["detail"]) == (422, "The body has too many values. The limit is 60,000.")


def test_endless_string_in_large_body_takes_linear_time(client, as_ada):
    started = time.process_time()
    body = "[" * 30_000 + '"' + r"\"" * 1_000_000
    assert client.post(BATCH, data=body, content_type="application/json", headers=as_ada).status_code == 400
    assert time.process_time() - started < 60  # it would take hours if each quote started a new search


def test_braces_in_texts_do_not_count_as_values(client, as_ada):
    texts = [r'{"quoted": [[[[["' + "{[" * 100] * 6000
    assert client.post(BATCH, json={"texts": texts}, headers=as_ada).status_code == 202


def test_charset_of_content_type_is_used(upload, work, fetch):
    file = "text\nfine\n".encode("utf-16-le")  # without a byte order mark, so it cannot be detected
    task = upload(file, "text/csv; charset=UTF-16LE").json["task_id"]
    work()
    assert fetch(f"/{task}").json["request_counts"]["completed"] == 1
    assert upload(file, "text/csv; charset=nonsense").json["errors"][0]["pointer"] == "/encoding"


@pytest.mark.parametrize("kind", ["application/ndjson", "application/jsonl"])
def test_other_media_types_of_ndjson_are_accepted(upload, work, fetch, lines, kind):
    task = upload(lines("a", "b"), kind).json["task_id"]
    work()
    assert len(fetch(f"/{task}/results", Accept=kind).text.splitlines()) == 2


@pytest.mark.asvs("15.2.2")
def test_large_bodies_are_limited(client, as_ada, full):
    body = {"texts": ["x" * 15_000] * 100}
    with full(BODY_LIMIT.get(client.application)):
        answer = client.post(BATCH, json=body, headers=as_ada)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert client.post(BATCH, json={"texts": ["x"]}, headers=as_ada).status_code == 202
    assert client.post(BATCH, json=body, headers=as_ada).status_code == 202
