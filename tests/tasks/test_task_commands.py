"""`sentiment tasks`: operators submit files, and manage the tasks of all users."""

import csv
import gzip
import io
import json
import re
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, update

from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import REDIS
from sentiment_app.tasks.models import Chunk

ROWS = "id,review\n1,I love it\n2,\n3,It is awful\n"


@pytest.fixture
def run(app):
    def run(*arguments, exit_code=0):
        done = app.test_cli_runner().invoke(args=["tasks", *map(str, arguments)])
        assert done.exit_code == exit_code, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done.output

    return run


@pytest.fixture
def reviews(tmp_path):
    file = tmp_path / "reviews.csv"
    file.write_text(ROWS)
    return file


@pytest.fixture
def submit(run, ada, reviews):
    """Submits the reviews, and returns the task's id."""

    def submit():
        shown = run("submit", reviews, "--user", "ada", "--column", "review", "--id-column", "id")
        return re.fullmatch(r"(\S{36}): 3 rows queued\n", shown)[1]

    return submit


def test_file_is_scored_and_results_are_printed(run, submit, work):
    task = submit()
    work()
    assert "completed" in run("show", task, "--follow")
    rows = list(csv.DictReader(io.StringIO(run("results", task, "--format", "csv"))))
    assert [(row["custom_id"], row["sentiment"]) for row in rows] == [("1", "positive"), ("2", ""), ("3", "negative")]
    lines = [json.loads(line) for line in run("results", task).splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]


def test_task_is_shown_as_text_and_json(run, submit, work):
    task = submit()
    work()
    shown = json.loads(run("show", task, "--json"))
    assert (shown["status"], shown["request_counts"]) == ("completed", {"total": 3, "completed": 2, "failed": 1})
    assert re.search(r"^request counts failed +1$", run("show", task), re.MULTILINE)


def test_values_are_printed_for_people(run, submit, work):
    task = submit()
    work()
    shown = run("show", task)
    assert "{" not in shown
    assert "[" not in shown
    assert re.search(r"^summary counts positive +1$", shown, re.MULTILINE)


def test_following_a_task_that_is_cancelled_fails(run, submit):
    task = submit()
    run("cancel", task)
    shown = run("show", task, "--follow", exit_code=1)
    assert re.search(r"^status +cancelled$", shown, re.MULTILINE)
    assert "The task is cancelled." in shown


def test_tasks_are_listed_by_user_and_status(run, submit, make_user):
    make_user("grace")
    task = submit()
    assert task in run("list")
    assert [entry["task_id"] for entry in json.loads(run("list", "--user", "ada", "--status", "queued", "--json"))] == [
        task
    ]
    assert json.loads(run("list", "--status", "completed", "--json")) == []
    assert json.loads(run("list", "--user", "grace", "--json")) == []


def test_compressed_file_is_followed_to_the_end(run, ada, work, tmp_path, lines, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: work())  # a worker runs while the command waits for its next poll
    file = tmp_path / "texts.ndjson.gz"
    file.write_bytes(gzip.compress(lines("I love it", "It is awful").encode()))
    shown = run("submit", file, "--user", "ada", "--follow")
    assert "2 rows queued" in shown
    (task,) = json.loads(run("list", "--json"))
    assert (task["status"], task["request_counts"]["completed"]) == ("completed", 2)


def test_task_is_cancelled_and_retried(run, submit, work):
    task = submit()
    assert run("cancel", task) == f"{task} is cancelled\n"
    assert run("retry", task) == f"{task} is queued\n"
    work()
    assert "This task is completed" in run("cancel", task, exit_code=1)
    assert "no failed rows" in run("retry", task, exit_code=1)


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [
        ("reviews.docx", ("--user", "ada"), "must end in one of .csv"),
        ("reviews.xlsx", ("--user", "ada"), "not a valid Excel workbook"),
        ("reviews.csv", ("--user", "nobody"), "nobody"),
        ("reviews.csv", ("--user", "ada", "--column", "opinion"), "Its columns are: id, review"),
        ("reviews.csv", ("--user", "ada", "--column", "review", "--model", "none"), "none"),
        ("reviews.csv", ("--user", "ada", "--column", "review", "--encoding", "rot13"), "is not known"),
    ],
)
def test_unusable_file_is_reported(run, ada, tmp_path, name, options, shown):
    (tmp_path / name).write_text(ROWS)
    assert shown in run("submit", tmp_path / name, *options, exit_code=1)
    assert json.loads(run("list", "--json")) == []


@pytest.mark.parametrize("command", ["show", "results", "cancel", "retry"])
def test_unknown_task_is_reported(run, command):
    assert run(command, uuid4(), exit_code=1).startswith("Error: ")
    assert "is not a valid UUID" in run(command, "17", exit_code=2)


def test_list_refuses_limit_of_zero(run):
    assert "--limit" in run("list", "--limit", "0", exit_code=2)


def test_reconcile_command_puts_back_lost_work(app, run, submit, work):
    task = submit()
    REDIS.get(app).flushdb()
    work()
    assert "queued" in run("show", task)
    db.session.execute(update(Chunk).values(queued_at=func.now() - timedelta(minutes=1)))
    assert json.loads(run("reconcile", "--json"))["jobs"] == 1
    assert "jobs: 0" in run("reconcile")
    work()
    assert "completed" in run("show", task)
