"""The executor: slow models, texts that cannot be scored, and missing models."""

import json
from datetime import timedelta
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import func, update
from sqlalchemy.exc import OperationalError

from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import queue
from sentiment_app.ml.runtime import Assessment, Scorer, Scores
from sentiment_app.registry import promotion, releases
from sentiment_app.registry.serving import NoModelError, Serving, UnusableModelError, serving
from sentiment_app.tasks import chunks, executor, reconciler
from sentiment_app.tasks.models import Chunk, Task


def chunk(chunk_id):
    return db.session.get(Chunk, UUID(chunk_id), populate_existing=True)


def outcome(fetch, task):
    rows = [json.loads(line) for line in fetch(f"/{task}/results", Accept="application/x-ndjson").text.splitlines()]
    return [(row["index"], row.get("sentiment"), row.get("error")) for row in rows]


def test_store_that_fails_counts_no_attempt(upload, lines, chunk_jobs, monkeypatch):
    """For example because another process has locked the counters of a quota for too long."""
    upload(lines("good"))
    (chunk_id,) = chunk_jobs()

    def fail(*_):
        raise OperationalError("", {}, Exception())

    with monkeypatch.context() as patch:
        patch.setattr(executor.quotas, "prepare", fail)
        for _ in range(chunks.MAX_ATTEMPTS + 1):
            with pytest.raises(OperationalError):
                executor.score_chunk(UUID(chunk_id))
            assert (chunk(chunk_id).state, chunk(chunk_id).attempts) == ("waiting", 0)
            reconciler.reconcile()
    executor.score_chunk(UUID(chunk_id))
    assert (chunk(chunk_id).state, chunk(chunk_id).errors) == ("done", {})


class SlowModel:
    """Needs some seconds for each text, by a fake clock that it advances itself. Counts the texts."""

    def __init__(self):
        self.now, self.seconds, self.texts = 1000.0, 0.05, 0

    def assess_many(self, texts):
        self.now += self.seconds * len(texts)
        self.texts += len(texts)
        return [Assessment(Scores(1 / 3, 1 / 3, 1 / 3), 0.25)] * len(texts)


@pytest.fixture
def slow_model(monkeypatch):
    model = SlowModel()
    monkeypatch.setattr(executor, "time", SimpleNamespace(monotonic=lambda: model.now))
    monkeypatch.setattr(Scorer, "assess_many", lambda _, texts: model.assess_many(texts))
    return model


def second_model(model):
    manifest = json.loads(model[0].manifest) | {"version": "20990101-second00"}
    return releases.release(model[0]._replace(manifest=json.dumps(manifest).encode()), by="tests")


def raise_(error):
    raise error


def test_job_that_runs_twice_scores_once(upload, lines, chunk_jobs, monkeypatch):
    upload(lines("a"))
    (chunk_id,) = chunk_jobs()
    executor.score_chunk(UUID(chunk_id))
    before = chunk(chunk_id).token
    executor.score_chunk(UUID(chunk_id))
    assert chunk(chunk_id).token == before


@pytest.mark.parametrize("seconds", [0.05, 0.5, 1.9])
def test_slow_model_keeps_its_lease(upload, lines, chunk_jobs, slow_model, monkeypatch, seconds):
    slow_model.seconds = seconds
    upload(lines(*["a"] * 500))
    (chunk_id,) = chunk_jobs()
    renew, renewals = chunks.renew_lease, [slow_model.now]

    def noted(*arguments):
        renewals.append(slow_model.now)
        return renew(*arguments)

    monkeypatch.setattr(chunks, "renew_lease", noted)
    executor.score_chunk(UUID(chunk_id))
    assert (chunk(chunk_id).state, slow_model.texts) == ("done", 500)
    assert max(np.diff([*renewals, slow_model.now])) < chunks.LEASE_SECONDS


def test_worker_with_lost_lease_stops_scoring(upload, lines, chunk_jobs, slow_model, monkeypatch):
    upload(lines(*["a"] * 500))
    (chunk_id,) = chunk_jobs()
    monkeypatch.setattr(chunks, "renew_lease", lambda *_: False)
    executor.score_chunk(UUID(chunk_id))
    assert chunk(chunk_id).state == "running"
    assert 0 < slow_model.texts < 500


def test_unscorable_text_fails_alone_and_can_be_retried(client, as_ada, upload, lines, work, fetch, monkeypatch):
    assess_many = Scorer.assess_many

    def fail_on_trouble(self, texts):
        if "trouble" in texts:
            raise ValueError
        return assess_many(self, texts)

    monkeypatch.setattr(Scorer, "assess_many", fail_on_trouble)
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


def test_task_keeps_its_model_version(upload, lines, chunk_jobs, work, fetch, model, small_chunks):
    task = upload(lines(*"abcdefgh")).json["task_id"]
    executor.score_chunk(UUID(chunk_jobs()[0]))
    promotion.activate(second_model(model), by="tests")
    work()
    shown = fetch(f"/{task}").json
    assert (shown["status"], shown["model_version"]) == ("completed", model[1])


def test_task_with_retired_model_fails_and_can_be_retried(client, as_ada, upload, lines, work, fetch, model):
    version = second_model(model)
    task = upload(lines("a"), query=f"?model={version}").json["task_id"]
    promotion.retire(version, by="tests")
    serving()._pinned.clear()
    work()
    shown = fetch(f"/{task}").json
    assert shown["status"] == "failed"
    assert version in shown["error"]
    promotion.reinstate(version, by="tests")
    assert client.post(f"/api/v1/sentiment/tasks/{task}/retry", headers=as_ada).status_code == 202
    work()
    assert fetch(f"/{task}").json["status"] == "completed"


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


def test_task_fails_if_model_does_not_load_for_an_hour(upload, lines, chunk_jobs, fetch, monkeypatch):
    task = upload(lines("a")).json["task_id"]
    db.session.execute(update(Task).values(started_at=func.now() - timedelta(hours=2)))
    monkeypatch.setattr(Serving, "pinned", lambda *_: raise_(UnusableModelError("It is not what was signed.")))
    executor.score_chunk(UUID(chunk_jobs()[0]))
    assert [fetch(f"/{task}").json[name] for name in ("status", "error")] == ["failed", "It is not what was signed."]


@pytest.mark.parametrize("found", [[(np.nan,) * 3], [(0.1, 0.2, 0.7)] * 2, []])
def test_text_without_probabilities_fails_alone(upload, lines, work, fetch, monkeypatch, found):
    monkeypatch.setattr(Scorer, "assess_many", lambda *_: [Assessment(scores, None) for scores in found])
    task = upload(lines("a")).json["task_id"]
    work()
    assert fetch(f"/{task}").json["request_counts"] == {"total": 1, "completed": 0, "failed": 1}
    assert outcome(fetch, task) == [(0, None, "The model returned no valid probabilities for this text.")]
