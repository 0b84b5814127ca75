"""Requests and acknowledged rows when a part of the product fails under load."""

import json
import os
import select
import signal
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis
from harness import PASSWORD, call

THREADS = 8
# The pause between two requests of a thread. Runs with CHAOS_SECONDS have the machine for themselves, and send more.
PAUSE = 0.01 if "CHAOS_SECONDS" in os.environ else 0.04
TIMEOUT_SECONDS = 120


class Load:
    """Scores texts in several threads until the block ends, and records each answer."""

    def __init__(self, product):
        self.url = product.url + "/api/v1/sentiment/analyze"
        self.token = product.token()
        self.answers, self.bodies = [], []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(THREADS)]

    def run(self):
        while not self.stopping.is_set():
            started = time.monotonic()
            status, body = call(self.url, {"text": "a text under load"}, self.token)
            self.answers.append((status, body and body.get("id"), time.monotonic() - started))
            self.bodies.append(body or {})
            time.sleep(PAUSE)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.wait_for_answers(THREADS)
        return self

    def wait_for_answers(self, answers):
        """Wait until this number of further requests is answered."""
        enough, deadline = len(self.answers) + answers, time.monotonic() + TIMEOUT_SECONDS
        while len(self.answers) < enough:
            assert time.monotonic() < deadline, "no request is answered any more"
            time.sleep(0.02)

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)

    def wait_until_all_have(self, version):
        """Wait until every process serves a model: then the last 100 answers come from this model."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while {entry.get("model_version") for entry in self.bodies[-100:]} != {version}:
            assert time.monotonic() < deadline, f"some process has not switched to {version}"
            self.wait_for_answers(THREADS)

    def statuses(self):
        return {status for status, _, _ in self.answers}

    def acknowledged(self):
        return [row_id for status, row_id, _ in self.answers if status == 200]


def stored(product):
    with psycopg2.connect(product.servers.database_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id::text FROM sentiment_requests")
        return [row[0] for row in cursor.fetchall()]


def test_killed_process_loses_no_acknowledged_row(product):
    with Load(product) as load:
        for _ in range(3):
            os.kill(product.workers()[0], signal.SIGKILL)
            load.wait_for_answers(150)
    acknowledged = load.acknowledged()
    assert len(acknowledged) > 100
    assert set(acknowledged) <= set(stored(product))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgresql_restart_fails_no_request_and_stores_each_row_once(product, mode):
    before = len(stored(product))
    with Load(product) as load:
        load.wait_for_answers(50)
        product.servers.restart_postgres(mode)
        load.wait_for_answers(100)
    assert load.statuses() == {200}
    acknowledged = load.acknowledged()
    assert len(acknowledged) > 100
    assert set(acknowledged) <= set(stored(product))
    assert len(stored(product)) - before == len(acknowledged)


@pytest.mark.asvs("16.5.2")
def test_scoring_continues_without_redis(product):
    with Load(product) as load:
        product.servers.stop_valkey()
        load.wait_for_answers(200)  # fails if requests wait long for Redis
        assert call(product.url + "/readyz")[1]["status"] == "degraded"
        product.servers.start_valkey()
        load.wait_for_answers(100)
    assert load.statuses() == {200}
    product.wait_until_ready()
    assert call(product.url + "/readyz")[1]["status"] == "ok"


@contextmanager
def hung_redis(product):
    """Suspend Redis: it accepts connections, and does not answer."""
    server = redis.Redis.from_url(product.servers.redis_url).info("server")["process_id"]
    os.kill(server, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server, signal.SIGCONT)


def test_scoring_continues_while_redis_hangs(product):
    with Load(product) as load:
        with hung_redis(product):
            load.wait_for_answers(200)  # fails if requests wait long for Redis
        load.wait_for_answers(50)
    assert load.statuses() == {200}


def test_sign_in_is_limited_in_memory_while_redis_hangs(product):
    with hung_redis(product):
        answers = run_in_parallel(8, lambda _: call(product.url + "/api/v1/auth/refresh", {"refresh_token": "x"}))
    assert {status for status, _ in answers} <= {401, 429}


@pytest.mark.asvs("16.5.2")
def test_missing_postgresql_answers_503_with_retry_after(product):
    token = product.token()
    product.servers.stop_postgres()
    try:
        status, problem = call(product.url + "/api/v1/sentiment/analyze", {"text": "x"}, token, timeout=TIMEOUT_SECONDS)
        assert (status, problem["type"]) == (503, "urn:sentiment-app:problem:unavailable")
        assert call(product.url + "/livez")[0] == 200
        assert call(product.url + "/readyz")[1]["checks"]["database"] == "does not answer"
    finally:
        product.servers.start_postgres()
    assert call(product.url + "/api/v1/sentiment/analyze", {"text": "x"}, token)[0] == 200


@pytest.mark.skipif("CHAOS_SECONDS" not in os.environ, reason="a quarter of a minute; CHAOS_SECONDS=60 runs it")
def test_hanging_postgresql_answers_503(product):
    token = product.token()
    with psycopg2.connect(product.servers.database_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        postmaster = psutil.Process(cursor.fetchone()[0]).parent()
    single = {"WEB_CONCURRENCY": "1"}  # a second process might start while PostgreSQL hangs, and have no model
    with product.another_web(DATABASE_STATEMENT_SECONDS="1", DATABASE_RETRY_SECONDS="1", **single) as url:
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            process.suspend()
        try:
            started = time.monotonic()
            status, problem = call(url + "/api/v1/sentiment/analyze", {"text": "x"}, token)
            assert (status, problem["type"]) == (503, "urn:sentiment-app:problem:unavailable")
            assert time.monotonic() - started < 10
            assert call(url + "/livez")[0] == 200
            assert call(url + "/readyz")[1]["checks"]["database"] == "does not answer"
        finally:
            for process in family:
                process.resume()
        assert call(url + "/api/v1/sentiment/analyze", {"text": "x"}, token)[0] == 200


def test_graceful_stop_finishes_running_requests(product):
    with Load(product) as load:
        load.wait_for_answers(50)
        os.kill(product.workers()[0], signal.SIGTERM)
        load.wait_for_answers(200)
    # A connection that the process had not accepted yet when it stopped may be lost: Nginx sends its request again.
    assert [status for status, _, _ in load.answers if status != 200] in ([], [0], [0, 0])
    assert set(load.acknowledged()) <= set(stored(product))


def run_in_parallel(number, work):
    """Call `work(0)`, `work(1)` and so on in parallel threads, and return the results."""
    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(work, range(number)))


def test_concurrent_registrations_of_a_name_create_one_account(product):
    def register(number):
        account = {"username": "Racer", "email": f"racer-{number}@example.org", "password": PASSWORD}
        return call(product.url + "/api/v1/auth/register", account)[0]

    assert sorted(run_in_parallel(8, register)) == [201] + [409] * 7


def read_answer(client: socket.socket) -> tuple[int, str]:
    """Read the status and the problem type from a raw connection."""
    response = HTTPResponse(client)
    response.begin()
    return response.status, json.loads(response.read())["type"]


def test_interrupted_upload_creates_no_task(product):
    token, tasks = product.token(), product.url + "/api/v1/sentiment/tasks?limit=100"
    before = call(tasks, token=token)[1]["items"]
    head = f"POST /api/v1/sentiment/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    with socket.create_connection(("127.0.0.1", product.port), timeout=60) as client:
        client.sendall(f"{head}Content-Type: text/csv\r\nContent-Length: 1000\r\n\r\ntext\nfine\n".encode())
        client.shutdown(socket.SHUT_WR)
        answered = read_answer(client)
    assert answered == (400, "urn:sentiment-app:problem:malformed")
    after = call(tasks, token=token)[1]["items"]
    assert [entry["task_id"] for entry in after] == [entry["task_id"] for entry in before]


def test_slow_upload_is_answered_with_408(product):
    head = f"POST /api/v1/sentiment/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {product.token()}\r\n"
    with (
        product.another_web(UPLOAD_SECONDS="1") as url,
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60) as client,
    ):
        client.sendall(f"{head}Content-Type: text/csv\r\nContent-Length: 1000\r\n\r\n".encode())
        client.sendall(b"text\n")
        while not select.select([client], [], [], 0.3)[0]:
            client.sendall(b"a fine row\n")
        answered = read_answer(client)
    assert answered == (408, "urn:sentiment-app:problem:upload-too-slow")


@pytest.mark.asvs("16.2.4", "16.5.1", "16.5.4")
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"such private words, of a body that is longer than it says\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nsuch private words\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: such private words\r\n\r\n", 501),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: such private words\r\n\r\n", 417),
        (b"GET /livez?" + b"such+private+words" * 500 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /livez HTTP/1.1\r\n" + b"Such: private words\r\n" * 101 + b"\r\n", 431),
    ],
)
def test_invalid_http_is_answered_with_problem_and_not_quoted(product, sent, status):
    with socket.create_connection(("127.0.0.1", product.port), timeout=60) as client:
        client.sendall(sent)
        response = HTTPResponse(client)
        response.begin()
        problem = json.loads(response.read())
        assert client.recv(1) == b""
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (response.status, problem["status"], problem["title"]) == (status, status, response.reason)
    assert response.headers["X-Request-ID"] == problem["request_id"]
    assert "private" not in json.dumps(problem)
    log = product.log.read_text()
    assert problem["request_id"] in log
    assert "private words" not in log


@pytest.mark.asvs("16.2.5")
def test_log_is_json_without_text_token_or_password(product):
    token = product.token()
    call(product.url + "/api/v1/sentiment/analyze", {"text": "a very private text"}, token)
    log = product.log.read_text()
    assert '"route":"/api/v1/sentiment/analyze"' in log
    for secret in ("private text", token, "battery staple", "that signs"):
        assert secret not in log


def test_metrics_add_up_over_processes(product):
    url = f"http://127.0.0.1:{product.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=60) as answer:
        text = answer.read().decode()
    assert 'sentiment_http_requests_total{method="POST",route="/api/v1/sentiment/analyze",status="200"}' in text
    assert call(product.url + "/metrics")[0] == 404


def test_model_switch_under_load_fails_no_request(product, second):
    first = call(product.url + "/version")[1]["model_version"]
    with Load(product) as load:
        product.run_or_fail("flask", "model", "activate", second)
        load.wait_until_all_have(second)
        product.run_or_fail("flask", "model", "rollback")
        load.wait_until_all_have(first)
    assert load.statuses() == {200}
    assert {entry["model_version"] for entry in load.bodies} == {first, second}
    # Each answer has the scores of the model that it names.
    assert len({(entry["model_version"], entry["confidence"]) for entry in load.bodies}) == 2


def test_web_process_does_not_load_scikit_learn(product):
    for worker in product.workers():
        assert "sklearn" not in Path(f"/proc/{worker}/maps").read_text()
