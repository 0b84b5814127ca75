"""Results of tasks that run or have expired."""

import csv
import io
import json
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, update

from sentiment_app import maintenance
from sentiment_app.infrastructure.database import db
from sentiment_app.tasks import executor
from sentiment_app.tasks.models import Chunk, Task


def test_expired_task_keeps_its_counts(upload, lines, work, fetch):
    task = upload(lines("a", "")).json["task_id"]
    work()
    db.session.execute(update(Task).values(expires_at=func.now() - timedelta(1)))
    maintenance.purge()
    assert fetch(f"/{task}").json["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    gone = fetch(f"/{task}/results")
    assert (gone.status_code, gone.json["type"]) == (410, "urn:sentiment-app:problem:expired")


def test_pages_of_running_task_continue(upload, lines, chunk_jobs, fetch, small_chunks):
    task = upload(lines(*"abcdefgh")).json["task_id"]
    assert fetch(f"/{task}/results?partial=true").json == {"items": [], "next_cursor": -1}
    executor.score_chunk(UUID(chunk_jobs()[0]))
    assert fetch(f"/{task}/results?partial=true").json["next_cursor"] == 2


@pytest.mark.asvs("2.3.1")
@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson", "text/csv"])
def test_results_of_task_that_is_not_completed_are_refused(
    client, as_ada, upload, lines, chunk_jobs, fetch, small_chunks, kind
):
    task = upload(lines(*"abcdefgh")).json["task_id"]
    executor.score_chunk(UUID(chunk_jobs()[0]))
    for status, then in (("running", "Wait until it has completed"), ("cancelled", "Retry the task")):
        answer = fetch(f"/{task}/results", Accept=kind)
        assert (answer.status_code, answer.json["type"]) == (409, "urn:sentiment-app:problem:task-not-completed")
        assert answer.json["detail"].startswith(f"The task is {status}, and 3 of 8 rows are done. {then}")
        client.post(f"/api/v1/sentiment/tasks/{task}/cancel", headers=as_ada)
    assert fetch(f"/{task}/results?partial=true").json["items"][2]["index"] == 2


@pytest.mark.parametrize(
    ("custom_id", "escaped"),
    [
        *(("-17", "-17"), ("+49 170 123", "+49 170 123"), ("=1+1", "'=1+1"), ("＝1", "'＝1"), ("-1+1", "'-1+1")),
        *(("@x", "'@x"), ("\tx", "'\tx"), ("a", "a")),
    ],
)
def test_ids_come_back_as_given_unless_a_spreadsheet_would_run_them(upload, work, fetch, custom_id, escaped):
    task = upload(json.dumps({"text": "fine", "custom_id": custom_id})).json["task_id"]
    work()
    for query, expected in (("", escaped), ("?formulas=raw", custom_id)):
        answer = fetch(f"/{task}/results{query}", Accept="text/csv").text
        assert [row["custom_id"] for row in csv.DictReader(io.StringIO(answer, newline=""))] == [expected]


def test_each_row_has_its_coverage_and_warnings_and_the_summary_counts_them(upload, lines, work, fetch):
    task = upload(lines("I love this phone", "Zażółć gęślą jaźń", "")).json["task_id"]
    work()
    shown = fetch(f"/{task}").json
    assert shown["summary"]["warnings"] == {"low-coverage": 1, "other-language": 0}
    english, polish, empty = shown["result"]
    assert (english["coverage"], "warnings" in english) == (1.0, False)
    assert polish["coverage"] < 0.5
    assert [warning["code"] for warning in polish["warnings"]] == ["low-coverage"]
    assert "coverage" not in empty
    table = fetch(f"/{task}/results", Accept="text/csv").text
    rows = list(csv.DictReader(io.StringIO(table, newline="")))
    assert [row["warnings"] for row in rows] == ["", "low-coverage", ""]
    assert [row["coverage"] for row in rows] == ["1.0", "0.0", ""]


def test_coverage_is_the_same_as_for_a_single_text(client, as_ada, upload, lines, work, fetch):
    text = "The staff was lovely, aber das Zimmer war klein"
    task = upload(lines(text)).json["task_id"]
    work()
    (row,) = fetch(f"/{task}").json["result"]
    single = client.post("/api/v1/sentiment/analyze", json={"text": text}, headers=as_ada).json
    assert row["coverage"] == pytest.approx(single["coverage"], abs=1e-6)
    assert row["scores"] == single["scores"]


def test_results_that_the_previous_release_stored_have_no_coverage(upload, lines, work, fetch):
    task = upload(lines("I love it")).json["task_id"]
    work()
    db.session.execute(update(Chunk).values(coverage=None))
    (row,) = fetch(f"/{task}").json["result"]
    assert row["sentiment"] == "positive"
    assert "coverage" not in row
