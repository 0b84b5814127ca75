"""Hashes passwords in a process of its own, with a low priority.

A hash takes a core for 25 ms, and scoring a text takes a thousandth of that. In the threads of a web process, a flood
of sign-ins takes most of scoring's time. A thread cannot have a low priority, because while it waits for a core it may
hold the interpreter lock that all other threads need.
"""

import contextlib
import json
import select
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO, Any, cast

from sentiment_app.errors import UnavailableError
from sentiment_app.infrastructure.app_state import AppKey

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "sentiment_app.users.hasher"]
# A hash on a busy host takes a second. The process is replaced if it does not answer for this long.
ANSWER_SECONDS = 20.0


class HashingProcess:
    """Starts the process at the first request, and again if it has ended. Requests wait for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stop: weakref.finalize[[subprocess.Popen[bytes]], HashingProcess] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the process, if it was started."""
        return self._process.pid if self._process else None

    def ask(self, request: dict[str, Any]) -> Any:
        """The answer to a request (see `hasher`).

        Raises:
            UnavailableError: the process does not answer.
        """
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            for _ in range(2):  # the process may have been killed since the last request
                if answer := self._exchange(self._start(), line):
                    return json.loads(answer)
                self.close()
        raise UnavailableError

    def close(self) -> None:
        """Stop the process."""
        if self._stop:
            self._stop()
        self._process = self._stop = None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            # It gets no settings, because it needs no secret. Its messages could quote passwords. It stays in the
            # session of the application: Linux compares priorities only within a session (autogroups, sched(7)).
            self._process = subprocess.Popen(  # noqa: S603  # our own program
                COMMAND,
                cwd=ROOT,
                env={},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._stop = weakref.finalize(self, _kill, self._process)
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes) -> bytes | None:
        stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        try:
            stdin.write(line)
            stdin.flush()
        except BrokenPipeError:
            return None
        waiting = select.poll()
        waiting.register(stdout, select.POLLIN)
        if not waiting.poll(ANSWER_SECONDS * 1000):
            return None
        answer = stdout.readline()
        return answer if answer.endswith(b"\n") else None


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):  # a request that the process has not read
            cast(IO[bytes], pipe).close()
    process.wait()


HASHING = AppKey[HashingProcess]("hashing")
