#!/usr/bin/env python3
"""Ask the service for a score as a caller would, through Nginx: exits with 0 if this release gives it.

    gate NAME RELEASE [ADDRESS]         such as: gate sentiment.example.org 0a1b2c3d4e5f

Connects to ADDRESS (127.0.0.1) under NAME. The certificate is not judged: it may be about to be renewed.
With a port, ADDRESS is an instance, which is asked without TLS and without Nginx.
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
    """A connection to an address, under a name."""

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
    """Sign in, score, and ask which release answered."""
    host, _, port = address.partition(":")
    api = http.client.HTTPConnection(host, int(port), timeout=10) if port else Connection(name, address)

    def call(method: str, path: str, body: object = None, token: str | None = None) -> dict:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        for _ in range(3):
            api.request(method, path, json.dumps(body) if body else None, headers)
            answer = api.getresponse()
            content = answer.read().decode()
            if answer.status != 429:
                break
            time.sleep(min(60, int(answer.headers["Retry-After"] or 1)))
        if answer.status != 200:
            sys.exit(f"gate: {method} {path} is answered {answer.status}: {content[:500]}")
        return json.loads(content)

    runs = call("GET", "/version")
    if runs["release"] != release:
        sys.exit(f"gate: {runs['release']} answers, not {release}")
    account = {name: file.read_text() for name, file in ACCOUNT.items()}
    token = call("POST", "/api/v1/auth/login", account)["access_token"]
    begun = time.monotonic()
    scored = call("POST", "/api/v1/sentiment/analyze", {"text": "A wonderful, lovely day."}, token)
    if scored["sentiment"] != "positive":
        sys.exit(f"gate: a wonderful day is found {scored['sentiment']}")
    print(f"{release} with model {scored['model_version']} answers in {(time.monotonic() - begun) * 1000:.0f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
