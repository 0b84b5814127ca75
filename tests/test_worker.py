"""The worker runs only the jobs of this service, whatever Redis contains."""

import os
import uuid

import pytest
from rq import Callback, Queue
from rq.serializers import JSONSerializer

from sentiment_app.infrastructure.queue import REDIS, TASKS_QUEUE
from sentiment_app.tasks.lifecycle import JOB

ID = str(uuid.uuid4())


def note(*_args, **_options):
    """What a hostile job would call."""
    os.environ["HOSTILE_JOB_RAN"] = "yes"


@pytest.fixture
def redis(app):
    return REDIS.get(app)


@pytest.mark.asvs("1.5.2")
@pytest.mark.parametrize(
    ("function", "options"),
    [
        ("os.system", {"args": ("true",)}),
        ("test_worker.note", {}),
        (JOB, {}),
        (JOB, {"args": (ID, ID)}),
        (JOB, {"args": ("no id",)}),
        (JOB, {"args": (ID.upper(),)}),
        (JOB, {"args": (7,)}),
        (JOB, {"args": (ID,), "kwargs": {"chunk_id": ID}}),
        (JOB + ".__globals__", {"args": (ID,)}),
        (JOB, {"args": (ID,), "on_success": Callback("test_worker.note")}),
        (JOB, {"args": (ID,), "on_failure": Callback("test_worker.note")}),
        (JOB, {"args": (ID,), "on_stopped": Callback("test_worker.note")}),
    ],
)
def test_other_jobs_are_deleted_and_do_not_run(redis, work, monkeypatch, function, options):
    monkeypatch.delenv("HOSTILE_JOB_RAN", raising=False)
    queue = Queue(TASKS_QUEUE, connection=redis, serializer=JSONSerializer)
    job = queue.enqueue_call(function, **options)
    work()
    assert "HOSTILE_JOB_RAN" not in os.environ
    assert redis.exists(job.key) == 0
    assert [key for key in redis.keys("*") if job.id.encode() in key] == []
    assert queue.started_job_registry.get_job_ids() == queue.failed_job_registry.get_job_ids() == []


@pytest.mark.parametrize("field", ["webhooks", "repeats_left", "retries_left"])
def test_known_job_with_extras_is_deleted(redis, work, field):
    queue = Queue(TASKS_QUEUE, connection=redis, serializer=JSONSerializer)
    job = queue.enqueue_call(JOB, args=(ID,))
    hook = '[{"url": "http://127.0.0.1:9/", "job_status": "finished"}]'
    redis.hset(job.key, field, hook if field == "webhooks" else 3)
    work()
    assert redis.exists(job.key) == 0


@pytest.mark.asvs("1.5.2")
def test_job_that_is_not_json_is_deleted(redis, work):
    queue = Queue(TASKS_QUEUE, connection=redis, serializer=JSONSerializer)
    job = queue.enqueue_call(JOB, args=(ID,))
    redis.hset(job.key, "data", b"\x80\x04.")
    work()
    assert redis.exists(job.key) == 0


def test_known_jobs_run_after_hostile_jobs(redis, work, upload, lines, fetch):
    Queue(TASKS_QUEUE, connection=redis, serializer=JSONSerializer).enqueue_call("os.system", args=("true",))
    task = upload(lines("fine")).json["task_id"]
    work()
    assert fetch(f"/{task}").json["status"] == "completed"
