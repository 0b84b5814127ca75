"""Uploads that end, are given up, or exceed a quota."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, update

from sentiment_app.infrastructure.database import db
from sentiment_app.tasks import reconciler, submission
from sentiment_app.tasks.models import Task


def test_upload_is_closed_once(upload, lines, work, fetch):
    task = upload(lines("a")).json["task_id"]
    work()
    submission._close(UUID(task), 1, "", None)  # as if the answer to the first call was lost
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
    assert [client.post(f"/api/v1/sentiment/tasks/{entry}/retry", headers=as_ada).status_code for entry in tasks] == [
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
    assert [entry["pointer"] for entry in answer.json["errors"]] == ["/texts"]


def test_without_redis_the_quota_of_tasks_is_ten_times_larger(make_app, as_ada):
    client = make_app(max_tasks=1, redis_url="unix:///nowhere").test_client()

    def submit():
        return client.post("/api/v1/sentiment/analyze/batch", json={"texts": ["a"]}, headers=as_ada).status_code

    assert [submit() for _ in range(11)] == [202] * 10 + [429]


def test_without_redis_the_quota_of_rows_stays(make_app, as_ada):
    client = make_app(max_tasks=1, max_queued_rows=2, redis_url="unix:///nowhere").test_client()

    def submit():
        return client.post("/api/v1/sentiment/analyze/batch", json={"texts": ["a"]}, headers=as_ada).status_code

    assert [submit() for _ in range(3)] == [202, 202, 429]
