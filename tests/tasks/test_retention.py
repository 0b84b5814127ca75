"""Retention: what the purge deletes and when, and which data jobs contain."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError

from sentiment_app import maintenance
from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import enqueue, queue
from sentiment_app.sentiment import history
from sentiment_app.sentiment import service as scoring
from sentiment_app.sentiment.models import SentimentRequest
from sentiment_app.tasks import lifecycle, retention, service
from sentiment_app.tasks.models import Chunk, Task
from sentiment_app.users.models import Session


def add_session(user, expires):
    session = Session(id=uuid4(), user_id=user.id, refresh_jti=uuid4(), expires_at=datetime.now(UTC) + expires)
    db.session.add(session)
    db.session.commit()
    return session.id


@pytest.mark.asvs("14.2.7")
def test_expired_sessions_are_deleted(ada, as_ada):
    ages = timedelta(days=-1), timedelta(minutes=-5), timedelta(days=1)
    expired, with_an_access_token, alive = (add_session(ada, expires) for expires in ages)
    assert maintenance.purge()["sessions"] == 1
    kept = set(db.session.scalars(select(Session.id)))
    assert {with_an_access_token, alive} < kept
    assert expired not in kept


@pytest.mark.asvs("14.2.7")
def test_expired_task_is_erased_after_retention_time(upload, lines, work, fetch):
    task = upload(lines("a wonderful day", "a horrible day")).json["task_id"]
    work()
    shown = fetch(f"/{task}").json
    expire(task, days=1)
    assert maintenance.purge()["expired"] == 1
    kept = fetch(f"/{task}").json
    assert (kept["status"], kept["summary"]) == ("expired", shown["summary"])
    assert maintenance.purge()["erased"] == 0
    expire(task, days=31)
    assert maintenance.purge()["erased"] == 1
    assert fetch(f"/{task}").status_code == 404


def test_purge_continues_an_interrupted_purge(upload, lines, work, monkeypatch):
    task = upload(lines("a")).json["task_id"]
    work()
    expire(task, days=1)
    retention._mark_expired(UUID(task))
    assert db.session.scalar(select(func.count()).select_from(Chunk)) == 1
    maintenance.purge()
    assert db.session.scalar(select(func.count()).select_from(Chunk)) == 0


def test_failed_purge_step_is_reported_and_others_run(app, ada, as_ada, monkeypatch):
    def fail():
        raise OperationalError("SELECT", {}, Exception())

    monkeypatch.setitem(maintenance.STEPS, "expired", fail)
    expired = add_session(ada, timedelta(days=-1))
    done = app.test_cli_runner().invoke(args=["purge"])
    assert done.exit_code == 1
    assert "These steps failed: expired." in done.output
    assert expired not in set(db.session.scalars(select(Session.id)))


def expire(task, days):
    gone = update(Task).where(Task.id == UUID(task)).values(expires_at=func.now() - timedelta(days=days))
    db.session.execute(gone)
    db.session.commit()


@pytest.mark.asvs("14.2.7")
def test_old_history_is_deleted(make_app, ada, monkeypatch):
    monkeypatch.setattr(history, "BATCH_ROWS", 2)
    now = datetime.now(UTC)
    with make_app(history_days=10).app_context():
        for days in (1, 9, 11, 12, 13):
            scoring.analyze(ada.id, history._first_id_at(now - timedelta(days=days)), f"{days} days ago")
        assert maintenance.purge()["history"] == 3
        left = db.session.scalars(select(SentimentRequest.text).where(SentimentRequest.user_id == ada.id))
        assert set(left) == {"1 days ago", "9 days ago"}


@pytest.mark.asvs("1.5.2")
def test_only_ids_travel_through_redis(upload, lines):
    upload(lines("a secret text"))
    (job,) = queue().jobs
    assert [UUID(entry) for entry in job.args] == [UUID(job.id)]
    assert job.description == lifecycle.JOB
    stored = b"".join(queue().connection.hgetall(job.key).values())
    assert b"secret" not in stored
    assert b"pickle" not in stored


def test_enqueue_without_redis_returns_false(make_app):
    with make_app(redis_url="unix:///nowhere").app_context():
        assert enqueue(lifecycle.JOB, "x") is False


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
