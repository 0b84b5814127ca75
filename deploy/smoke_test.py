#!/usr/bin/env python3
"""Smoke test: score a text through Nginx as a client would. The exit status is 0 if the release answers correctly.

    smoke_test.py [--task] NAME RELEASE [ADDRESS]         such as: smoke_test.py sentiment.example.org 0a1b2c3d4e5f

It connects to ADDRESS (default 127.0.0.1) under NAME. The certificate is not verified, because it may be about to be
renewed. An ADDRESS with a port is a web instance, which is called directly, without TLS and Nginx. With --task, a
worker must also score a task.
"""

import argparse
import http.client
import json
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

# A task waits for the reconciler if a worker stopped while it had the task's job.
TASK_SECONDS, TIMEOUT_SECONDS = 30, 40
TEXT = "A wonderful, lovely day."
API = "/api/v1"
CREDENTIALS = Path("/etc/sentiment/credentials")
ACCOUNT = {"username": CREDENTIALS / "smoke_test_account", "password": CREDENTIALS / "smoke_test_password"}


class TLSConnection(http.client.HTTPSConnection):
    """A TLS connection to an address under another name."""

    def __init__(self, name: str, address: str) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        super().__init__(name, timeout=TIMEOUT_SECONDS, context=context)
        self.address = address
        self.context = context

    def connect(self) -> None:
        plain = socket.create_connection((self.address, 443), self.timeout)
        self.sock = self.context.wrap_socket(plain, server_hostname=self.host)


class Client:
    """Calls the API. A call that fails ends the program with a message."""

    def __init__(self, name: str, address: str) -> None:
        host, _, port = address.partition(":")
        self.connection: http.client.HTTPConnection = (
            http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_SECONDS)
            if port
            else TLSConnection(name, address)
        )
        self.headers = {"Content-Type": "application/json"}

    def sign_in(self) -> None:
        """Sign in to the account of smoke tests."""
        account = {field: file.read_text() for field, file in ACCOUNT.items()}
        token = self.call("POST", f"{API}/auth/login", account)["access_token"]
        self.headers["Authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, body: object = None, **headers: str) -> dict[str, Any]:
        """The body of the response. Waits if a rate limit is exceeded."""
        status, content, retry_after = self._send(method, path, body, headers)
        if status == http.client.TOO_MANY_REQUESTS:
            time.sleep(min(60, int(retry_after or 1)))
            status, content, _ = self._send(method, path, body, headers)
        if status not in (200, 202, 204):
            fail(f"{method} {path} was answered with {status}: {content[:500]}")
        return dict(json.loads(content or "{}"))

    def _send(self, method: str, path: str, body: object, headers: dict[str, str]) -> tuple[int, str, str | None]:
        for attempt in (1, 2, 3):
            try:
                self.connection.request(method, path, json.dumps(body) if body else None, self.headers | headers)
                response = self.connection.getresponse()
                return response.status, response.read().decode(), response.headers["Retry-After"]
            except (OSError, http.client.HTTPException):  # Nginx closes its connections when it is reloaded
                self.connection.close()
                if attempt == 3:
                    raise
        raise AssertionError


def fail(reason: str) -> None:
    """End the program."""
    sys.exit(f"smoke test: {reason}")


def check_release(client: Client, release: str) -> None:
    """Check which release answers."""
    running = client.call("GET", "/version")
    if running["release"] != release:
        fail(f"release {running['release']} answered, not {release}")


def check_text(client: Client) -> None:
    """Have a text scored."""
    check_sentiment(client.call("POST", f"{API}/sentiment/analyze", {"text": TEXT}), "web instance")


def check_sentiment(result: dict[str, Any], who: str) -> None:
    """Check the result of the text."""
    if result.get("sentiment") != "positive":
        fail(f"a {who} scored a positive text as {result.get('sentiment') or result}")


def check_task(client: Client) -> None:
    """Have a task scored, and delete it."""
    wait = {"Prefer": f"wait={TASK_SECONDS}"}
    task = client.call("POST", f"{API}/sentiment/analyze/batch", {"texts": [TEXT]}, **wait)
    if task["status"] != "completed":
        fail(f"after {TASK_SECONDS} seconds, a task is {task['status']}: no worker has scored it")
    check_sentiment(task["result"][0], "worker")
    client.call("DELETE", f"{API}/sentiment/tasks/{task['task_id']}")


def main() -> None:
    """Read the arguments, and run the checks."""
    parser = argparse.ArgumentParser(description="Score a text as a client would, and check the answer.")
    parser.add_argument("--task", action="store_true", help="also have a worker score a task")
    parser.add_argument("name", help="the server's name, such as sentiment.example.org")
    parser.add_argument("release", help="the release that must answer")
    parser.add_argument("address", nargs="?", default="127.0.0.1", help="of Nginx, or of an instance with its port")
    given = parser.parse_args()

    client = Client(given.name, given.address)
    check_release(client, given.release)
    client.sign_in()
    check_text(client)
    if given.task:
        check_task(client)
    print(f"{given.release} answers at {given.address}")


if __name__ == "__main__":
    main()
