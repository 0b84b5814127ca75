"""Races between requests and workers: retries, quotas, downloads and finishing tasks."""

import json
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from sentiment_app.files.rows import Row
from sentiment_app.infrastructure.database import db
from sentiment_app.ml.runtime import Scorer
from sentiment_app.registry import promotion, releases
from sentiment_app.registry.models import ModelRelease
from sentiment_app.registry.serving import NoModelError, Serving, UnknownModelError, serving
from sentiment_app.tasks import chunks, executor, lifecycle, quotas, reconciler, render, retention, service, submission
from sentiment_app.tasks.models import Chunk, Task
from sentiment_app.webhooks import outbox

BATCH, TASKS = "/api/v1/sentiment/analyze/batch", "/api/v1/sentiment/tasks"
NDJSON, CSV = "application/x-ndjson", "text/csv"


@pytest.fixture
def troubled(monkeypatch):
    """A model that cannot score texts with the word trouble. `troubled.undo()` repairs it."""
    assess_many = Scorer.assess_many

    def score(self, texts):
        if any("trouble" in text for text in texts):
            raise ValueError
        return assess_many(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "assess_many", score)
        yield patch


@pytest.fixture
def task_of(client, work):
    """Submits texts for the user with these headers, and waits until the task has ended."""

    def make(headers, *texts):
        task = client.post(BATCH, json={"texts": list(texts)}, headers=headers).json["task_id"]
        work()
        return task

    return make


def rows_of(task_id):
    """A task and its chunks, every column."""
    found = []
    for table, key in ((Task.__table__, Task.id), (Chunk.__table__, Chunk.task_id)):
        found += db.session.execute(select(table).where(key == UUID(task_id)).order_by(table.c.id)).all()
    return found


@pytest.mark.asvs("8.4.1")
def test_retry_reopens_only_its_own_task(client, as_ada, make_user, sign_in, task_of, troubled, work):
    bob = sign_in(make_user("bob"))
    others = [task_of(headers, "good", "trouble") for headers in (as_ada, bob)]
    own = task_of(bob, "trouble", "bad")
    before = [rows_of(task) for task in others]
    assert client.post(f"{TASKS}/{own}/retry", headers=bob).status_code == 202
    troubled.undo()
    work()
    assert [rows_of(task) for task in others] == before
    assert client.get(f"{TASKS}/{own}", headers=bob).json["request_counts"]["completed"] == 2


@pytest.mark.asvs("2.3.1")
def test_retry_of_successful_task_is_refused(client, as_ada, task_of, troubled):
    task_of(as_ada, "trouble")
    sound = task_of(as_ada, "good")
    answer = client.post(f"{TASKS}/{sound}/retry", headers=as_ada)
    assert (answer.status_code, answer.json["type"]) == (409, "urn:sentiment-app:problem:task-state")


@pytest.fixture
def retried_while_read(client, as_ada, upload, lines, work, troubled, small_chunks, monkeypatch):
    """A task of two chunks, which is retried after its first chunk was read."""
    task = upload(lines("a", "b", "c", "trouble", "e", "f")).json["task_id"]
    work()
    read, calls = service._read, []

    def read_and_retry(*arguments):
        rows = read(*arguments)
        if not calls:
            calls.append(service.retry(None, UUID(task)))
        return rows

    monkeypatch.setattr(service, "_read", read_and_retry)
    return task


@pytest.mark.parametrize("kind", [NDJSON, CSV])
def test_download_breaks_off_when_task_is_retried(fetch, retried_while_read, kind, monkeypatch):
    monkeypatch.setattr(render, "PIECE_ROWS", 1)
    answer = fetch(f"/{retried_while_read}/results", Accept=kind)
    assert answer.status_code == 200
    with pytest.raises(ConnectionResetError):
        answer.get_data()


@pytest.mark.parametrize("kind", ["application/json", NDJSON, CSV])
def test_results_answer_409_if_task_is_retried_before_first_byte(fetch, retried_while_read, kind):
    answer = fetch(f"/{retried_while_read}/results", Accept=kind)
    assert (answer.status_code, answer.json["type"]) == (409, "urn:sentiment-app:problem:results-changed")
    assert (
        fetch(f"/{retried_while_read}/results?partial=true").json["next_cursor"] == 2
    )  # and now the task is unfinished


def test_task_retried_while_read_has_no_results(fetch, retried_while_read):
    shown = fetch(f"/{retried_while_read}").json
    assert shown["status"] == "queued"
    assert "result" not in shown


def test_download_after_retry_ends_before_unfinished_chunk(
    client, as_ada, fetch, upload, lines, work, troubled, small_chunks
):
    task = upload(lines("a", "b", "c", "trouble", "e", "f")).json["task_id"]
    work()
    client.post(f"{TASKS}/{task}/retry", headers=as_ada)
    answer = fetch(f"/{task}/results?partial=true", Accept=NDJSON)
    assert [json.loads(line)["index"] for line in answer.text.splitlines()] == [0, 1, 2]


def test_rate_of_retried_task_counts_rows_of_current_run(
    client, as_ada, fetch, upload, lines, work, troubled, small_chunks, chunk_jobs
):
    task = upload(lines(*["fine"] * 9, "trouble", "trouble", "trouble", "trouble")).json["task_id"]
    work()
    client.post(f"{TASKS}/{task}/retry", headers=as_ada)
    troubled.undo()
    waiting = fetch(f"/{task}").json
    assert (waiting["rows_per_second"], waiting["seconds_left"]) == (None, None)
    executor.score_chunk(UUID(chunk_jobs()[0]))
    db.session.execute(update(Task).values(started_at=func.now() - timedelta(seconds=10)))
    running = fetch(f"/{task}").json
    assert running["status"] == "running"
    assert 0 < running["rows_per_second"] <= 3 / 10
    work()
    db.session.execute(update(Task).values(started_at=Task.finished_at - timedelta(seconds=1)))
    assert fetch(f"/{task}").json["rows_per_second"] == 4.0


def test_percent_is_100_only_when_all_rows_are_done(fetch, upload, lines, chunk_jobs):
    task = upload(lines("a")).json["task_id"]
    chunks.claim(UUID(chunk_jobs()[0]), UUID(int=1))
    values = {"state": "done", "completed": 99_999, "token": None}
    db.session.execute(update(Chunk).values(values))
    db.session.execute(update(Task).values(total=100_000))
    assert fetch(f"/{task}").json["percent"] == 99.99


def test_concurrent_uploads_share_the_quota_of_rows(make_app, ada, model):
    with make_app(max_queued_rows=1_000).app_context():
        tasks = [submission.open_task(submission.Submission(ada.id), model[1]) for _ in range(3)]
        items = [Row(1, None, "a")] * 450
        for task in tasks[:2]:
            submission._add_chunk(UUID(int=task.int + 1), ada.id, task, 0, items)
        with pytest.raises(quotas.TooManyTasksError):
            submission._add_chunk(UUID(int=tasks[2].int + 1), ada.id, tasks[2], 0, items)
        with pytest.raises(quotas.TooManyTasksError):
            submission._add_chunk(UUID(int=tasks[0].int + 2), ada.id, tasks[0], 450, items)
        submission._add_chunk(UUID(int=tasks[0].int + 2), ada.id, tasks[0], 450, items[:100])


def test_upload_over_quota_leaves_nothing(make_app, as_ada, fetch, lines, small_chunks):
    client = make_app(max_queued_rows=6).test_client()
    send = {"content_type": NDJSON, "headers": as_ada}
    alone = client.post(TASKS, data=lines(*"abcdefg"), **send)
    assert (alone.status_code, alone.json["detail"]) == (
        413,
        "The task has too many rows. The limit is 6 rows. Split it.",
    )
    assert client.post(TASKS, data=lines(*"abcd"), **send).status_code == 202
    refused = client.post(TASKS, data=lines(*"abc"), **send)
    assert (refused.status_code, refused.json["type"]) == (429, "urn:sentiment-app:problem:too-many-tasks")
    assert len(fetch().json["items"]) == 1


def test_replay_finds_task_that_failed_during_upload(upload, lines, monkeypatch):
    key = {"Idempotency-Key": "unlucky"}
    close = submission._close

    def fail_first(task_id, *arguments):
        lifecycle.fail(task_id, "The model is gone.")
        close(task_id, *arguments)

    monkeypatch.setattr(submission, "_close", fail_first)
    first = upload(lines("a"), **key)
    assert (first.status_code, first.json["status"]) == (202, "failed")
    assert upload(lines("a"), **key).json == first.json
    assert upload(lines("b"), **key).status_code == 422


def test_finish_checks_again_under_the_lock(client, as_ada, task_of, troubled, monkeypatch):
    """Between the first check and the lock, another worker finished the task, and its user retried it."""
    task = UUID(task_of(as_ada, "trouble"))
    assert client.post(f"{TASKS}/{task}/retry", headers=as_ada).status_code == 202
    look, looks = lifecycle._has_nothing_left, []

    def stale_at_first(task_id):
        looks.append(look(task_id))
        return True if len(looks) == 1 else looks[-1]

    monkeypatch.setattr(lifecycle, "_has_nothing_left", stale_at_first)
    assert lifecycle.finish(task) is False
    assert db.session.get(Task, task, populate_existing=True).status == "queued"


def test_unknown_model_names_do_not_use_the_loading_limit(app, full, model):
    with full(serving().loading), pytest.raises(UnknownModelError):
        serving().pinned("no-such-model")


def test_events_of_deleted_task_end(client, as_ada, upload, lines):
    task = upload(lines("a")).json["task_id"]
    stream = iter(client.get(f"{TASKS}/{task}/events", headers=as_ada, buffered=False).response)
    for _ in range(2):
        next(stream)
    client.delete(f"{TASKS}/{task}", headers=as_ada)
    shown = b"".join(stream).decode()
    assert "event: end" in shown
    assert json.loads(shown.rpartition("data: ")[2]) == {"task_id": task, "status": "deleted"}


def test_retired_model_is_not_served_if_successor_does_not_load(client, as_ada, model):
    manifest = json.loads(model[0].manifest) | {"version": "20990101-second00"}
    second = releases.release(model[0]._replace(manifest=json.dumps(manifest).encode()), by="tests")
    serving().refresh()
    promotion.activate(second, by="tests")
    db.session.execute(update(ModelRelease).values(artifact=b"corrupt"))
    promotion.retire(model[1], by="tests")
    answer = client.post("/api/v1/sentiment/analyze", json={"text": "x"}, headers=as_ada)
    assert (answer.status_code, answer.json["type"]) == (503, "urn:sentiment-app:problem:no-model")


def test_interrupted_upload_of_failed_task_is_given_up(app, ada, model, upload, lines, fetch):
    task = submission.open_task(submission.Submission(ada.id, idempotency_key="k"), model[1])
    submission._add_chunk(UUID(int=task.int + 1), ada.id, task, 0, [Row(1, None, "a"), Row(2, None, "b")])
    lifecycle.fail(task, "The model is gone.")
    assert upload(lines("a", "b", "c"), **{"Idempotency-Key": "k"}).status_code == 409  # it may still be running
    assert fetch(f"/{task}").status_code == 404
    db.session.execute(update(Task).values(touched_at=func.now() - timedelta(hours=1)))
    assert reconciler.reconcile()["uploads"] == 1
    assert upload(lines("a", "b", "c"), **{"Idempotency-Key": "k"}).status_code == 202


def test_kept_rows_do_not_count_for_the_rate(client, as_ada, upload, lines, work, fetch, troubled):
    task = upload(lines(*["fine"] * 99, "trouble")).json["task_id"]
    work()
    client.post(f"{TASKS}/{task}/retry", headers=as_ada)
    troubled.undo()
    work()
    db.session.execute(update(Task).values(started_at=Task.finished_at - timedelta(seconds=1)))
    assert fetch(f"/{task}").json["rows_per_second"] == 1.0


def test_download_breaks_off_after_a_whole_run(fetch, upload, lines, work, troubled, small_chunks, monkeypatch):
    task = upload(lines("a", "b", "trouble", "trouble", "e", "f")).json["task_id"]
    work()
    read, calls = service._read, []

    def read_and_rerun(*arguments):
        rows = read(*arguments)
        if not calls:
            calls.append(service.retry(None, UUID(task)))
            troubled.undo()
            work()
        return rows

    monkeypatch.setattr(service, "_read", read_and_rerun)
    assert fetch(f"/{task}/results", Accept=NDJSON).status_code == 409


def test_deleted_task_is_not_finished_or_announced(upload, lines, chunk_jobs):
    task = UUID(upload(lines("a")).json["task_id"])
    db.session.execute(update(Task).values(webhook_url="https://example.org/"))
    service._mark_deleted(task)
    retention._delete_some_chunks(task)
    assert lifecycle.finish(task) is False
    assert outbox.find(task) == []


def test_long_texts_after_short_texts_are_scored_in_small_slices():
    texts = ["short"] * 256 + ["long" * 1000] * 256
    assert executor.slice_indexes(texts, range(256, 512), 2 * 5 * 256) == range(256, 257)
    assert executor.slice_indexes(texts, range(256), 10) == range(2)
    assert executor.slice_indexes(texts, [], 10) == []


def test_task_ends_without_active_model(client, as_ada, upload, lines, chunk_jobs, fetch, monkeypatch):
    task = upload(lines("a")).json["task_id"]
    db.session.execute(update(Task).values(started_at=func.now() - timedelta(hours=2)))
    monkeypatch.setattr(Serving, "pinned", raise_no_model)
    executor.score_chunk(UUID(chunk_jobs()[0]))
    assert fetch(f"/{task}").json["status"] == "failed"


def raise_no_model(*_):
    raise NoModelError


def test_named_model_needs_no_active_model(client, as_ada, model, monkeypatch):
    db.session.execute(update(ModelRelease).values(state="candidate"))
    body = {"text": "x", "model": model[1]}
    assert client.post("/api/v1/sentiment/analyze", json=body, headers=as_ada).status_code == 200
