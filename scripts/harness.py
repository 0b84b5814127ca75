"""Runs the whole product as real processes, for system tests and benchmarks."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servers import Servers

from sentiment_app.ml.artifact import Artifact

ROOT = Path(__file__).parent.parent
PASSWORD = "correct horse battery staple"  # noqa: S105  # of an account that exists only during a test


def free_port() -> int:
    """A TCP port that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(url: str, body: Any = None, token: str | None = None, timeout: float = 30) -> tuple[int, Any]:
    """Status and JSON of a request. The status is 0 if the connection failed."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = json.dumps(body).encode() if body is not None else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=timeout) as answer:  # noqa: S310  # our own
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except (OSError, ValueError, http.client.HTTPException):
        return 0, None


class Product:
    """gunicorn on its own PostgreSQL and Valkey, with one active model and the account ada."""

    def __init__(self, directory: Path, artifact: Artifact, version: str) -> None:
        self.servers = Servers(directory)
        self.servers.start()
        self.port, self.metrics_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "ENVIRONMENT": "production",
            "DATABASE_URL": self.servers.database_url,
            "REDIS_URL": self.servers.redis_url,
            "JWT_SECRET_KEY": "a key that signs the tokens of tests only",
            "API_KEY_HASH_KEY": "a key that hashes the API keys of tests only",
            "MODEL_SIGNING_KEY": "a key that signs the models of tests only",
            "MODEL_DIR": str(directory / "models"),
            "MODEL_CACHE_DIR": str(directory / "cache"),
            "DATA_DIR": str(directory / "data"),
            "METRICS_BIND": f"127.0.0.1:{self.metrics_port}",
            "WEB_BIND": f"127.0.0.1:{self.port}",
            "SCORING_RATE_LIMIT": "1000000 per minute",
            "AUTH_RATE_LIMIT": "1000 per minute",
            "USER_RATE_LIMIT": "100000 per minute",
            "LOGIN_RATE_LIMIT": "1000 per minute",
        }
        self.log = directory / "web.log"
        self.models = directory / "models"
        self.store_model(artifact, version)
        for command in (
            ("flask", "db", "upgrade"),
            ("flask", "model", "release", version),
            ("flask", "model", "activate", version),
        ):
            self.run_or_fail(*command)

    def store_model(self, artifact: Artifact, version: str) -> None:
        """Store a model as `flask model train` does."""
        folder = self.models / version
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_bytes(artifact.manifest)
        (folder / "serving.npz").write_bytes(artifact.serving)

    def run(self, *command: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a module in the environment of the product until it ends; `given` is its input."""
        return subprocess.run(  # noqa: S603  # our own commands
            [sys.executable, "-m", *command],
            env=self.environment,
            cwd=ROOT,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def run_or_fail(self, *command: str, given: str | None = None) -> str:
        """Run a module that must succeed, and return its output."""
        done = self.run(*command, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def process(self, *command: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start a module in the background, optionally with other settings. Its output goes to the log."""
        environment = {**self.environment, **settings}
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603  # our own commands
                [sys.executable, "-m", *command], env=environment, cwd=ROOT, stderr=log, stdout=log
            )

    def start(self) -> None:
        """Start gunicorn, wait until it is ready, and create the account."""
        self.web = self.process("gunicorn", "-c", "deploy/gunicorn.conf.py")
        self.wait_until_ready()
        account = {"username": "ada", "email": "ada@example.org", "password": PASSWORD}
        status, answer = call(self.url + "/api/v1/auth/register", account)
        assert status == 201, answer

    def wait_until_ready(self) -> None:
        """Wait until the product is ready."""
        self.wait_for(self.url)

    def wait_for(self, url: str) -> None:
        """Wait until a web server of the product is ready."""
        deadline = time.monotonic() + 120
        while call(url + "/readyz", timeout=2)[0] != 200:
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.1)

    @contextmanager
    def another_web(self, **settings: str) -> Iterator[str]:
        """Start another web server with other settings, and return its URL."""
        url = f"http://127.0.0.1:{(port := free_port())}"
        binds = {"WEB_BIND": f"127.0.0.1:{port}", "METRICS_BIND": f"127.0.0.1:{free_port()}"}
        web = self.process("gunicorn", "-c", "deploy/gunicorn.conf.py", **binds, **settings)
        try:
            self.wait_for(url)
            yield url
        finally:
            web.terminate()
            web.wait(30)

    def stop(self) -> None:
        """Stop gunicorn gracefully, then the servers."""
        self.web.send_signal(signal.SIGTERM)
        self.web.wait(30)
        self.servers.stop()

    def token(self) -> str:
        """Ada's access token."""
        status, tokens = call(self.url + "/api/v1/auth/login", {"username": "ada", "password": PASSWORD})
        assert status == 200, tokens
        return str(tokens["access_token"])

    def workers(self) -> list[int]:
        """Process ids of gunicorn's workers."""
        children = Path(f"/proc/{self.web.pid}/task/{self.web.pid}/children").read_text()
        return [int(pid) for pid in children.split()]
