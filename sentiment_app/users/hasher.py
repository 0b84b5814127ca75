"""The program that hashes passwords for `hashing`: it answers each line of its input with a line, as JSON."""

import contextlib
import json
import os
import resource
import signal
import sys
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

# Scoring gets about ten times as much of a busy core as hashing, so that a flood of sign-ins does not stop it.
NICENESS = 10


def answer(request: dict[str, Any]) -> Any:
    """The hash of a password; or, if the request has a hash, whether the password matches it."""
    if "hash" in request:
        try:
            return PasswordHasher().verify(request["hash"], request["password"])
        except (VerifyMismatchError, InvalidHashError):
            return False
    return PasswordHasher(**request["costs"]).hash(request["password"])


def main() -> None:
    """Answer until the input ends, as it does when the process of the application ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain passwords
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C, the application answers its last requests
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    for line in sys.stdin.buffer:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
