"""Texts, passwords, tokens and addresses reach no log: they are planted, and whatever was written is searched."""

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
"""In each planted value, and nowhere else."""
DATA = ("base", "global", "pg_wal", "pg_xact", "pg_multixact", "pg_subtrans", "pg_stat", "pg_stat_tmp")
"""PostgreSQL's own data, where the values belong."""


@pytest.fixture
def plant(product):
    """Makes an account; returns a function that sends a request, whatever is answered."""
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
    """Hold what every insert needs, until it is released."""
    with psycopg2.connect(product.servers.database_url) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE sentiment_requests, users, tasks, task_chunks IN ACCESS EXCLUSIVE MODE")
        release.wait(60)


def found_in(folder: Path, wanted: bytes):
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


def test_no_file_contains_a_customer_value(product, plant):
    folder = product.models.parent
    texts = {"text": f"A wonderful {CANARY} day."}
    url = f"https://example.org/hook?secret={CANARY}"
    for path, body in (
        ("/sentiment/analyze", texts),
        ("/sentiment/analyze", {**texts, "wrong": CANARY}),
        ("/sentiment/analyze/batch", {"texts": [texts["text"]], "webhook_url": url}),
        ("/sentiment/analyze/batch", {"texts": [texts["text"]], "webhook_url": f"http://{CANARY}/"}),
        # A name that is taken, with another address: PostgreSQL's DETAIL would quote it.
        ("/auth/register", {"username": f"U{CANARY}", "email": f"other-{CANARY}@example.org", "password": PASSWORD}),
        ("/auth/register", {"username": f"other{CANARY}", "email": f"{CANARY}@EXAMPLE.org", "password": PASSWORD}),
        ("/auth/login", {"username": CANARY, "password": CANARY}),
        ("/auth/refresh", {"refresh_token": CANARY}),
    ):
        plant(path, body)
    # Statements that wait, are slow, and are cut off by a crash of the server.
    release = threading.Event()
    locker = threading.Thread(target=lock_tables, args=(product, release))
    locker.start()
    waiting = [
        threading.Thread(target=plant, args=(path, body))
        for path, body in (
            ("/sentiment/analyze", texts),
            ("/sentiment/analyze/batch", {"texts": [texts["text"]]}),
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
    assert plant("/sentiment/analyze", texts) == 200
    with urllib.request.urlopen(f"http://127.0.0.1:{product.metrics_port}/metrics", timeout=60) as answer:
        assert CANARY.encode() not in answer.read()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        assert CANARY.encode() not in read(process)
    assert found_in(folder, CANARY.encode()) == []
    assert found_in(folder, plant.token.encode()) == []
    assert found_in(folder, b"$argon2id$") == []
    # The search finds what there is: the account's row, in PostgreSQL's data; and the logs were written.
    logs = [file for file in folder.rglob("*") if file.is_file() and b"duplicate key value" in file.read_bytes()]
    assert logs, "PostgreSQL's log has not one of the errors that were provoked"


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
        # Longer than deadlock_timeout, after which log_lock_waits speaks, and than what used to be a slow statement.
        threading.Event().wait(1.5)
    connection.close()


def crash_in_an_insert(product):
    """End a backend that runs a statement with a value in it: the server tells what it was doing, and restarts."""
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
