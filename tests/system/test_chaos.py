"""Batch scoring while processes are killed at random: afterwards every row has exactly one result, and it is correct.

The test causes each kind of failure once, and then random failures until CHAOS_SECONDS (by default 8) have passed.
With CHAOS_NAIVE=1 no reconciler runs, and the test fails. This shows that the test detects lost work.
"""

import contextlib
import json
import os
import random
import signal
import time
import urllib.request

import pytest
import redis
from harness import call

from sentiment_app.ml.training import pipeline as training

SECONDS = float(os.environ.get("CHAOS_SECONDS", "8"))
slow_test = pytest.mark.skipif("CHAOS_SECONDS" not in os.environ, reason="half a minute; CHAOS_SECONDS=60 runs it")
NAIVE = "CHAOS_NAIVE" in os.environ
ROWS = 60_000
PLACES = ("room", "staff", "food", "plot", "phone")
WORDS = ("great", "awful", "red", "not bad", "not good", "lovely", "terrible", "new")


def texts(number=ROWS):
    return [f"The {PLACES[index % 5]} was {WORDS[index % 8]}, {index}" for index in range(number)]


class Workers:
    """Two workers and the reconciler, restarted as systemd would when they die."""

    WORKER, RECONCILER = ("sentiment_app.worker",), ("flask", "tasks", "reconcile", "--every", "5")
    COMMANDS = (WORKER, WORKER, *([] if NAIVE else [RECONCILER, RECONCILER]))  # two may run at the same time

    def __init__(self, product):
        self.product = product
        self.processes = [product.process(*command) for command in self.COMMANDS]

    def keep_alive(self):
        for index, process in enumerate(self.processes):
            if process.poll() is not None:
                self.processes[index] = self.product.process(*self.COMMANDS[index])

    def kill(self, index, number=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            self.processes[index].send_signal(number)
        self.processes[index].wait(30)

    @contextlib.contextmanager
    def paused(self):
        self.signal(signal.SIGSTOP)
        yield
        self.signal(signal.SIGCONT)

    def signal(self, number):
        for process in self.processes:
            process.send_signal(number)

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(30)


@pytest.fixture
def workers(product):
    workers = Workers(product)
    yield workers
    workers.stop()


@pytest.fixture
def token(product):
    return product.token()


def post_file(product, token, rows):
    body = "".join(json.dumps({"text": text}) + "\n" for text in rows).encode()
    headers = {"Content-Type": "application/x-ndjson", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(product.url + "/api/v1/sentiment/tasks", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 202
        return json.load(answer)["task_id"]


def status(product, token, task):
    for _ in range(100):  # gunicorn soon replaces a web process that was killed
        code, shown = call(f"{product.url}/api/v1/sentiment/tasks/{task}", token=token)
        if code == 200:
            return shown
        time.sleep(0.1)
    raise AssertionError((code, shown))


def wait_until_ended(product, token, task, workers, seconds=90):
    deadline = time.monotonic() + seconds
    while (shown := status(product, token, task))["status"] in ("queued", "running", "cancelling"):
        assert time.monotonic() < deadline, shown
        workers.keep_alive()
        time.sleep(0.3)
    return shown


def results(product, token, task):
    headers = {"Accept": "application/x-ndjson", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{product.url}/api/v1/sentiment/tasks/{task}/results", headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [json.loads(line) for line in answer]


def check_every_row(product, token, task, rows, scorer):
    found = results(product, token, task)
    assert [row["index"] for row in found] == list(range(len(rows)))
    assert all(row["scores"] == scorer.score(text)._asdict() for row, text in zip(found, rows, strict=True))


@pytest.fixture
def scorer(pipeline):
    return training.compile_pipeline(pipeline)


def kill_worker_while_postgresql_is_down(product, workers):
    product.servers.stop_postgres()
    workers.kill(0)
    workers.keep_alive()
    time.sleep(3)
    product.servers.start_postgres()


def stop_redis_for_40_seconds(product, _workers):
    product.servers.stop_valkey()
    time.sleep(40)  # by then, RQ's own retries would pause for half a minute
    product.servers.start_valkey()


FAILURES = {
    "worker killed": lambda product, workers: workers.kill(random.randrange(2)),
    "worker stopped": lambda product, workers: workers.kill(random.randrange(2), signal.SIGTERM),
    "reconciler killed": lambda product, workers: NAIVE or workers.kill(2),
    "web process killed": lambda product, workers: os.kill(random.choice(product.workers()), signal.SIGKILL),
    "redis wiped": lambda product, workers: redis.Redis.from_url(product.servers.redis_url).flushall(),
    "redis restarted": lambda product, workers: (product.servers.stop_valkey(), product.servers.start_valkey()),
    "postgresql restarted": lambda product, workers: product.servers.restart_postgres("fast"),
    "worker killed while postgresql is away": kill_worker_while_postgresql_is_down,
    "postgresql crashed": lambda product, workers: product.servers.restart_postgres("immediate"),
}


def test_each_row_has_one_result_whatever_is_killed(product, workers, token, scorer):
    rows = texts()
    task = post_file(product, token, rows)
    ended = time.monotonic() + SECONDS
    blows = []
    while time.monotonic() < ended:
        name = random.choice(list(FAILURES)) if len(blows) >= len(FAILURES) else list(FAILURES)[len(blows)]
        FAILURES[name](product, workers)
        blows.append(name)
        time.sleep(random.uniform(0, 1.5))
        workers.keep_alive()
        if status(product, token, task)["status"] == "completed":
            check_every_row(product, token, task, rows, scorer)
            task = post_file(product, token, rows)
    shown = wait_until_ended(product, token, task, workers)
    assert shown["status"] == "completed", blows
    assert shown["request_counts"] == {"total": ROWS, "completed": ROWS, "failed": 0}, blows
    check_every_row(product, token, task, rows, scorer)


@slow_test
@pytest.mark.parametrize("failure", ["worker killed", "redis wiped", "redis away for long", "postgresql restarted"])
def test_work_continues_within_fifteen_seconds(product, workers, token, failure):
    task = post_file(product, token, texts())
    while status(product, token, task)["request_counts"]["completed"] == 0:
        time.sleep(0.05)
    (FAILURES | {"redis away for long": stop_redis_for_40_seconds})[failure](product, workers)
    failed_at = time.monotonic()
    workers.keep_alive()
    wait_until_ended(product, token, task, workers, seconds=60)
    # Lost work must be put back within 15 seconds. Scoring the rest takes less than 10 seconds.
    assert time.monotonic() - failed_at < 15 + 10


@slow_test
def test_small_task_does_not_wait_behind_large_task(product, workers, token):
    with workers.paused():  # otherwise they would score it while it is uploaded
        large = post_file(product, token, texts(300_000))
    before = status(product, token, large)["request_counts"]["completed"]
    small = post_file(product, token, texts(100))
    wait_until_ended(product, token, small, workers, seconds=60)
    meanwhile = status(product, token, large)
    assert meanwhile["status"] == "running"
    # This counts rows of the large task instead of seconds, because a slow machine scores as many rows meanwhile.
    assert meanwhile["request_counts"]["completed"] - before < 100_000
    status_code, _ = call(f"{product.url}/api/v1/sentiment/tasks/{large}/cancel", {}, token)
    assert status_code == 200
    shown = wait_until_ended(product, token, large, workers)
    assert shown["status"] == "cancelled"
    assert 0 < shown["request_counts"]["completed"] < 300_000


def test_web_process_killed_during_upload_leaves_no_task(product, workers, token):
    before = len(call(product.url + "/api/v1/sentiment/tasks?limit=100", token=token)[1]["items"])

    def rows():
        line = json.dumps({"text": "a text that never ends"}).encode() + b"\n"
        for number in range(200):
            if number == 100:
                time.sleep(1)  # until a web process has accepted the upload
                for worker in product.workers():
                    os.kill(worker, signal.SIGKILL)
            yield line * 500

    headers = {"Content-Type": "application/x-ndjson", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(product.url + "/api/v1/sentiment/tasks", rows(), headers)
    with pytest.raises(OSError):
        urllib.request.urlopen(request, timeout=30)
    product.wait_until_ready()
    assert len(call(product.url + "/api/v1/sentiment/tasks?limit=100", token=token)[1]["items"]) == before
