"""All commands: their help, their JSON, their output for people, their exit status, and what they complete."""

import json
import re
import shlex
import subprocess
import sys

import click
import harness
import joblib
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from flask import cli as flask_cli
from flask.cli import ScriptInfo
from sqlalchemy import update

from sentiment_app.commands import ROOT, Group, Lazy
from sentiment_app.infrastructure.database import db
from sentiment_app.ml.artifact import Artifact
from sentiment_app.ml.training import experiment
from sentiment_app.registry import promotion, releases
from sentiment_app.registry.models import ModelRelease

PASSWORD_LINE = harness.PASSWORD + "\n"
# Flask and Flask-Migrate declare these.
OF_LIBRARIES = {("db",), ("routes",), ("run",), ("shell",)}
RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00")
DAY = re.compile(r"\d{4}-\d\d-\d\d")
PYTHON_VALUE = re.compile(r"[{\[]'|': |datetime\.|UUID\(|\bNone\b")


def walk(group=ROOT, path=()):
    """The path of each group and command below a group."""
    for name, entry in group.entries.items():
        yield (*path, name), entry
        if isinstance(entry, Group):
            yield from walk(entry, (*path, name))


GROUPS = {(): ROOT, **{path: entry for path, entry in walk() if isinstance(entry, Group)}}
COMMANDS = {path: entry for path, entry in walk() if isinstance(entry, Lazy) and path not in OF_LIBRARIES}


def loaded(path):
    command = ROOT
    for name in path:
        command = command.get_command(click.Context(command, obj=ScriptInfo()), name)
    return command


def options(command):
    return {name for parameter in command.params for name in parameter.opts}


def options_of(example):
    return {word for word in shlex.split(example) if word.startswith("--")}


@pytest.fixture
def run(app):
    runner = app.test_cli_runner()
    return lambda *arguments, given=None: runner.invoke(args=list(map(str, arguments)), input=given)


def test_help_of_a_group_has_whole_summaries_in_sections_and_examples(run):
    for path, group in GROUPS.items():
        shown = run(*path, "--help").output
        assert "\nExamples:\n  sentiment " in shown
        words = " ".join(shown.split())
        for name in group.entries:
            assert f"{name} {group.summary_of(name)}" in words
        for title in group.sections:
            assert f"\n{title}:\n" in shown


def test_flask_has_the_same_commands_with_whole_summaries(app):
    info = ScriptInfo(create_app=lambda: app)
    words = " ".join(CliRunner().invoke(flask_cli.cli, ["--help"], obj=info).output.split())
    for name in ROOT.entries:
        assert f" {name} " in words
    assert ROOT.summary_of("purge") in words
    assert "Exit status" not in words
    assert CliRunner().invoke(flask_cli.cli, ["model", "--help"], obj=info).output.startswith("Usage: flask model ")


def test_help_of_a_command_has_its_summary_examples_and_json(run):
    for path, entry in COMMANDS.items():
        command, shown = loaded(path), run(*path, "--help").output
        assert (command.name, command.short_help) == (path[-1], entry.summary)
        assert "--json" in shown
        assert command.examples
        for example in command.examples:
            assert f"\n  {example}\n" in shown
            assert tuple(shlex.split(example)[1 : len(path) + 1]) == path
            assert options_of(example) <= options(command)


def test_examples_of_groups_name_commands_and_their_options():
    for group in GROUPS.values():
        for example in group.examples:
            words = shlex.split(example)[1:]
            path = next((path for path in COMMANDS if tuple(words[: len(path)]) == path), None)
            assert path or (words[0],) in OF_LIBRARIES, example
            assert options_of(example) <= (options(loaded(path)) if path else set())


def test_commands_of_libraries_have_whole_summaries(run):
    for path in OF_LIBRARIES:
        done = run(*path, "--help")
        assert (done.exit_code, "..." in done.output.split("Commands:")[-1]) == (0, False)


def test_help_explains_the_exit_status(run):
    shown = run("--help").output
    assert "Exit status:" in shown
    assert "general utility script" not in shown


def test_help_and_names_need_neither_flask_nor_the_database():
    code = (
        "import sys; from sentiment_app.commands import ROOT\n"
        "from click.shell_completion import ShellComplete\n"
        "for arguments in (['--help'], ['model', '--help'], ['--version']): ROOT(arguments, standalone_mode=False)\n"
        "assert ShellComplete(ROOT, {}, 'sentiment', '_').get_completions(['model'], 'a')[0].value == 'activate'\n"
        "print(sorted({'flask', 'sqlalchemy', 'numpy', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")


def test_module_runs_the_commands():
    done = subprocess.run([sys.executable, "-m", "sentiment_app", "model", "scre"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Usage: sentiment model" in done.stderr
    script = subprocess.run(["scripts/sentiment", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", script.stdout)


# Each command with its arguments; {names} stand for what `given` provides.
CALLS = {
    "logs": "--file {log}",
    "audit list": "--since 2026-01-01",
    "auth list-keys": "",
    "auth rotate-key": "--force",
    "config check": "",
    "model activate": "{candidate}",
    "model card": "{active}",
    "model evaluate": "--data {labelled} --labels 0=negative,1=neutral,2=positive",
    "model import": "{joblib} --labels 0=negative,1=neutral,2=positive",
    "model explain": '"I love it"',
    "model feedback export": "-o {output}",
    "model info": "",
    "model list": "",
    "model log": "",
    "model release": "{trained}",
    "model retire": "{candidate}",
    "model rollback": "",
    "model score": "'I love it' --explain",
    "model show": "{active}",
    "model sign": "--old-key-stdin",
    "model train": "--recipe fast",
    "model verify": "",
    "purge": "",
    "tasks cancel": "{task}",
    "tasks list": "",
    "tasks reconcile": "",
    "tasks results": "{task} --partial",
    "tasks retry": "{cancelled}",
    "tasks show": "{task}",
    "tasks submit": "{reviews} --user ada --column review",
    "user create": "eve eve@example.org --password-stdin",
    "user create-key": "ada --name test --scope score",
    "user deactivate": "ada",
    "user delete": "ada --yes",
    "user demote": "grace",
    "user invite": "",
    "user keys": "ada",
    "user list": "",
    "user password-link": "ada --url https://sentiment.example.org",
    "user promote": "ada",
    "user reset-password": "ada --password-stdin",  # pragma: allowlist secret
    "user revoke-key": "{key}",
    "user set-quota": "ada --rows-per-day 1000",
    "user usage": "ada",
    "user welcome": "--url https://sentiment.example.org",
}


@pytest.fixture
def store(app, model, settings):
    """Stores the model of the tests with another version on the disk, and returns the version."""

    def store(version):
        manifest = json.dumps(json.loads(model[0].manifest) | {"version": version}).encode()
        folder = settings.model_dir / version
        folder.mkdir(exist_ok=True)
        (folder / "manifest.json").write_bytes(manifest)
        (folder / "serving.npz").write_bytes(model[0].serving)
        return Artifact(manifest, model[0].serving)

    return store


@pytest.fixture
def given(run, model, pipeline, ada, admin, make_user, store, tmp_path, monkeypatch):
    """Accounts, models, a task and files for every command."""
    make_user("grace", is_superuser=True)
    store("20990101-trained0")
    candidate, previous = "20990102-second00", "20990103-third000"
    for version in (candidate, previous):
        releases.release(store(version), by="tests")
    promotion.activate(previous, by="tests")
    promotion.activate(model[1], by="tests")
    reviews = tmp_path / "reviews.csv"
    reviews.write_text("review\nI love it\nIt is awful\n")
    log = tmp_path / "web.log"
    log.write_text('{"event":"request","level":"info","timestamp":"2026-11-29T03:00:00.5Z"}\n')
    labelled = tmp_path / "texts.ndjson"
    labelled.write_text('{"text": "I love this film", "label": 2}\n{"text": "It is awful", "label": 0}\n')
    saved = tmp_path / "pipeline.joblib"
    joblib.dump(pipeline, saved)
    monkeypatch.setattr(experiment, "run", lambda *_, **__: json.loads(model[0].manifest))
    submit = ("tasks", "submit", reviews, "--user", "ada", "--column", "review", "--json")
    task, cancelled = (json.loads(run(*submit).output)["task_id"] for _ in range(2))
    assert run("tasks", "cancel", cancelled).exit_code == 0
    run("user", "create-key", "ada", "--name", "first", "--scope", "score")
    key = json.loads(run("user", "keys", "ada", "--json").output)[0]["id"]
    return {
        "active": model[1],
        "candidate": candidate,
        "previous": previous,
        "trained": "20990101-trained0",
        "joblib": saved,
        "labelled": labelled,
        "reviews": reviews,
        "task": task,
        "cancelled": cancelled,
        "key": key,
        "log": log,
        "output": tmp_path / "feedback.ndjson",
    }


def strings(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def test_every_command_is_called():
    assert {" ".join(path) for path in COMMANDS} == set(CALLS)


@pytest.fixture
def call(run, given):
    """Calls a command, undoes its changes to the database, and returns what it printed."""

    def call(name, *options):
        savepoint = db.engines[None].begin_nested()
        done = run(*name.split(), *shlex.split(CALLS[name].format(**given)), *options, given=PASSWORD_LINE)
        db.session.remove()
        savepoint.rollback()
        assert done.exit_code == 0, f"{name}: {done.output}"
        return done.stdout

    return call


def test_commands_print_json_with_one_format_of_times(call):
    for name in CALLS:
        printed = call(name, "--json")
        for document in printed.splitlines() if name == "tasks results" else [printed]:
            for text in strings(json.loads(document)):
                if DAY.match(text) and not DAY.fullmatch(text):
                    assert RFC_3339_UTC.fullmatch(text), f"{name} prints {text}"


def test_commands_print_no_python_values_for_people(call):
    for name in CALLS:
        if name != "tasks results":  # prints JSON
            assert not PYTHON_VALUE.search(call(name)), name


def test_wrong_usage_exits_with_2(run):
    assert {run(*path, "--no-such-option").exit_code for path in COMMANDS} == {2}


@pytest.mark.parametrize(
    "arguments",
    [
        "user show",
        "model activate",
        "audit list --since yesterday",
        "tasks show 17",
        "user usage ada --since 1",
        "user set-quota ada",
    ],
)
def test_missing_or_invalid_argument_exits_with_2(run, ada, arguments):
    assert run(*arguments.split()).exit_code == 2


def test_refused_command_exits_with_1(run, admin):
    done = run("user", "demote", "root")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")


def test_times_may_have_an_offset(run, ada):
    for since, is_found in (("2026-01-01T00:00:00Z", True), ("2999-01-01T00:00:00+02:00", False)):
        shown = run("audit", "list", "--since", since, "--json").stdout
        assert bool(json.loads(shown)) == is_found


def test_database_session_is_in_utc(app):
    assert db.session.scalar(db.text("SHOW timezone")) == "UTC"


def test_prompt_is_not_part_of_the_json(run):
    done = run("user", "create", "eve", "eve@example.org", "--json", given=PASSWORD_LINE * 2)
    assert json.loads(done.stdout)["username"] == "eve"


@pytest.fixture
def complete(app):
    """Completes the last word of a command line."""

    def complete(*words):
        completer = ShellComplete(ROOT, {"obj": ScriptInfo(create_app=lambda: app)}, "sentiment", "_SENTIMENT_COMPLETE")
        return {item.value for item in completer.get_completions(list(words[:-1]), words[-1])}

    return complete


def test_models_are_completed_if_the_command_accepts_their_state(complete, given):
    retired = "20990104-fourth00"
    db.session.execute(update(ModelRelease).where(ModelRelease.version == given["previous"]).values(state="previous"))
    releases.release(_renamed(given["active"], retired), by="tests")
    promotion.retire(retired, by="tests")
    candidate, previous, active, trained = (given[name] for name in ("candidate", "previous", "active", "trained"))
    assert complete("model", "activate", "") == {candidate, previous}
    assert complete("model", "activate", "20990102") == {candidate}
    assert complete("model", "retire", "") == {candidate, previous}
    assert complete("model", "retire", "--undo", "") == {retired}
    assert complete("model", "log", "") == complete("model", "verify", "") == {candidate, previous, active, retired}
    assert complete("model", "release", "") >= {trained}
    assert active not in complete("model", "release", "")
    assert complete("model", "show", "") >= {candidate, previous, active, retired, trained}
    for arguments in (("model", "score", "text", "--model", ""), ("model", "evaluate", "--compare", "")):
        assert complete(*arguments) >= {candidate, previous, active, trained}
        assert retired not in complete(*arguments)
    assert complete("tasks", "submit", "--model", "") == {candidate, previous, active}
    assert complete("model", "train", "--recipe", "f") == {"fast"}


def _renamed(active, version):
    fetched = releases.fetch(active)
    manifest = json.loads(fetched.manifest) | {"version": version}
    return Artifact(json.dumps(manifest).encode(), fetched.serving)


def test_accounts_are_completed_if_the_command_accepts_them(complete, run, ada, admin, make_user):
    make_user("adam")
    run("user", "deactivate", "adam")
    assert complete("user", "promote", "") == {"ada", "adam"}
    assert complete("user", "demote", "") == {"root"}
    assert complete("user", "deactivate", "") == {"ada", "root"}
    assert complete("user", "deactivate", "--undo", "") == {"adam"}
    for arguments in (("keys",), ("delete",), ("usage",), ("set-quota",), ("reset-password",), ("create-key",)):
        assert complete("user", *arguments, "ad") == {"ada", "adam"}
    assert complete("tasks", "list", "--user", "r") == {"root"}
    assert complete("user", "keys", "%") == set()


def test_tasks_and_keys_are_completed_if_the_command_accepts_them(complete, run, given):
    task, cancelled = given["task"], given["cancelled"]
    assert complete("tasks", "cancel", "") == {task}
    assert complete("tasks", "retry", "") == {cancelled}
    assert complete("tasks", "show", "") == complete("tasks", "results", "") == {task, cancelled}
    assert complete("user", "revoke-key", "") == {given["key"]}
    run("user", "revoke-key", given["key"])
    assert complete("user", "revoke-key", "") == set()


def test_nothing_is_completed_if_the_application_does_not_start(app):
    def fail():
        raise click.ClickException("the configuration is not valid")

    completer = ShellComplete(ROOT, {"obj": ScriptInfo(create_app=fail)}, "sentiment", "_SENTIMENT_COMPLETE")
    assert completer.get_completions(["user", "promote"], "") == []
