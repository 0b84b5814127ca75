"""Log entries: parsed from the journal or from text, and matched against the ids, the level and the time asked for."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

LEVELS = ("debug", "info", "warning", "error", "critical")
# An audit event is about an account, and was caused by an actor.
USER_FIELDS = ("user_id", "account_id", "actor_id")
# Levels of syslog from which on a line of the journal has one of our levels. Lines of systemd itself have them, too.
SYSLOG_ERROR, SYSLOG_WARNING, SYSLOG_DEBUG = 3, 4, 7


class Entry(NamedTuple):
    """A line of the log. Lines that are not JSON, such as tracebacks of a crash, are events without fields."""

    at: datetime | None
    """None if the line has no time."""
    level: str
    event: str
    fields: dict[str, Any]
    unit: str = ""
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What an entry must have. None means that anything matches."""

    request_id: str | None = None
    task_id: str | None = None
    user_id: str | None = None
    level: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def ids(self) -> list[str]:
        """The ids that occur in each line that matches."""
        return [id_ for id_ in (self.request_id, self.task_id, self.user_id) if id_]

    def matches(self, entry: Entry) -> bool:
        """Whether the entry has everything. A line without a time is not left out because of its time."""
        fields = entry.fields
        return (
            (self.request_id is None or fields.get("request_id") == self.request_id)
            and (self.task_id is None or fields.get("task_id") == self.task_id)
            and (self.user_id is None or self.user_id in [fields.get(name) for name in USER_FIELDS])
            and (self.level is None or LEVELS.index(entry.level) >= LEVELS.index(self.level))
            and (self.since is None or entry.at is None or entry.at >= self.since)
            and (self.until is None or entry.at is None or entry.at <= self.until)
        )


def from_text(line: str) -> Entry:
    """An entry from a line of the service, of Nginx's access log, or of `sentiment logs --json`.

    What stands before the JSON object, such as the name of a process in the output of `scripts/dev`, is skipped.
    """
    fields = _fields(line[line.find("{") :]) if "{" in line else None
    if fields is None:
        return Entry(None, "info", line.rstrip("\r\n"), {})
    at = _time(fields.pop("timestamp", None) or fields.pop("time", None))
    level = str(fields.pop("level", "info")).lower()
    event = str(fields.pop("event", "request"))  # Nginx's lines are requests
    unit, host = str(fields.pop("unit", "")), str(fields.pop("host", ""))
    return Entry(at, level if level in LEVELS else "info", event, fields, unit, host)


def from_journal(line: bytes) -> Entry | None:
    """An entry from a line of `journalctl --output=json`; None if the line has no message."""
    record = json.loads(line)
    message = record.get("MESSAGE")
    if isinstance(message, list):  # bytes that are not printable UTF-8
        message = bytes(byte for byte in message if isinstance(byte, int)).decode(errors="replace")
    if not isinstance(message, str):
        return None
    entry = from_text(message)
    if not entry.fields and entry.at is None:  # not JSON
        entry = entry._replace(level=_syslog_level(record.get("PRIORITY")))
    at = datetime.fromtimestamp(int(record["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
    # Lines of systemd about a unit have the unit in UNIT.
    unit = record.get("UNIT") or record.get("_SYSTEMD_UNIT") or ""
    return entry._replace(at=entry.at or at, unit=str(unit), host=str(record.get("_HOSTNAME") or ""))


def _fields(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text, parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _number(text: str) -> float | str:
    """A number, or its text if JSON cannot represent it, such as NaN or 1e999."""
    return number if math.isfinite(number := float(text)) else text


def _time(value: Any) -> datetime | None:
    try:
        at = datetime.fromisoformat(value)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _syslog_level(priority: Any) -> str:
    number = int(priority) if isinstance(priority, str) and priority.isdigit() else SYSLOG_WARNING + 1
    if number <= SYSLOG_ERROR:
        return "error"
    if number == SYSLOG_WARNING:
        return "warning"
    return "debug" if number == SYSLOG_DEBUG else "info"
