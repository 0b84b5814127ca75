"""Batch scoring through Nginx while processes die, and rate limits without Valkey."""

import io
import json

import pytest
import xlsxwriter
from conftest import Api, main_process


def test_file_is_scored_completely_after_worker_is_killed(host, api):
    rows = 300_000
    task = api.upload(rows)
    begun = api.wait(task, lambda shown: shown["request_counts"]["completed"] > 0)
    host.run(f"kill -9 {main_process(host, 'sentiment-worker@1.service')}")
    assert begun["request_counts"]["completed"] < rows
    ended = api.wait(task)
    assert (ended["status"], ended["request_counts"]["completed"]) == ("completed", rows)
    found = [json.loads(line) for line in api.results(task)]
    assert [entry["index"] for entry in found] == list(range(rows))
    assert [entry["custom_id"] for entry in found] == [Api.name(number) for number in range(rows)]
    assert {entry["sentiment"] for entry in found} == {"positive"}


@pytest.mark.asvs("15.2.5")
def test_workbook_is_read_and_results_are_written_inside_the_sandbox(api):
    content = io.BytesIO()
    with xlsxwriter.Workbook(content, {"in_memory": True}) as book:
        sheet = book.add_worksheet("Reviews")
        for number in range(2000):
            sheet.write_row(number, 0, ["text", "stars"] if number == 0 else [f"A lovely day, number {number}.", 5])
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    answer = api.client.post(
        "/api/v1/sentiment/tasks?keep=columns", content=content.getvalue(), headers={"Content-Type": kind}
    )
    assert answer.status_code == 202, answer.text
    task = answer.json()["task_id"]
    assert api.wait(task)["request_counts"] == {"total": 1999, "completed": 1999, "failed": 0}
    for accepted, start in ((kind, b"PK"), ("application/vnd.apache.parquet", b"PAR1")):
        path = f"/api/v1/sentiment/tasks/{task}/results?include=text,columns"
        results = api.client.get(path, headers={"Accept": accepted}).raise_for_status()
        assert (results.headers["Content-Type"], results.content[: len(start)]) == (accepted, start)
        assert len(results.content) > 20_000


def test_idempotency_key_creates_one_task(api):
    body = {"texts": ["A lovely day."]}
    answers = [api.client.post("/api/v1/sentiment/analyze/batch", json=body, headers=api.key) for _ in range(2)]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["task_id"] for answer in answers}) == 1


def test_rate_limits_hold_without_valkey(host, api):
    limit = 300  # USER_RATE_LIMIT per minute; without Valkey each process counts separately
    processes = int(host.run("pgrep -c -f 'gunicorn.*--preload'").stdout)
    host.run("systemctl stop valkey-server.service")
    try:
        answers = [api.client.get("/api/v1/users/me") for _ in range(limit * processes + 1)]
    finally:
        host.run("systemctl start valkey-server.service")
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["Retry-After"]) > 0
