"""Metrics of batch scoring."""

from datetime import timedelta

from sqlalchemy import func, update
from sqlalchemy.exc import OperationalError

from sentiment_app.infrastructure.database import db
from sentiment_app.tasks import metrics
from sentiment_app.tasks.models import Chunk


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
