"""Leases, lost jobs, poison, retries: what the engine does when a worker is not there at the end."""

import json
from datetime import timedelta
from types import SimpleNamespace
from uuid import UUID, uuid4

import numpy as np
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from sentiment_app import maintenance
from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import REDIS, queue
from sentiment_app.ml.runtime import Scorer
from sentiment_app.registry import promotion, releases
from sentiment_app.registry.serving import NoModelError, Serving, UnusableModelError, serving
from sentiment_app.tasks import chunks, executor, lifecycle, metrics, reconciler, service, submission
from sentiment_app.tasks.models import Chunk, Task


def chunk(chunk_id):
    return db.session.get(Chunk, UUID(chunk_id), populate_existing=True)


def let_leases_run_out():
    db.session.execute(update(Chunk).where(Chunk.state == "running").values(lease_until=func.now() - timedelta(1)))


def outcome(fetch, task):
    rows = [json.loads(line) for line in fetch(f"/{task}/results", Accept="application/x-ndjson").text.splitlines()]
    return [(row["index"], row.get("sentiment"), row.get("error")) for row in rows]


def test_chunk_is_claimed_once(upload, lines, chunk_jobs):
    upload(lines("a"))
    (one,) = chunk_jobs()
    assert chunks.claim(UUID(one), uuid4()) is not None
    assert chunks.claim(UUID(one), uuid4()) is None


def test_job_that_runs_twice_scores_once(upload, lines, chunk_jobs, monkeypatch):
    upload(lines("a"))
    (one,) = chunk_jobs()
    executor.score_chunk(UUID(one))
    before = chunk(one).token
    executor.score_chunk(UUID(one))
    assert chunk(one).token == before


def test_worker_with_lost_lease_cannot_store(upload, lines, chunk_jobs):
    upload(lines("a"))
    (one,) = chunk_jobs()
    late = chunks.claim(UUID(one), uuid4())
    let_leases_run_out()
    assert chunks.claim(UUID(one), uuid4()) is not None
    assert chunks.store(late, np.zeros((1, 3)), {}) is False
    assert chunk(one).state == "running"


class SlowModel:
    """Takes some seconds for each text, by a clock that only it moves; counts the texts."""

    def __init__(self):
        self.now, self.seconds, self.texts = 1000.0, 0.05, 0

    def score_many(self, texts):
        self.now += self.seconds * len(texts)
        self.texts += len(texts)
        return np.full((len(texts), 3), 1 / 3)


@pytest.fixture
def slow_model(monkeypatch):
    model = SlowModel()
    monkeypatch.setattr(executor, "time", SimpleNamespace(monotonic=lambda: model.now))
    monkeypatch.setattr(Scorer, "score_many", lambda _, texts: model.score_many(texts))
    return model


@pytest.mark.parametrize("seconds", [0.05, 0.5, 1.9])
def test_slow_model_keeps_its_lease(upload, lines, chunk_jobs, slow_model, monkeypatch, seconds):
    slow_model.seconds = seconds
    upload(lines(*["a"] * 500))
    (one,) = chunk_jobs()
    renew, renewals = chunks.renew_lease, [slow_model.now]

    def noted(*arguments):
        renewals.append(slow_model.now)
        return renew(*arguments)

    monkeypatch.setattr(chunks, "renew_lease", noted)
    executor.score_chunk(UUID(one))
    assert (chunk(one).state, slow_model.texts) == ("done", 500)
    assert max(np.diff([*renewals, slow_model.now])) < chunks.LEASE_SECONDS


def test_worker_with_lost_lease_stops_scoring(upload, lines, chunk_jobs, slow_model, monkeypatch):
    upload(lines(*["a"] * 500))
    (one,) = chunk_jobs()
    monkeypatch.setattr(chunks, "renew_lease", lambda *_: False)
    executor.score_chunk(UUID(one))
    assert chunk(one).state == "running"
    assert 0 < slow_model.texts < 500


def test_repeated_claim_counts_one_attempt(upload, lines, chunk_jobs):
    upload(lines("a"))
    (one,) = chunk_jobs()
    token = uuid4()
    assert [chunks.claim(UUID(one), token).attempts for _ in range(2)] == [1, 1]


def test_chunk_of_dead_worker_is_released(upload, lines, chunk_jobs, work, fetch):
    task = upload(lines("a")).json["task_id"]
    (one,) = chunk_jobs()
    queue().empty()
    chunks.claim(UUID(one), uuid4())
    assert reconciler.reconcile()["leases"] == 0
    let_leases_run_out()
    assert reconciler.reconcile()["leases"] == 1
    assert chunk_jobs() == [one]
    work()
    assert fetch(f"/{task}").json["status"] == "completed"


def test_lost_job_is_sent_again(upload, lines, chunk_jobs, work, fetch, small_chunks):
    task = upload(lines(*"abcdefgh")).json["task_id"]
    queue().empty()
    db.session.execute(update(Chunk).values(queued_at=func.now() - timedelta(seconds=10)))
    assert reconciler.reconcile()["jobs"] == 3
    assert reconciler.reconcile()["jobs"] == 0
    work()
    assert fetch(f"/{task}").json["status"] == "completed"


def test_oldest_wait_is_measured(upload, lines, work):
    assert metrics.oldest_waits() == {("default",): 0.0, ("webhooks",): 0.0}
    upload(lines("a"))
    db.session.execute(update(Chunk).values(queued_at=func.now() - timedelta(seconds=100)))
    assert metrics.oldest_waits()["default",] >= 100
    work()
    assert metrics.oldest_waits()["default",] == 0


def test_scrape_pauses_after_database_failure(app, monkeypatch):
    asked = []

    def hang(statement):
        asked.append(statement)
        raise OperationalError("SELECT", {}, Exception())

    metrics.SCRAPE_READER.get().paused_until = 0.0
    with monkeypatch.context() as hanging:
        hanging.setattr(db.session, "execute", hang)
        assert (metrics.oldest_waits(), metrics.count_rows()) == (None, None)
    assert len(asked) == 1
    assert metrics.oldest_waits() is None
    metrics.SCRAPE_READER.get().paused_until = 0.0
    assert metrics.oldest_waits() == {("default",): 0.0, ("webhooks",): 0.0}


def test_chunks_of_cancelled_task_do_not_count_as_waiting(client, as_ada, upload, lines):
    task = upload(lines("a")).json["task_id"]
    db.session.execute(update(Chunk).values(queued_at=func.now() - timedelta(seconds=100)))
    assert client.post(f"/api/v1/sentiment/tasks/{task}/cancel", headers=as_ada).status_code < 300
    assert metrics.oldest_waits()["default",] == 0


def test_reconciler_ends_finished_task(upload, lines, chunk_jobs, fetch, monkeypatch):
    task = upload(lines("a")).json["task_id"]
    monkeypatch.setattr(lifecycle, "finish", lambda _: False)
    executor.score_chunk(UUID(chunk_jobs()[0]))
    monkeypatch.undo()
    assert fetch(f"/{task}").json["status"] == "running"
    assert reconciler.reconcile()["tasks"] == 1
    assert fetch(f"/{task}").json["status"] == "completed"


def test_task_is_accepted_without_redis_and_scored_later(make_app, as_ada, lines, work, fetch):
    client = make_app(redis_url="unix:///nowhere").test_client()
    headers = {**as_ada, "Content-Type": "application/x-ndjson"}
    task = client.post("/api/v1/sentiment/tasks", data=lines("a"), headers=headers)
    assert task.status_code == 202
    db.session.execute(update(Chunk).values(queued_at=func.now() - timedelta(seconds=10)))
    assert reconciler.reconcile()["jobs"] == 1
    work()
    assert fetch(f"/{task.json['task_id']}").json["status"] == "completed"


def test_tasks_take_turns(upload, lines, chunk_jobs, monkeypatch):
    monkeypatch.setattr(submission, "CHUNK_ROWS", 1)
    upload(lines(*(str(number) for number in range(50))))
    upload(lines("small"))
    jobs = chunk_jobs()
    assert len(jobs) == lifecycle.QUEUED_CHUNKS + 1
    small = jobs[-1]
    for job in jobs:
        executor.score_chunk(UUID(job))
    assert chunk(small).state == "done"
    assert len(chunk_jobs()) > lifecycle.QUEUED_CHUNKS  # each that was done has queued the next


def test_chunk_that_crashes_workers_is_bisected(upload, lines, chunk_jobs, fetch):
    """A death is what the engine sees of it: a claim, and never a word again."""
    task = upload(lines("good one", "bad one", "POISON", "fine", "great")).json["task_id"]
    deaths = 0
    for _ in range(60):
        reconciler.reconcile()
        for job in db.session.scalars(select(Chunk.id).where(Chunk.state == "queued")).all():
            texts = chunks.unpack(chunk(str(job)).texts)
            if "POISON" in texts and chunk(str(job)).attempts < chunks.MAX_ATTEMPTS:
                chunks.claim(job, uuid4())
                let_leases_run_out()
                deaths += 1
            else:
                executor.score_chunk(job)
    assert fetch(f"/{task}").json["request_counts"] == {"total": 5, "completed": 4, "failed": 1}
    rows = outcome(fetch, task)
    assert [index for index, _, _ in rows] == [0, 1, 2, 3, 4]
    assert rows[2] == (2, None, chunks.POISON_TEXT)
    assert all(sentiment for index, sentiment, _ in rows if index != 2)
    assert deaths <= 2 * chunks.MAX_ATTEMPTS + 3  # for the whole, for each halving, and for the row alone


def test_unscorable_text_fails_alone_and_can_be_retried(client, as_ada, upload, lines, work, fetch, monkeypatch):
    score_many = Scorer.score_many

    def moody(self, texts):
        if "trouble" in texts:
            raise ValueError
        return score_many(self, texts)

    monkeypatch.setattr(Scorer, "score_many", moody)
    task = upload(lines("good", "trouble", "bad") + "not json\n").json["task_id"]
    work()
    assert fetch(f"/{task}").json["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
    assert outcome(fetch, task)[1] == (1, None, "The model cannot score this text (ValueError).")
    monkeypatch.undo()
    again = client.post(f"/api/v1/sentiment/tasks/{task}/retry", headers=as_ada)
    assert (again.status_code, again.json["status"]) == (202, "queued")
    work()
    assert fetch(f"/{task}").json["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
    assert client.post(f"/api/v1/sentiment/tasks/{task}/retry", headers=as_ada).status_code == 409


def second_model(model):
    manifest = json.loads(model[0].manifest) | {"version": "20990101-second00"}
    return releases.release(model[0]._replace(manifest=json.dumps(manifest).encode()), by="tests")


def test_task_keeps_its_model_version(upload, lines, chunk_jobs, work, fetch, model, small_chunks):
    task = upload(lines(*"abcdefgh")).json["task_id"]
    executor.score_chunk(UUID(chunk_jobs()[0]))
    promotion.activate(second_model(model), by="tests")
    work()
    told = fetch(f"/{task}").json
    assert (told["status"], told["model_version"]) == ("completed", model[1])


def test_task_with_retired_model_fails_and_can_be_retried(client, as_ada, upload, lines, work, fetch, model):
    version = second_model(model)
    task = upload(lines("a"), query=f"?model={version}").json["task_id"]
    promotion.retire(version, by="tests")
    serving()._pinned.clear()
    work()
    told = fetch(f"/{task}").json
    assert told["status"] == "failed"
    assert version in told["error"]
    promotion.reinstate(version, by="tests")
    assert client.post(f"/api/v1/sentiment/tasks/{task}/retry", headers=as_ada).status_code == 202
    work()
    assert fetch(f"/{task}").json["status"] == "completed"


def test_only_ids_travel_through_redis(upload, lines, app):
    upload(lines("a very private text"))
    redis = REDIS.get(app)
    for key in redis.keys("rq:*"):
        kind = redis.type(key)
        said = key + (b"".join(redis.hgetall(key).values()) if kind == b"hash" else b"")
        assert b"private" not in said


def test_abandoned_upload_is_given_up(app, ada, model):
    submission.open_task(submission.Submission(ada.id), model[1])
    db.session.execute(update(Task).values(touched_at=func.now() - timedelta(minutes=6)))
    assert reconciler.reconcile()["uploads"] == 1
    assert db.session.scalar(select(func.count()).select_from(Task)) == 0


def test_results_expire_after_retention_time(upload, lines, work, fetch):
    task = upload(lines("a")).json["task_id"]
    work()
    assert maintenance.purge()["expired"] == 0
    db.session.execute(update(Task).values(expires_at=func.now() - timedelta(1)))
    assert maintenance.purge()["expired"] == 1
    assert fetch(f"/{task}").json["status"] == "expired"
    assert db.session.scalar(select(func.count()).select_from(Chunk)) == 0


def test_deleted_tasks_and_old_keys_are_purged(upload, lines, ada):
    task = upload(lines("a"), **{"Idempotency-Key": "k"}).json["task_id"]
    db.session.execute(update(Task).values(created_at=func.now() - timedelta(days=2)))
    assert maintenance.purge()["keys"] == 1
    service._mark_deleted(UUID(task))
    assert maintenance.purge()["deleted"] == 1
    assert db.session.scalar(select(func.count()).select_from(Task)) == 0


@pytest.mark.parametrize("error", [NoModelError, UnusableModelError])
def test_worker_without_model_releases_the_chunk(upload, lines, chunk_jobs, work, fetch, monkeypatch, error):
    task = upload(lines("a")).json["task_id"]
    monkeypatch.setattr(Serving, "pinned", lambda *_: raise_(error()))
    with pytest.raises(error):
        executor.score_chunk(UUID(chunk_jobs()[0]))
    monkeypatch.undo()
    assert fetch(f"/{task}").json["status"] == "running"
    queue().empty()
    reconciler.reconcile()
    work()
    assert fetch(f"/{task}").json["status"] == "completed"


def raise_(error):
    raise error


def test_task_fails_if_model_does_not_load_for_an_hour(upload, lines, chunk_jobs, fetch, monkeypatch):
    task = upload(lines("a")).json["task_id"]
    db.session.execute(update(Task).values(started_at=func.now() - timedelta(hours=2)))
    monkeypatch.setattr(Serving, "pinned", lambda *_: raise_(UnusableModelError("It is not what was signed.")))
    executor.score_chunk(UUID(chunk_jobs()[0]))
    assert [fetch(f"/{task}").json[name] for name in ("status", "error")] == ["failed", "It is not what was signed."]


@pytest.mark.parametrize("found", [[(np.nan,) * 3], [(0.1, 0.2, 0.7)] * 2, []])
def test_text_without_probabilities_fails_alone(upload, lines, work, fetch, monkeypatch, found):
    monkeypatch.setattr(Scorer, "score_many", lambda *_: found)
    task = upload(lines("a")).json["task_id"]
    work()
    assert fetch(f"/{task}").json["request_counts"] == {"total": 1, "completed": 0, "failed": 1}
    assert outcome(fetch, task) == [(0, None, "The model returned no probabilities for this text.")]


def test_queued_chunks_are_limited_by_user(upload, lines, small_chunks, chunk_jobs):
    for _ in range(4):
        upload(lines(*"abcdefghijklmnopqrstuvwxyz" * 2))
    # Those of the first task, of the second, of the third and of the fourth: its share as it came.
    assert len(chunk_jobs()) == lifecycle.QUEUED_CHUNKS + 4 + 2 + 2


def test_reconciler_continues_after_a_failed_round(monkeypatch):
    monkeypatch.setattr(reconciler, "reconcile", lambda: raise_(OperationalError("SELECT", {}, Exception())))
    with capture_logs() as told:
        reconciler.try_reconcile()
    assert [(one["event"], one["reason"]) for one in told] == [("not_reconciled", "OperationalError")]


def test_chunks_of_cancelled_task_are_not_sent_again(client, as_ada, upload, lines, small_chunks):
    task = upload(lines(*"abcdefgh")).json["task_id"]
    client.post(f"/api/v1/sentiment/tasks/{task}/cancel", headers=as_ada)
    queue().empty()
    db.session.execute(update(Chunk).values(queued_at=func.now() - timedelta(seconds=10)))
    assert reconciler.reconcile()["jobs"] == 0


def test_chunk_of_another_worker_is_not_bisected(upload, lines, chunk_jobs):
    upload(lines(*"abcd"))
    (one,) = chunk_jobs()
    late = chunks.claim(UUID(one), uuid4())
    let_leases_run_out()
    chunks.claim(UUID(one), uuid4())
    chunks.bisect(late)
    assert [(row.first, row.size) for row in db.session.query(Chunk)] == [(0, 4)]


def test_both_halves_of_a_chunk_are_queued(upload, lines, chunk_jobs):
    upload(lines(*"abcd"))
    (one,) = chunk_jobs()
    queue().empty()
    chunks.bisect(chunks.claim(UUID(one), uuid4()))
    lifecycle.dispatch(db.session.query(Task).one().id)
    assert len(chunk_jobs()) == 2
    assert one not in chunk_jobs()


def test_upload_is_closed_once(upload, lines, work, fetch):
    task = upload(lines("a")).json["task_id"]
    work()
    submission._close(UUID(task), 1, "")  # as when the first answer was lost
    assert fetch(f"/{task}").json["status"] == "completed"


def test_upload_that_was_given_up_is_answered_with_409(client, as_ada, upload, lines, small_chunks, monkeypatch):
    add = submission._add_chunk

    def late(*arguments):
        add(*arguments)
        db.session.query(Task).delete()

    monkeypatch.setattr(submission, "_add_chunk", late)
    answer = upload(lines(*"abcdef"))
    assert (answer.status_code, answer.json["type"]) == (409, "urn:sentiment-app:problem:upload-lost")


def test_slow_upload_is_not_given_up(app, ada, model, monkeypatch):
    monkeypatch.setattr(submission, "TOUCH_SECONDS", 0)
    task = submission.open_task(submission.Submission(ada.id), model[1])
    db.session.execute(update(Task).values(touched_at=func.now() - timedelta(minutes=6)))
    next(submission._keep_alive(task, iter(["one", "two"])))
    rest = submission._keep_alive(task, iter(["one", "two"]))
    assert list(rest) == ["one", "two"]
    assert reconciler.reconcile()["uploads"] == 0


def test_quota_applies_to_retries(make_app, as_ada):
    client = make_app(max_tasks=1).test_client()
    tasks = []
    for _ in range(2):
        tasks.append(
            client.post("/api/v1/sentiment/analyze/batch", json={"texts": ["a"]}, headers=as_ada).json["task_id"]
        )
        client.post(f"/api/v1/sentiment/tasks/{tasks[-1]}/cancel", headers=as_ada)
    assert [client.post(f"/api/v1/sentiment/tasks/{one}/retry", headers=as_ada).status_code for one in tasks] == [
        202,
        429,
    ]


def test_quota_is_checked_before_the_body_is_read(make_app, as_ada):
    client = make_app(max_tasks=1).test_client()
    client.post("/api/v1/sentiment/analyze/batch", json={"texts": ["a"]}, headers=as_ada)
    answer = client.post("/api/v1/sentiment/analyze/batch", data="{", content_type="application/json", headers=as_ada)
    assert answer.status_code == 429


def test_too_long_list_gives_one_error(client, as_ada):
    answer = client.post("/api/v1/sentiment/analyze/batch", json={"texts": [0] * 10_001}, headers=as_ada)
    assert answer.status_code == 422
    assert [one["pointer"] for one in answer.json["errors"]] == ["/texts"]


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
    assert fetch(f"/{task}/results").json == {"items": [], "next_cursor": -1}
    executor.score_chunk(UUID(chunk_jobs()[0]))
    assert fetch(f"/{task}/results").json["next_cursor"] == 2
