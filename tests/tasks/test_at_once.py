"""Small batches whose client waits are scored by the process that receives them."""

import json
import time
from datetime import timedelta
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, update

from sentiment_app.errors import UnavailableError
from sentiment_app.infrastructure.concurrency import ConcurrencyLimit
from sentiment_app.infrastructure.database import db
from sentiment_app.registry.serving import Served
from sentiment_app.tasks import chunks, executor, reconciler, retention, service
from sentiment_app.tasks.models import Chunk
from sentiment_app.tasks.routes import AT_ONCE
from sentiment_app.usage.models import UsageRecord
from sentiment_app.webhooks.models import Delivery

BATCH = "/api/v1/sentiment/analyze/batch"
TEXTS = ["I love it", "It is awful", "The train leaves at noon"]


@pytest.fixture
def submit(client, as_ada, monkeypatch):
    """Submits a batch. A request that would sleep until a worker has scored it fails."""

    def sleep(_seconds):
        raise AssertionError("the request waits for a worker")

    monkeypatch.setattr(service, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))

    def submit(texts=TEXTS, **fields):
        headers = {**as_ada, "Prefer": "wait=5"}
        return client.post(BATCH, json={"texts": texts, **fields}, headers=headers)

    return submit


def test_small_batch_is_scored_without_a_job(submit, chunk_jobs):
    answer = submit()
    assert (answer.status_code, answer.json["status"], chunk_jobs()) == (200, "completed", [])
    assert [row["sentiment"] for row in answer.json["result"]][:2] == ["positive", "negative"]


def test_results_are_those_of_a_worker(client, as_ada, submit, work, fetch):
    at_once = submit().json["result"]
    task = client.post(BATCH, json={"texts": TEXTS}, headers=as_ada).json["task_id"]
    work()
    rows = [json.loads(line) for line in fetch(f"/{task}/results", Accept="application/x-ndjson").text.splitlines()]
    assert [row["scores"] for row in rows] == [row["scores"] for row in at_once]


def test_rows_are_counted_once(submit):
    submit()
    assert db.session.scalar(select(func.sum(UsageRecord.rows))) == len(TEXTS)


def test_webhook_is_delivered(submit):
    task = submit(webhook_url="https://example.com/hook").json["task_id"]
    assert db.session.scalars(select(Delivery.task_id)).all() == [UUID(task)]


@pytest.mark.parametrize(
    ("texts", "is_fast"), [(["a"] * 1001, True), (["word " * 2000] * 11, True), (["a"], False)], ids=str
)
def test_batch_that_takes_long_is_sent_to_the_workers(client, as_ada, chunk_jobs, monkeypatch, texts, is_fast):
    monkeypatch.setattr(Served, "is_fast", is_fast)
    monkeypatch.setattr(time, "sleep", lambda _: [executor.score_chunk(UUID(job)) for job in chunk_jobs()])
    answer = client.post(BATCH, json={"texts": texts}, headers={**as_ada, "Prefer": "wait=5"})
    assert answer.status_code == 200
    assert len(chunk_jobs()) == 1


def test_batch_is_sent_to_the_workers_if_it_cannot_be_scored_here(client, as_ada, chunk_jobs, monkeypatch):
    store, failures = chunks.store, iter([MemoryError()])

    def fail_once(*arguments):
        for error in failures:
            raise error
        return store(*arguments)

    monkeypatch.setattr(chunks, "store", fail_once)
    monkeypatch.setattr(time, "sleep", lambda _: [executor.score_chunk(UUID(job)) for job in chunk_jobs()])
    answer = client.post(BATCH, json={"texts": TEXTS}, headers={**as_ada, "Prefer": "wait=5"})
    assert (answer.status_code, answer.json["status"]) == (200, "completed")
    assert db.session.scalar(select(func.sum(UsageRecord.rows))) == len(TEXTS)


def test_batch_is_not_scored_at_once_without_prefer(client, as_ada, chunk_jobs):
    answer = client.post(BATCH, json={"texts": TEXTS}, headers=as_ada)
    assert (answer.status_code, answer.json["status"], len(chunk_jobs())) == (202, "queued", 1)


def test_batch_is_sent_to_the_workers_if_too_many_are_scored(app, client, as_ada, chunk_jobs, monkeypatch):
    full = ConcurrencyLimit(1, UnavailableError)
    AT_ONCE.set(app, full)
    monkeypatch.setattr(time, "sleep", lambda _: [executor.score_chunk(UUID(job)) for job in chunk_jobs()])
    with full.try_admit(uuid4()):
        answer = client.post(BATCH, json={"texts": TEXTS}, headers={**as_ada, "Prefer": "wait=5"})
    assert (answer.status_code, len(chunk_jobs())) == (200, 1)


def test_batch_that_exceeds_the_queue_alone_is_too_large(make_app, as_ada):
    client = make_app(max_queued_rows=2).test_client()
    answer = client.post(BATCH, json={"texts": TEXTS}, headers={**as_ada, "Prefer": "wait=5"})
    assert answer.status_code == 413


def test_task_that_is_deleted_while_it_is_scored_is_lost(client, as_ada, monkeypatch):
    def score_and_delete(claim):
        score(claim)
        retention.erase(claim.task_id)

    score = executor.score
    monkeypatch.setattr(executor, "score", score_and_delete)
    answer = client.post(BATCH, json={"texts": TEXTS}, headers={**as_ada, "Prefer": "wait=5"})
    assert (answer.status_code, answer.json["type"]) == (409, "urn:sentiment-app:problem:upload-lost")


def test_batch_of_a_process_that_died_is_scored_by_a_worker(client, as_ada, work, fetch, monkeypatch):
    class Killed(BaseException):
        pass

    def die(_claim):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(executor, "score", die)
        with pytest.raises(Killed):
            client.post(BATCH, json={"texts": TEXTS}, headers={**as_ada, "Prefer": "wait=5"})
    db.session.execute(update(Chunk).values(lease_until=func.now() - timedelta(seconds=1)))
    db.session.commit()
    reconciler.reconcile()
    work()
    (task,) = fetch().json["items"]
    assert (task["status"], task["request_counts"]["completed"]) == ("completed", len(TEXTS))
    assert db.session.scalar(select(func.sum(UsageRecord.rows))) == len(TEXTS)
