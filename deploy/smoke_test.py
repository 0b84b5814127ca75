#!/usr/bin/env python3
"""Smoke test: score a text through Nginx as a client would. The exit status is 0 if the release answers correctly.

    smoke_test.py NAME RELEASE [ADDRESS]         such as: smoke_test.py sentiment.example.org 0a1b2c3d4e5f

It connects to ADDRESS (default 127.0.0.1) under NAME. The certificate is not verified, because it may be about to be
renewed. If ADDRESS has a port, it is an instance, and is called without TLS and without Nginx.
"""

import http.client
import json
import socket
import ssl
import sys
import time
from pathlib import Path

CREDENTIALS = Path("/etc/sentiment/credentials")
ACCOUNT = {"username": CREDENTIALS / "smoke_test_account", "password": CREDENTIALS / "smoke_test_password"}


class Connection(http.client.HTTPSConnection):
    """A TLS connection to an address under another name."""

    def __init__(self, name: str, address: str) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        super().__init__(name, timeout=10, context=context)
        self.address = address
        self.context = context

    def connect(self) -> None:
        plain = socket.create_connection((self.address, 443), self.timeout)
        self.sock = self.context.wrap_socket(plain, server_hostname=self.host)


def main(name: str, release: str, address: str = "127.0.0.1") -> None:
    """Sign in, score a text, and check which release answered."""
    host, _, port = address.partition(":")
    api = http.client.HTTPConnection(host, int(port), timeout=10) if port else Connection(name, address)

    def call(method: str, path: str, body: object = None, token: str | None = None) -> dict[str, str]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        for attempt in range(3):
            try:
                api.request(method, path, json.dumps(body) if body else None, headers)
                answer = api.getresponse()
                content = answer.read().decode()
            except (OSError, http.client.HTTPException):  # Nginx closes its connections when it is reloaded
                api.close()
                if attempt == 2:
                    raise
                continue
            if answer.status != 429:
                break
            time.sleep(min(60, int(answer.headers["Retry-After"] or 1)))
        if answer.status != 200:
            sys.exit(f"smoke test: {method} {path} was answered with {answer.status}: {content[:500]}")
        return dict(json.loads(content))

    running = call("GET", "/version")
    if running["release"] != release:
        sys.exit(f"smoke test: release {running['release']} answered, not {release}")
    account = {field: file.read_text() for field, file in ACCOUNT.items()}
    token = call("POST", "/api/v1/auth/login", account)["access_token"]
    started = time.monotonic()
    scored = call("POST", "/api/v1/sentiment/analyze", {"text": "A wonderful, lovely day."}, token)
    if scored["sentiment"] != "positive":
        sys.exit(f"smoke test: a positive text was scored as {scored['sentiment']}")
    print(f"{release} with model {scored['model_version']} answered in {(time.monotonic() - started) * 1000:.0f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
