"""Log lines of requests, jobs and webhooks have the ids that `sentiment logs` searches for, and no texts."""

import json

import pytest

from sentiment_app.infrastructure.queue import REDIS, queue
from sentiment_app.tasks.lifecycle import JOB
from sentiment_app.worker import Worker

TEXT = "a canary that no log line quotes"


@pytest.fixture
def logged(make_app, as_ada, capfd):
    """Calls a function with an application that logs everything, and returns the log lines."""

    def logged(scenario):
        app = make_app(log_level="INFO")  # in the test, because pytest closes the streams of fixtures
        with app.app_context():
            scenario(Scenario(app, as_ada))
        written = capfd.readouterr().err
        assert TEXT not in written
        return [json.loads(line) for line in written.splitlines() if line.startswith("{")]

    return logged


class Scenario:
    def __init__(self, app, headers):
        self.client, self.headers, self.app, self.task = app.test_client(), headers, app, None

    def submit(self, count=7, **options):
        headers = {**self.headers, "X-Request-ID": "req-1"}
        body = {"texts": [TEXT] * count, **options}
        self.task = self.client.post("/api/v1/sentiment/analyze/batch", json=body, headers=headers).json["task_id"]

    def work(self, name="default"):
        Worker(self.app, REDIS.get(self.app), name).work(burst=True, logging_level="WARNING")


def test_life_of_a_task_is_found_by_its_id(logged, ada, small_chunks):
    tasks = []

    def scenario(run):
        run.submit()
        run.client.get(f"/api/v1/sentiment/tasks/{run.task}", headers=run.headers)
        run.work()
        tasks.append(run.task)

    found = [line for line in logged(scenario) if line.get("task_id") == tasks[0]]
    assert [line["event"] for line in found] == ["request", "request", *["chunk_scored"] * 3, "task_ended"]
    assert found[0]["route"] == "/api/v1/sentiment/analyze/batch"
    assert [line["rows"] for line in found if "rows" in line] == [3, 3, 1]
    assert {line["user_id"] for line in found if "user_id" in line} == {str(ada.id)}


def test_jobs_have_the_request_id_of_their_submission(logged, small_chunks, monkeypatch):
    monkeypatch.setattr("sentiment_app.tasks.lifecycle.QUEUED_CHUNKS", 1)  # each chunk enqueues the next

    def scenario(run):
        run.submit()
        run.work()

    found = [line["event"] for line in logged(scenario) if line.get("request_id") == "req-1"]
    assert [event for event in found if event != "model_switched"] == ["request", *["chunk_scored"] * 3, "task_ended"]


def test_next_job_does_not_inherit_ids(logged):
    def scenario(run):
        run.submit(1)
        queue().enqueue_call("os.system", args=("true",))
        run.work()

    (last,) = [line for line in logged(scenario) if line["event"] == "unknown_job_deleted"]
    assert not {"request_id", "task_id"} & last.keys()


@pytest.mark.parametrize(
    "meta", [{"request_id": 'x" y\n'}, {"request_id": {"a": 1}}, {"request_id": "x" * 129}, ["a"], {}]
)
def test_request_id_from_redis_is_checked(logged, meta):
    def scenario(run):
        run.submit(1)
        (job,) = queue().jobs
        assert job.func_name == JOB
        REDIS.get().hset(job.key, "meta", json.dumps(meta))
        run.work()

    (scored,) = [line for line in logged(scenario) if line["event"] == "chunk_scored"]
    assert "request_id" not in scored


def test_attempt_of_a_webhook_is_found_by_task(logged, monkeypatch):
    monkeypatch.setattr("sentiment_app.webhooks.egress.check_url", lambda _: None)
    monkeypatch.setattr("sentiment_app.webhooks.egress.post", lambda *_: (False, "500"))
    tasks = []

    def scenario(run):
        run.submit(webhook_url="https://example.com/hook?secret=hidden")
        run.work()
        run.work("webhooks")
        tasks.append(run.task)

    written = logged(scenario)
    (found,) = [line for line in written if line["event"] == "webhook_attempted"]
    assert (found["task_id"], found["request_id"], found["answer"]) == (tasks[0], "req-1", "500")
    assert "hidden" not in json.dumps(written)
