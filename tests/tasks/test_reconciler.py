"""The reconciler puts back what was lost."""

from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import queue
from sentiment_app.tasks import chunks, executor, lifecycle, reconciler, submission
from sentiment_app.tasks.models import Chunk, Task


def expire_leases():
    db.session.execute(update(Chunk).where(Chunk.state == "running").values(lease_until=func.now() - timedelta(1)))


def raise_(error):
    raise error


def test_chunk_of_dead_worker_is_released(upload, lines, chunk_jobs, work, fetch):
    task = upload(lines("a")).json["task_id"]
    (chunk_id,) = chunk_jobs()
    queue().empty()
    chunks.claim(UUID(chunk_id), uuid4())
    assert reconciler.reconcile()["leases"] == 0
    expire_leases()
    assert reconciler.reconcile()["leases"] == 1
    assert chunk_jobs() == [chunk_id]
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


def test_abandoned_upload_is_given_up(app, ada, model):
    submission.open_task(submission.Submission(ada.id), model[1])
    db.session.execute(update(Task).values(touched_at=func.now() - timedelta(minutes=6)))
    assert reconciler.reconcile()["uploads"] == 1
    assert db.session.scalar(select(func.count()).select_from(Task)) == 0


def test_reconciler_continues_after_a_failed_round(monkeypatch):
    monkeypatch.setattr(reconciler, "reconcile", lambda: raise_(OperationalError("SELECT", {}, Exception())))
    with capture_logs() as shown:
        reconciler.try_reconcile()
    assert [(entry["event"], entry["reason"]) for entry in shown] == [("not_reconciled", "OperationalError")]


def test_chunks_of_cancelled_task_are_not_sent_again(client, as_ada, upload, lines, small_chunks):
    task = upload(lines(*"abcdefgh")).json["task_id"]
    client.post(f"/api/v1/sentiment/tasks/{task}/cancel", headers=as_ada)
    queue().empty()
    db.session.execute(update(Chunk).values(queued_at=func.now() - timedelta(seconds=10)))
    assert reconciler.reconcile()["jobs"] == 0
