"""Where log entries are read from: the journal of this host, a file, or the standard input."""

import getpass
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sentiment_app.log_search.entries import Entry, Filter, from_journal, from_text

UNITS = "sentiment-*"
FIELDS = "MESSAGE,PRIORITY,UNIT,_SYSTEMD_UNIT,_HOSTNAME"
JOURNALCTL = ("journalctl", f"--unit={UNITS}", "--output=json", f"--output-fields={FIELDS}", "--no-pager")
# What journalctl prints to users who may read no journal, or only their own.
FORBIDDEN = re.compile(rb"insufficient permissions|not seeing messages from other users")
# What it prints if no unit of the service has written a line yet.
NO_UNIT = b"Failed to add filter for units: No data available"
NO_JOURNAL = (
    "This machine has no journal. Name a file with --file FILE, or send the lines to the standard input of --file -"
)
STDIN = Path("-")


class SourceError(Exception):
    """The log cannot be read. The message says why, and what to do."""


def read_journal(wanted: Filter, *, follow: bool) -> Iterator[Entry]:
    """The entries of the service's units in the journal of this host, oldest first.

    journalctl searches for the ids, because it is much faster. The caller must still match each entry.

    Raises:
        SourceError: there is no journal, or this user may not read it.
    """
    _check_journal()
    # --all: without it, journalctl prints null instead of a message of more than 4 KB.
    options = ["--all", *(f"--{name}=@{at.timestamp():.6f}" for name, at in _limits(wanted) if at)]
    # An id that was asked for has no special characters, or they are escaped.
    if wanted.ids:
        options += [f"--grep={re.escape(wanted.ids[0])}", "--case-sensitive=yes"]
    if follow:
        options += ["--follow", "--no-tail" if wanted.since else "--lines=0"]
    with _run([*JOURNALCTL, *options]) as lines:
        yield from filter(None, map(from_journal, lines))


def _limits(wanted: Filter) -> Iterable[tuple[str, Any]]:
    return ("since", wanted.since), ("until", wanted.until)


def _check_journal() -> None:
    try:
        # Without --unit: if no unit matches, journalctl does not say whether there is a journal.
        done = subprocess.run(["journalctl", "--lines=0"], capture_output=True, check=False)  # noqa: S607  # systemd's
    except FileNotFoundError:
        raise SourceError(NO_JOURNAL) from None
    if b"No journal files were found" in done.stderr:
        raise SourceError(NO_JOURNAL)
    if FORBIDDEN.search(done.stderr):
        user = getpass.getuser()
        raise SourceError(
            f"The user {user} may not read the journal. Run the command with sudo, or add the user to the group "
            f"systemd-journal, and sign in again: sudo usermod --append --groups systemd-journal {user}"
        )
    _check_exit(done.returncode, done.stderr)


def _check_exit(status: int, stderr: bytes) -> None:
    # journalctl also exits with 1 if it found nothing, but then it prints no error.
    if status > 0 and stderr.strip() and NO_UNIT not in stderr:
        message = stderr.decode(errors="replace").strip().splitlines()[-1]
        raise SourceError(f"The log cannot be read: {message}")


@contextmanager
def _run(command: list[str]) -> Iterator[IO[bytes]]:
    """The output of a command, which is stopped at the end."""
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,  # noqa: S603  # no shell
    ):
        assert process.stdout is not None  # noqa: S101  # for mypy
        try:
            yield process.stdout
            process.wait()
        finally:
            process.terminate()
        errors.seek(0)
        _check_exit(process.returncode, errors.read())


def read_file(path: Path, *, follow: bool) -> Iterator[Entry]:
    """The entries of a file, or of the standard input if the path is `-`.

    Raises:
        SourceError: the file cannot be read.
    """
    if path == STDIN:
        if sys.stdin is None:
            raise SourceError("The standard input is closed.")
        yield from _parse(sys.stdin.buffer)
        return
    try:
        with path.open("rb") as file:
            if not follow or not path.is_file():  # a pipe cannot be rotated
                yield from _parse(file)
                return
    except OSError as error:
        raise SourceError(f"The file {path} cannot be read: {error.strerror}.") from None
    # tail knows how to go on when the file is rotated.
    with _run(["tail", "--lines=+1", "-F", str(path.absolute())]) as lines:
        yield from _parse(lines)


def _parse(lines: Iterable[bytes]) -> Iterator[Entry]:
    for line in lines:
        if line.strip():
            yield from_text(line.decode(errors="replace"))
