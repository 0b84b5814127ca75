"""No log contains texts, passwords, tokens or addresses. The tests send marked values, and search all files."""

import json
import os
import signal
import threading
import urllib.request
from pathlib import Path

import psycopg2
import pytest
from harness import PASSWORD, call

CANARY = "canary7f3a"
"""A string that occurs only in the values that the tests send."""
DATA = ("base", "global", "pg_wal", "pg_xact", "pg_multixact", "pg_subtrans", "pg_stat", "pg_stat_tmp")
"""PostgreSQL's own data, where the values belong."""


@pytest.fixture
def send_canary(product):
    """Creates an account, and returns a function that sends a request and ignores errors."""
    account = {"username": f"u{CANARY}", "email": f"{CANARY}@example.org", "password": f"{PASSWORD} {CANARY}"}
    call(product.url + "/api/v1/auth/register", account)
    del account["email"]
    status, tokens = call(product.url + "/api/v1/auth/login", account)
    assert status == 200, tokens

    def send(path, body, token=tokens["access_token"]):
        return call(product.url + "/api/v1" + path, body, token, timeout=60)[0]

    send.token = tokens["access_token"]
    return send


def lock_tables(product, release):
    """Lock the tables that every insert needs, until `release` is set."""
    with psycopg2.connect(product.servers.database_url) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE sentiment_requests, users, tasks, task_chunks IN ACCESS EXCLUSIVE MODE")
        release.wait(60)


def find_in_files(folder: Path, wanted: bytes):
    places = []
    for file in folder.rglob("*"):
        if not file.is_file() or any(part in DATA for part in file.relative_to(folder).parts):
            continue
        try:
            content = file.read_bytes()
        except OSError:
            continue
        if wanted in content:
            places.append((str(file.relative_to(folder)), content[max(0, content.find(wanted) - 200) :][:400]))
    return places


@pytest.mark.asvs("14.2.2", "16.2.5")
def test_no_file_contains_a_customer_value(product, send_canary):
    folder = product.models.parent
    texts = {"text": f"A wonderful {CANARY} day."}
    url = f"https://example.org/hook?secret={CANARY}"
    for path, body in (
        ("/sentiment/analyze", texts),
        ("/sentiment/analyze", {**texts, "wrong": CANARY}),
        ("/sentiment/analyze/batch", {"texts": [texts["text"]], "webhook_url": url}),
        ("/sentiment/analyze/batch", {"texts": [texts["text"]], "webhook_url": f"http://{CANARY}/"}),
        ("/sentiment/feedback", {**texts, "label": "positive"}),
        ("/sentiment/feedback", {**texts, "label": CANARY}),
        # An existing username or email address: PostgreSQL's DETAIL would quote it.
        ("/auth/register", {"username": f"U{CANARY}", "email": f"other-{CANARY}@example.org", "password": PASSWORD}),
        ("/auth/register", {"username": f"other{CANARY}", "email": f"{CANARY}@EXAMPLE.org", "password": PASSWORD}),
        ("/auth/login", {"username": CANARY, "password": CANARY}),
        ("/auth/refresh", {"refresh_token": CANARY}),
    ):
        send_canary(path, body)
    # These statements wait for a lock, are slow, and are interrupted by a crash of the server.
    release = threading.Event()
    locker = threading.Thread(target=lock_tables, args=(product, release))
    locker.start()
    waiting = [
        threading.Thread(target=send_canary, args=(path, body))
        for path, body in (
            ("/sentiment/analyze", texts),
            ("/sentiment/analyze/batch", {"texts": [texts["text"]]}),
            ("/sentiment/feedback", {**texts, "label": "negative"}),
            ("/auth/register", {"username": f"v{CANARY}", "email": f"v{CANARY}@example.org", "password": PASSWORD}),
        )
    ]
    for thread in waiting:
        thread.start()
    wait_until_blocked(product, len(waiting))
    release.set()
    locker.join()
    crash_in_an_insert(product)
    for thread in waiting:
        thread.join()
    product.wait_until_ready()
    assert send_canary("/sentiment/analyze", texts) == 200
    with urllib.request.urlopen(f"http://127.0.0.1:{product.metrics_port}/metrics", timeout=60) as answer:
        assert CANARY.encode() not in answer.read()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        assert CANARY.encode() not in read(process)
    assert find_in_files(folder, CANARY.encode()) == []
    assert find_in_files(folder, send_canary.token.encode()) == []
    assert find_in_files(folder, b"$argon2id$") == []
    # Check the search itself: PostgreSQL has logged the provoked errors in the searched folder.
    logs = [file for file in folder.rglob("*") if file.is_file() and b"duplicate key value" in file.read_bytes()]
    assert logs, "PostgreSQL's log contains none of the provoked errors"


def read(file):
    try:
        return file.read_bytes()
    except OSError:
        return b""


def wait_until_blocked(product, number):
    sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'sentiment'"
    connection = psycopg2.connect(product.servers.database_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for _ in range(300):
            cursor.execute(sql)
            if cursor.fetchone()[0] >= number:
                break
            threading.Event().wait(0.1)
        # Wait longer than deadlock_timeout, after which log_lock_waits writes to the log.
        threading.Event().wait(1.5)
    connection.close()


def crash_in_an_insert(product):
    """Kill a backend while it runs a statement that contains a value. The server logs the crash, and restarts."""
    connection = psycopg2.connect(product.servers.database_url)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]

        def kill():
            threading.Event().wait(0.5)
            os.kill(pid, signal.SIGKILL)

        threading.Thread(target=kill).start()
        with pytest.raises(psycopg2.Error):
            cursor.execute(f"SELECT pg_sleep(60), '{json.dumps(CANARY)}'")
    connection.close()
