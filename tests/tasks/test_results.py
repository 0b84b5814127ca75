"""Results of tasks that run or have expired."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, update

from sentiment_app import maintenance
from sentiment_app.infrastructure.database import db
from sentiment_app.tasks import executor
from sentiment_app.tasks.models import Task


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
