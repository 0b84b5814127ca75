"""`sentiment logs`: searches the log lines of the service. It needs neither the database nor Redis."""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from sentiment_app.cli import Command, Time, as_json, print_json
from sentiment_app.log_search.entries import LEVELS, Entry, Filter
from sentiment_app.log_search.sources import SourceError, read_file, read_journal

COLOURS = {"debug": "bright_black", "warning": "yellow", "error": "red", "critical": "red"}
AGO = re.compile(r"(\d{1,6}) ?(s|m|h|d)")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
NOTHING_FOUND, UNREADABLE = 1, 2


class _UnreadableError(click.ClickException):
    exit_code = UNREADABLE


class TimeOrAge(Time):
    """A time, or how long ago it was, such as 90m."""

    hint = "2026-11-01 or 2026-11-01T09:30:00Z, or how long ago it was, such as 90s, 15m, 2h or 3d"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if found := AGO.fullmatch(value):
            try:
                return datetime.now(UTC) - timedelta(**{UNITS[found[2]]: int(found[1])})
            except OverflowError:
                self.fail(f"{value!r} is too long ago.", param, ctx)
        return super().convert(value, param, ctx)


@click.command("logs", cls=Command)
@click.option("--request-id", help="Only lines about this request, also of the jobs that it caused.")
@click.option("--task", "task_id", type=click.UUID, help="Only lines about the task with this id.")
@click.option("--user", "user_id", type=click.UUID, help="Only lines about the user with this id, or caused by it.")
@click.option("--level", type=click.Choice(LEVELS, case_sensitive=False), help="Only lines of this level or above.")
@click.option("--since", type=TimeOrAge(), help="Only lines at this time (UTC) or later; or 15m, 2h, 3d ago.")
@click.option("--until", type=TimeOrAge(), help="Only lines at this time or earlier.")
@click.option("--file", type=click.Path(path_type=Path), help="Read this file instead of the journal; - is stdin.")
@click.option("--follow", is_flag=True, help="Print new lines until Ctrl-C. The journal begins at --since, or now.")
@as_json
def logs(
    file: Path | None, follow: bool, as_json: bool, task_id: UUID | None, user_id: UUID | None, **options: Any
) -> None:
    """Search the log lines of the service, oldest first.

    Reads the journal of this host, and on other machines a file. The exit status is 1 if no line matches, and 2 if the
    log cannot be read. With --json, each line is an object, which --file reads again.

    Example: sentiment logs --task 01a20810-6c0c-7378-b5fe-cfc50592fba5 --since 2d
    """
    if follow and options["until"]:
        raise click.UsageError("--follow and --until cannot be used together.")
    ids: dict[str, Any] = {"task_id": str(task_id) if task_id else None, "user_id": str(user_id) if user_id else None}
    wanted = Filter(**ids, **options)
    entries = read_file(file, follow=follow) if file else read_journal(wanted, follow=follow)
    try:
        found = _print(filter(wanted.matches, entries), as_json=as_json)
    except SourceError as error:
        raise _UnreadableError(str(error)) from None
    except KeyboardInterrupt:  # the usual end of --follow
        return
    if not found:
        click.echo("No line matches.", err=True)
        click.get_current_context().exit(NOTHING_FOUND)


def _print(entries: Iterable[Entry], *, as_json: bool) -> int:
    """Print the entries, and return their number."""
    number = 0
    for entry in entries:
        if as_json:
            print_json(_as_object(entry))
        else:
            click.echo(_as_text(entry))
        number += 1
    return number


def _as_object(entry: Entry) -> dict[str, Any]:
    source = {name: value for name, value in (("host", entry.host), ("unit", entry.unit)) if value}
    return {"timestamp": entry.at, "level": entry.level, **source, "event": entry.event, **entry.fields}


def _as_text(entry: Entry) -> str:
    at = f"{entry.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{entry.at.microsecond // 1000:03}" if entry.at else " " * 23
    level = click.style(f"{entry.level:8}", fg=COLOURS.get(entry.level))
    unit = entry.unit.removeprefix("sentiment-").removesuffix(".service")
    fields = dict(entry.fields)
    traceback = str(fields.pop("exception", ""))
    values = " ".join(f"{_escape(name)}={_value(value)}" for name, value in fields.items() if value is not None)
    first = " ".join(part for part in (at, level, f"{unit:10}" if unit else "", _escape(entry.event), values) if part)
    return "\n    ".join([first, *map(_escape, traceback.splitlines())])


def _value(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[^\s\"=]+", value):
        return _escape(value)
    return _escape(json.dumps(value, ensure_ascii=False))


def _escape(text: str) -> str:
    """The text with escape sequences instead of control characters, which could change the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
