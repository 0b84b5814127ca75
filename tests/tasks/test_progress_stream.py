"""Requests that wait: Prefer: wait, and Server-Sent Events."""

import json
import time
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest

from sentiment_app.errors import UnavailableError
from sentiment_app.infrastructure.concurrency import ConcurrencyLimit
from sentiment_app.tasks import executor, progress_stream, schemas, service, submission
from sentiment_app.tasks.downloads import DOWNLOADS
from sentiment_app.tasks.routes import WAITING
from sentiment_app.tasks.upload import UPLOADS

BATCH, TASKS = "/api/v1/sentiment/analyze/batch", "/api/v1/sentiment/tasks"


@pytest.fixture
def scored_meanwhile(monkeypatch, chunk_jobs):
    """Scores what is queued while a request sleeps."""

    def sleep(_seconds):
        for job in chunk_jobs():
            executor.score_chunk(UUID(job))

    monkeypatch.setattr(time, "sleep", sleep)


@pytest.fixture
def never_at_once(monkeypatch):
    monkeypatch.setattr(submission, "AT_ONCE_ROWS", 0)


@pytest.mark.usefixtures("never_at_once")
@pytest.mark.parametrize("prefer", ["wait=5", "respond-async, wait=5", 'wait="5"'])
def test_prefer_wait_returns_results(client, as_ada, scored_meanwhile, prefer):
    answer = client.post(BATCH, json={"texts": ["I love it"]}, headers={**as_ada, "Prefer": prefer})
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "wait=5")
    assert answer.json["result"][0]["sentiment"] == "positive"


@pytest.mark.usefixtures("never_at_once")
def test_prefer_wait_returns_task_after_timeout(client, as_ada, monkeypatch):
    clock, waits = [1000.0], []

    def sleep(seconds):
        clock[0] += seconds
        waits.append(seconds)

    monkeypatch.setattr(service, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    answer = client.post(BATCH, json={"texts": ["I love it"]}, headers={**as_ada, "Prefer": "wait=7"})
    assert (answer.status_code, answer.json["status"]) == (202, "queued")
    assert 6 < sum(waits) <= 7


def test_prefer_wait_is_limited_to_thirty_seconds(client, as_ada, scored_meanwhile):
    answer = client.post(BATCH, json={"texts": ["a"]}, headers={**as_ada, "Prefer": "wait=9999"})
    assert answer.headers["Preference-Applied"] == "wait=30"


@pytest.mark.usefixtures("never_at_once")
def test_prefer_wait_is_ignored_if_waiting_limit_is_reached(app, client, as_ada, monkeypatch):
    full = ConcurrencyLimit(1, UnavailableError)
    WAITING.set(app, full)
    with full.try_admit(uuid4()):
        answer = client.post(BATCH, json={"texts": ["a"]}, headers={**as_ada, "Prefer": "wait=20"})
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers


def parse(text):
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


@pytest.fixture
def task(upload, lines, small_chunks):
    return upload(lines(*"abcde")).json["task_id"]


def test_events_show_progress_and_end_with_the_task(client, as_ada, task, chunk_jobs, monkeypatch):
    first, second = chunk_jobs()
    left = iter([first, second])
    monkeypatch.setattr(time, "sleep", lambda _: executor.score_chunk(UUID(next(left))))
    answer = client.get(f"{TASKS}/{task}/events", headers=as_ada)
    assert (answer.mimetype, answer.headers["X-Accel-Buffering"]) == ("text/event-stream", "no")
    shown = parse(answer.text)
    assert [entry.get("retry") for entry in shown] == ["3000", None, None]
    assert [entry["event"] for entry in shown] == ["progress", "progress", "end"]
    assert [json.loads(entry["data"])["percent"] for entry in shown] == [0.0, 60.0, 100.0]


def test_events_resume_after_last_event_id(client, as_ada, task, work):
    work()
    whole = parse(client.get(f"{TASKS}/{task}/events", headers=as_ada).text)
    headers = {**as_ada, "Last-Event-ID": whole[-1]["id"]}
    assert client.get(f"{TASKS}/{task}/events", headers=headers).status_code == 204
    headers["Last-Event-ID"] = "queued-0-0"
    assert parse(client.get(f"{TASKS}/{task}/events", headers=headers).text)[-1]["event"] == "end"


def test_events_return_current_state_if_waiting_limit_is_reached(app, client, as_ada, task, monkeypatch):
    full = ConcurrencyLimit(1, UnavailableError)
    WAITING.set(app, full)
    with full.try_admit(uuid4()):
        shown = parse(client.get(f"{TASKS}/{task}/events", headers=as_ada).text)
    assert [entry.get("event") for entry in shown] == ["progress"]


def test_event_connection_ends_after_hold_time(client, as_ada, task, monkeypatch):
    monkeypatch.setattr(progress_stream, "HOLD_SECONDS", 0.2)
    monkeypatch.setattr(progress_stream, "POLL_SECONDS", 0.1)
    answer = client.get(f"{TASKS}/{task}/events", headers=as_ada)
    assert "keep-alive" in answer.text


def test_closed_connection_frees_its_slot(app, client, as_ada, task, monkeypatch):
    holding = ConcurrencyLimit(1, UnavailableError)
    WAITING.set(app, holding)
    answer = client.get(f"{TASKS}/{task}/events", headers=as_ada, buffered=False)
    next(iter(answer.response))
    answer.close()
    with holding.try_admit(uuid4()) as has_room:
        assert has_room


@pytest.mark.asvs("15.2.2")
def test_uploads_are_limited(app, upload, lines, monkeypatch):
    full = ConcurrencyLimit(1, UnavailableError)
    UPLOADS.set(app, full)
    with full.try_admit(uuid4()):
        answer = upload(lines("a"))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert upload(lines("a")).status_code == 202


@pytest.mark.asvs("15.2.2")
def test_downloads_are_limited(app, fetch, task, work, monkeypatch):
    work()
    room = ConcurrencyLimit(1, UnavailableError)
    DOWNLOADS.set(app, room)
    for kind in ("application/x-ndjson", "text/csv"):
        with room.try_admit(uuid4()):
            answer = fetch(f"/{task}/results", Accept=kind)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        first = fetch(f"/{task}/results", Accept=kind)
        assert first.status_code == 200
        first.close()
    assert fetch(f"/{task}/results").status_code == 200  # pages of JSON are short


def test_prefer_wait_returns_many_results(client, as_ada, scored_meanwhile):
    body = {"texts": ["I love it"] * 1500}
    answer = client.post(BATCH, json=body, headers={**as_ada, "Prefer": "wait=30"})
    assert (answer.status_code, len(answer.json["result"])) == (200, 1500)


def test_prefer_wait_links_to_results_of_long_file(upload, lines, scored_meanwhile, monkeypatch):
    monkeypatch.setattr(schemas, "MAX_ITEMS", 2)
    answer = upload(lines(*"abc"), Prefer="wait=5")
    assert (answer.status_code, answer.json["status"]) == (202, "completed")
    assert answer.headers["Location"]


def test_upload_that_waits_for_its_task_holds_no_place(app, upload, lines, chunk_jobs, monkeypatch):
    UPLOADS.set(app, ConcurrencyLimit(1, UnavailableError))
    admitted = []

    def sleep(_seconds):
        with UPLOADS.get(app).try_admit() as is_admitted:
            admitted.append(is_admitted)
        executor.score_chunk(UUID(chunk_jobs()[0]))

    monkeypatch.setattr(time, "sleep", sleep)
    assert upload(lines("a"), Prefer="wait=5").json["status"] == "completed"
    assert admitted == [True]
