"""The flask commands: their output, and how they report errors."""

import json
import math
import re

import harness
import numpy as np
import pytest
from sqlalchemy import text, update

from sentiment_app.infrastructure.database import db
from sentiment_app.ml.artifact import Artifact
from sentiment_app.registry import cli_training, releases
from sentiment_app.registry.models import ModelRelease
from sentiment_app.sentiment.models import SentimentRequest
from sentiment_app.users import service as users

TYPED = harness.PASSWORD + "\n"


@pytest.fixture
def flask(app):
    runner = app.test_cli_runner()
    return lambda *arguments, **options: runner.invoke(args=list(arguments), **options)


def test_user_is_created(flask):
    done = flask("user", "create", "eve", "eve@example.org", "--admin", "--password-stdin", input=TYPED)
    assert (done.exit_code, done.output) == (0, "Created eve (eve@example.org).\n")
    assert users.get_by_username("eve").is_superuser


@pytest.mark.parametrize(
    ("arguments", "typed", "message"),
    [
        (["create", "ada", "new@example.org"], TYPED, "username: Another account has this username."),
        (["create", "x", "new@example.org"], TYPED, "username: A username has 3 to 32"),
        (["create", "eve", "eve@example.org"], "password\n", "password: This is one of the most common"),
        (["reset-password", "nobody"], TYPED, "There is no user named 'nobody'."),
    ],
)
def test_errors_have_no_traceback(flask, ada, arguments, typed, message):
    done = flask("user", *arguments, "--password-stdin", input=typed)
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["user", "deactivate", "\udcff"], "not valid UTF-8"),
        (["model", "log", "\udcff"], "not valid UTF-8"),
        (["model", "log", "nope"], "The model 'nope' is not released"),
        (["model", "score", ""], "text: "),
        (["model", "score", "\udcff"], "text: "),
    ],
)
def test_invalid_argument_is_reported(flask, arguments, message):
    done = flask(*arguments)
    assert done.exit_code == 1
    assert message in done.output


def test_database_without_tables_is_reported(flask):
    db.session.execute(text("ALTER TABLE users RENAME TO others"))
    done = flask("user", "list")
    assert (done.exit_code, "Run: sentiment db upgrade" in done.output) == (1, True)


def test_password_can_be_typed(flask):
    done = flask("user", "create", "eve", "eve@example.org", "--json", input=TYPED * 2)
    assert done.exit_code == 0
    assert users.authenticate("eve", harness.PASSWORD)


@pytest.mark.asvs("6.3.2")
def test_users_are_listed(flask, ada, admin):
    listed = json.loads(flask("user", "list", "--json").output)
    assert [entry["username"] for entry in listed] == ["ada", "root"]
    assert "ada@example.org" in flask("user", "list").output


def test_promotion_and_deactivation_can_be_undone(flask, ada, admin):
    assert flask("user", "promote", "ada").output == "Promoted ada (ada@example.org).\n"
    assert users.get_by_username("ada").is_superuser
    assert flask("user", "demote", "ada").exit_code == 0
    assert not users.get_by_username("ada").is_superuser
    assert flask("user", "deactivate", "ada").output == "Deactivated ada (ada@example.org).\n"
    assert not users.get_by_username("ada").is_active
    assert flask("user", "deactivate", "ada", "--undo").exit_code == 0
    assert users.get_by_username("ada").is_active


def test_password_is_reset(flask, ada, client, as_ada):
    assert flask("user", "reset-password", "ada", "--password-stdin", input="a brand new one\n").exit_code == 0
    assert users.authenticate("ada", "a brand new one")
    assert client.get("/api/v1/users/me", headers=as_ada).status_code == 401


def test_settings_are_checked(flask):
    shown = json.loads(flask("config", "check", "--json").output)
    assert shown["JWT_SECRET_KEY"] == "(set)"
    assert "valid" in flask("config", "check").output


def test_active_model_is_shown(flask, model):
    assert json.loads(flask("model", "info", "--json").output)["version"] == model[1]
    assert model[1] in flask("model", "info").output
    states = {entry["version"]: entry["state"] for entry in json.loads(flask("model", "list", "--json").output)}
    assert states[model[1]] == "active"
    assert model[1] in flask("model", "list").output
    assert json.loads(flask("model", "show", model[1], "--json").output)["recipe"] == "templates"
    assert flask("model", "show", "nope").exit_code == 1


def test_text_is_explained(flask, model):
    text = "I didn\u00b4t like it, &amp; Peter\u2019s food was gre\u00adat :) 10 / 10\nbye"
    explained = json.loads(flask("model", "explain", text, "--json").output)
    read = {part["text"]: part["term"] or part["read_as"] for part in explained["explanation"]["parts"]}
    assert read == {
        "I": "i",
        "didn\u00b4t": "didn't",
        "like": "not_like",
        "it": "it",
        ",": "end of a clause",
        "Peter\u2019s": "ignored",  # a name
        "food": "food",
        "was": "was",
        "gre\u00adat": "great",
        ":)": "<smile>",
        "10 / 10": "10/10",
        "\n": "end of a clause",
        "bye": "bye",
    }
    parts = [part["contribution"] for part in explained["explanation"]["parts"] if part["contribution"] is not None]
    log_odds = math.log(explained["scores"]["positive"] / explained["scores"]["negative"])
    assert explained["explanation"]["bias"] + math.fsum(parts) == pytest.approx(log_odds)
    shown = flask("model", "explain", text, "--model", model[1]).output
    assert (shown.index("(bias)") < shown.index("not_like"), "\\n" in shown, "\u00b4" in shown) == (True, True, True)
    typed = json.loads(flask("model", "explain", "-", "--json", input=f"{text}\n").output)
    assert typed == explained
    assert db.session.query(SentimentRequest).count() == 0


def test_text_with_few_known_words_is_explained_with_a_warning(flask):
    shown = flask("model", "explain", "xyzzy plugh \x1b[31m frobnicate").output
    assert ("Warning: " in shown, "\x1b" in shown) == (True, False)


def test_text_that_cannot_be_explained_is_reported(flask):
    for arguments, typed, message in (
        (["\udcff"], None, "text: "),
        (["-"], b"caf\xe9", "not valid UTF-8 at byte 3"),
        (["-"], "", "text: "),
        (["x" * 20_001], None, "text: "),
        (["good", "--model", "nope"], None, "nope"),
    ):
        done = flask("model", "explain", *arguments, input=typed)
        assert (done.exit_code, message in done.output, "Traceback" in done.output) == (1, True, False), done.output


def test_text_is_scored(flask, model):
    reported = json.loads(flask("model", "score", "I love it", "--json", "--explain").output)
    assert reported["sentiment"] == "positive"
    assert [event["surface"] for event in reported["explanation"]["contributions"]] == ["I", "love", "it"]
    assert flask("model", "score", "I love it", "--explain").output.startswith("positive (")
    assert flask("model", "score", "I love it", "--model", model[1]).exit_code == 0


def test_model_is_evaluated_on_a_file(flask, tmp_path):
    file = tmp_path / "texts.csv"
    file.write_text("text,label\nI love this film,1\nThe food is not good,0\n")
    done = flask("model", "evaluate", "--data", str(file), "--labels", "0=negative,1=positive", "--json")
    measured = json.loads(done.stdout)
    assert (measured["texts"], measured["accuracy"]) == (2, 1.0)
    wrong = flask("model", "evaluate", "--data", str(file))
    assert (wrong.exit_code, "line 2" in wrong.output) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--recipe", "nope"],
        ["release", "nope"],
        ["activate", "nope"],
        ["evaluate", "nope", "--data", "wsgi.py"],
    ],
)
def test_unknown_model_is_reported(flask, arguments):
    done = flask("model", *arguments)
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")


@pytest.fixture
def second(app, model):
    manifest = json.loads(model[0].manifest) | {"version": "20990101-second00"}
    return releases.release(Artifact(json.dumps(manifest).encode(), model[0].serving), by="tests")


def test_model_is_activated_rolled_back_and_retired(flask, model, second):
    assert flask("model", "activate", second).output == f"{second} is active\n"
    assert flask("model", "retire", second).exit_code == 1
    assert flask("model", "rollback").output == f"{model[1]} is active again\n"
    assert flask("model", "retire", second).output == f"{second} is retired\n"
    assert flask("model", "retire", second, "--undo").output == f"{second} is a candidate again\n"
    reported = json.loads(flask("model", "log", second, "--json").output)
    assert [entry["action"] for entry in reported] == ["reinstated", "retired", "activated", "released"]
    assert "reinstated" in flask("model", "log").output


def test_verify_exits_with_1_for_invalid_model(flask, model, second):
    assert flask("model", "verify").exit_code == 0
    db.session.execute(update(ModelRelease).where(ModelRelease.version == second).values(artifact=b"corrupt"))
    done = flask("model", "verify")
    assert done.exit_code == 1
    assert f"{model[1]}: valid" in done.output
    assert f"{second}: the digest of serving.npz differs" in done.output


def test_card_is_printed(flask, model):
    assert flask("model", "card", model[1]).output.startswith(f"# Model card: {model[1]}")


@pytest.fixture
def labelled(tmp_path):
    file = tmp_path / "texts.ndjson"
    texts = [("I love this film", 2), ("The food is not good", 0), ("The room is in London", 1), ("I hate this", 0)]
    file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in texts * 5))
    return ["--data", str(file), "--labels", "0=negative,1=neutral,2=positive"]


def test_measures_are_printed_for_people(flask, model, labelled):
    shown = flask("model", "evaluate", model[1], *labelled).stdout
    assert re.search(r"^counts +negative 10, ", shown, re.MULTILINE)
    assert not set("{}[]") & set(shown)


def test_two_models_are_compared(flask, model, second, labelled):
    reported = json.loads(flask("model", "evaluate", model[1], "--compare", second, *labelled, "--json").stdout)
    assert reported["versions"] == [model[1], second]
    assert reported["mcnemar"]["p_value"] == 1.0
    assert {"label negative", "with a negation", "up to 10 terms"} <= {event["name"] for event in reported["slices"]}
    shown = flask("model", "evaluate", model[1], "--compare", second, *labelled).output
    assert f"Only {model[1]} is correct on 0 texts, and only {second} on 0: p = 1 (McNemar" in " ".join(shown.split())


def test_difference_of_a_comparison_is_that_of_the_evaluated_model(flask, model, second, labelled, monkeypatch):
    scores = {model[1]: np.tile([0.1, 0.1, 0.8], (20, 1)), second: np.tile([0.1, 0.8, 0.1], (20, 1))}
    monkeypatch.setattr(cli_training, "_scores", lambda version, _rows: scores[version])
    shown = flask("model", "evaluate", model[1], "--compare", second, *labelled).stdout
    positive = next(line for line in shown.splitlines() if "label positive" in line)
    assert re.findall(r"[+-]?\d\.\d{4}", positive) == ["1.0000", "0.0000", "+1.0000"]


def test_report_is_self_contained(flask, model, second, labelled, tmp_path):
    file = tmp_path / "report.html"
    assert flask("model", "evaluate", model[1], "--compare", second, *labelled, "--report", str(file)).exit_code == 0
    page = file.read_text()
    assert page.count("<svg") == 3
    assert "McNemar" in page
    title = re.search("<title>(.*?)</title>", page)[1]
    assert (model[1] in title, second in title) == (True, False)  # the report is about the first model
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    again = tmp_path / "again.html"
    flask("model", "evaluate", model[1], "--compare", second, *labelled, "--report", str(again))
    assert again.read_text() == page


def test_behavioural_suite_is_shown_by_kind(flask, model):
    shown = json.loads(flask("model", "evaluate", "--behaviour", "--json").stdout)
    assert sum(kind["sentences"] for kind in shown) >= 1500
    assert all(0 <= kind["failures"] <= kind["sentences"] for kind in shown)
    table = flask("model", "evaluate", model[1], "--behaviour", "--compare", model[1]).output
    assert "double negation" in table
    for arguments in ((), ("--behaviour", "--data", __file__)):
        refused = flask("model", "evaluate", *arguments)
        assert (refused.exit_code, "either --data or --behaviour" in refused.output) == (2, True)
