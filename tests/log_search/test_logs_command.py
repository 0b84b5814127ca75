"""`sentiment logs` finds lines by id, level and time, in the journal and in files."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import click
import pytest
from click.testing import CliRunner

from sentiment_app.log_search.cli import TimeOrAge, logs
from sentiment_app.log_search.entries import from_journal, from_text

TASK, USER = "01a20810-6c0c-7378-b5fe-cfc50592fba5", "01a20810-0000-7378-b5fe-cfc50592fba5"
NOW = datetime.now(UTC)
LINES = [
    {"event": "request", "level": "info", "request_id": "r-1", "user_id": USER, "task_id": TASK, "status": 202},
    {"event": "chunk_scored", "level": "info", "request_id": "r-1", "task_id": TASK},
    {"event": "request", "level": "info", "request_id": "r-2", "user_id": None, "status": 401},
    {"event": "authn_login_fail", "level": "info", "account_id": USER, "detail": "wrong password"},
    {"event": "unexpected_error", "level": "error", "exception": "Traceback\n  File x"},
]
STAMPED = [
    {**line, "timestamp": (NOW - timedelta(hours=5 - hour)).isoformat().replace("+00:00", "Z")}
    for hour, line in enumerate(LINES)
]
CONTENT = "".join(json.dumps(line) + "\n" for line in STAMPED)


def run(*arguments, **options):
    return CliRunner().invoke(logs, [str(argument) for argument in arguments], **options)


def events(*arguments, content=CONTENT):
    done = run("--file", "-", "--json", *arguments, input=content)
    assert done.exit_code in (0, 1), done.output
    return [json.loads(line)["event"] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [line["event"] for line in LINES]),
        (["--task", TASK], ["request", "chunk_scored"]),
        (["--task", TASK.upper()], ["request", "chunk_scored"]),
        (["--request-id", "r-1"], ["request", "chunk_scored"]),
        (["--request-id", "r"], []),
        (["--user", USER], ["request", "authn_login_fail"]),
        (["--user", USER, "--request-id", "r-1"], ["request"]),
        (["--level", "error"], ["unexpected_error"]),
        (["--level", "INFO", "--since", "150m"], ["authn_login_fail", "unexpected_error"]),
        (["--until", "210m"], ["request", "chunk_scored"]),
        (["--since", (NOW - timedelta(hours=3.5)).isoformat(), "--until", "150m"], ["request"]),
    ],
)
def test_lines_are_found(arguments, expected):
    assert events(*arguments) == expected


def test_exit_status_is_1_if_no_line_matches():
    done = run("--file", "-", "--request-id", "nope", input=CONTENT)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "No line matches.\n")


def test_text_is_readable_and_harmless_to_a_terminal():
    hostile = json.dumps({"event": "x\x1b[31m", "level": "warning", "agent": "a b\x07", "n": 1, "none": None})
    done = run("--file", "-", input=hostile + "\n" + "plain \x1b]0;title\x07\n" + json.dumps(STAMPED[4]))
    first, second, third, *rest = done.output.splitlines()
    assert first.split() == ["warning", "x\\x1b[31m", 'agent="a', 'b\\u0007"', "n=1"]
    assert second.split() == ["info", "plain", "\\x1b]0;title\\x07"]
    assert third.split()[2:] == ["error", "unexpected_error"]
    assert third[:10] == f"{NOW.astimezone(UTC):%Y-%m-%d}" or NOW.astimezone(UTC).hour == 0
    assert rest == ["    Traceback", "      File x"]


def test_output_of_json_is_read_again():
    first = run("--file", "-", "--json", input=CONTENT).stdout
    assert run("--file", "-", "--json", input=first).stdout == first


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "{",
        '{"a": ',
        "[1]",
        '{"timestamp": 5, "level": 7, "event": null}',
        '{"timestamp": "nonsense"}',
        "\x00",
        "{}" * 1000,
        '{"a":' + "[" * 100_000,
        '{"timestamp": "0001-01-01T00:00:00+10:00"}',
    ],
)
def test_any_line_is_an_entry(line):
    entry = from_text(line)
    assert entry.level == "info"
    assert entry.at is None


def test_line_of_nginx_and_prefix_of_a_process_are_read():
    assert events("--request-id", "r-9", content='{"time":"2026-11-23T12:30:00+01:00","request_id":"r-9"}\n') == [
        "request"
    ]
    assert events("--task", TASK, content=f"12:30:01 worker.1 | {json.dumps(LINES[1])}\n") == ["chunk_scored"]


@pytest.mark.parametrize("value", ["yesterday", "5", "5 weeks", "2026-13-01", "9999999d", ""])
def test_invalid_time_is_explained(value):
    done = run("--file", "-", "--since", value, input=CONTENT)
    assert done.exit_code == 2
    assert "is not a time. Write for example" in done.output


def test_odd_values_are_printed_as_json():
    lines = '{"event":"x","a":"\\ud83d","b":NaN,"c":1e999}\n'
    (shown,) = run("--file", "-", "--json", input=lines).stdout.splitlines()
    assert "Infinity" not in shown
    found = json.loads(shown)
    assert (found["a"], found["b"], found["c"]) == ("\ud83d", "NaN", "1e999")


def test_age_before_the_first_year_is_explained():
    done = run("--file", "-", "--since", "999999d", input=CONTENT)
    assert (done.exit_code, "is too long ago" in done.output) == (2, True)


def test_time_without_offset_is_utc():
    assert TimeOrAge().convert("2026-11-23T12:30", None, None) == datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
    with pytest.raises(click.BadParameter):
        TimeOrAge().convert("soon", None, None)


def test_unreadable_file_is_reported(tmp_path):
    done = run("--file", tmp_path / "missing")
    assert (done.exit_code, done.stderr) == (
        2,
        f"Error: The file {tmp_path}/missing cannot be read: No such file or directory.\n",
    )
    assert run("--follow", "--until", "1h").exit_code == 2


# The journal: a program in the place of journalctl. It prints what the real program prints.


@pytest.fixture
def journalctl(tmp_path, monkeypatch):
    """Installs a journalctl that prints lines and an error, and records its arguments."""

    def install(lines=(), error="", status=0):
        (tmp_path / "output").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (tmp_path / "error").write_text(error)
        program = tmp_path / "journalctl"
        program.write_text(
            f'#!/bin/sh\ncd {tmp_path}\necho "$@" >>arguments\ncat error >&2\n'
            f'case "$*" in *--lines=0) ;; *) cat output ;; esac\nexit {status}\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return lambda: (tmp_path / "arguments").read_text().splitlines()[-1]

    return install


def record(message, unit="sentiment-worker@1.service", **options):
    at = str(int(NOW.timestamp() * 1e6))
    return {"__REALTIME_TIMESTAMP": at, "_SYSTEMD_UNIT": unit, "_HOSTNAME": "web1", "MESSAGE": message, **options}


def test_journal_is_searched(journalctl):
    arguments = journalctl([record(json.dumps(STAMPED[1])), record(json.dumps(STAMPED[2])), record(None)])
    done = run("--task", TASK, "--since", "2026-11-23T00:00:00Z")
    assert done.exit_code == 0
    assert done.stdout.split()[3:5] == ["worker@1", "chunk_scored"]
    assert len(done.stdout.splitlines()) == 1
    given = arguments()
    assert "--unit=sentiment-*" in given
    assert "--all" in given
    assert "--since=@1795392000.000000" in given
    assert "--grep=" + TASK.replace("-", "\\-") in given


def test_lines_of_systemd_have_the_level_of_syslog():
    failed = record("Failed with result 'exit-code'.", "init.scope", UNIT="sentiment-web@1.service", PRIORITY="4")
    entry = from_journal(json.dumps(failed).encode())
    assert (entry.level, entry.unit, entry.at) == ("warning", "sentiment-web@1.service", NOW)
    for priority, level in {"0": "error", "3": "error", "6": "info", "7": "debug", "x": "info", None: "info"}.items():
        assert from_journal(json.dumps(record("m", PRIORITY=priority)).encode()).level == level
    assert from_journal(json.dumps(record([0xFF, 65])).encode()).event == "\ufffdA"


HINT = (
    "Hint: You are currently not seeing messages from other users and the system.\n"
    "      Users in groups 'adm', 'systemd-journal' can see all messages.\n"
)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (HINT, 0, "group systemd-journal"),
        ("No journal files were opened due to insufficient permissions.\n", 1, "Run the command with sudo"),
        ("No journal files were found.\n", 0, "This machine has no journal. Name a file with --file FILE"),
        ("Failed to open files: Bad message\n", 1, "The log cannot be read: Failed to open files: Bad message"),
    ],
)
def test_error_of_the_journal_is_explained(journalctl, error, status, message):
    journalctl([record("x")], error, status)
    done = run("--level", "info")
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_machine_without_journalctl_is_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run()
    assert done.exit_code == 2
    assert "This machine has no journal" in done.stderr


def test_journal_without_the_units_of_the_service_is_no_error(journalctl):
    journalctl(error="Failed to add filter for units: No data available\n", status=1)
    assert run().exit_code == 1


def test_journal_without_a_match_is_no_error(journalctl):
    journalctl(status=1)  # as journalctl --grep exits
    assert run("--request-id", "nope").exit_code == 1


# The whole command, in a process of its own.


@pytest.fixture
def environment(settings):
    key = "a key that is used in tests only and nowhere else"
    keys = dict.fromkeys(("JWT_SECRET_KEY", "API_KEY_HASH_KEY", "MODEL_SIGNING_KEY"), key)
    unreachable = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none", "REDIS_URL": "redis://127.0.0.1:9/0"}
    return {**os.environ, "ENVIRONMENT": "testing", **keys, **unreachable}


def test_file_is_followed_without_database_and_redis(tmp_path, environment):
    file = tmp_path / "log"
    file.write_text(CONTENT)
    command = [sys.executable, "-m", "flask", "logs", "--file", file, "--request-id", "r-1", "--json", "--follow"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert [json.loads(process.stdout.readline())["event"] for _ in range(2)] == ["request", "chunk_scored"]
        file.rename(tmp_path / "log.1")
        time.sleep(0.1)
        file.write_text(json.dumps({"event": "after_rotation", "request_id": "r-1"}) + "\n")
        assert json.loads(process.stdout.readline())["event"] == "after_rotation"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
