"""The flask commands: what they print, and how a mistake ends."""

import json

import pytest

from sentiment_app.users import service as users

PASSWORD = "correct horse battery staple\n"


@pytest.fixture
def flask(app):
    runner = app.test_cli_runner()
    return lambda *arguments, **options: runner.invoke(args=list(arguments), **options)


def test_make_a_user(flask):
    done = flask("user", "create", "eve", "eve@example.org", "--admin", "--password-stdin", input=PASSWORD)
    assert (done.exit_code, done.output) == (0, "Made eve (eve@example.org).\n")
    assert users.named("eve").is_superuser


@pytest.mark.parametrize(
    ("arguments", "typed", "said"),
    [
        (["create", "ada", "new@example.org"], PASSWORD, "username: This username is taken."),
        (["create", "x", "new@example.org"], PASSWORD, "username: 3 to 32 of"),
        (["create", "eve", "eve@example.org"], "password\n", "password: This is among"),
        (["reset-password", "nobody"], PASSWORD, "There is no user 'nobody'."),
    ],
)
def test_a_mistake_is_told_without_a_traceback(flask, ada, arguments, typed, said):
    done = flask("user", *arguments, "--password-stdin", input=typed)
    assert done.exit_code == 1
    assert said in done.output
    assert "Traceback" not in done.output


def test_a_password_may_be_typed(flask):
    done = flask("user", "create", "eve", "eve@example.org", "--json", input=PASSWORD * 2)
    assert done.exit_code == 0
    assert users.authenticate("eve", PASSWORD.strip())


def test_list_users(flask, ada, admin):
    listed = json.loads(flask("user", "list", "--json").output)
    assert [one["username"] for one in listed] == ["ada", "root"]
    assert "ada@example.org" in flask("user", "list").output


def test_promote_and_deactivate_and_undo(flask, ada):
    assert flask("user", "promote", "ada").output == "Promoted ada (ada@example.org).\n"
    assert users.named("ada").is_superuser
    assert flask("user", "promote", "ada", "--undo").exit_code == 0
    assert not users.named("ada").is_superuser
    assert flask("user", "deactivate", "ada").output == "Deactivated ada (ada@example.org).\n"
    assert not users.named("ada").is_active
    assert flask("user", "deactivate", "ada", "--undo").exit_code == 0
    assert users.named("ada").is_active


def test_reset_a_password(flask, ada, client, as_ada):
    assert flask("user", "reset-password", "ada", "--password-stdin", input="a brand new one\n").exit_code == 0
    assert users.authenticate("ada", "a brand new one")
    assert client.get("/api/v1/users/me", headers=as_ada).status_code == 401


def test_check_the_settings(flask):
    shown = json.loads(flask("config", "check", "--json").output)
    assert shown["JWT_SECRET_KEY"] == "(set)"
    assert "usable" in flask("config", "check").output


def test_the_active_model_is_shown(flask, model):
    assert json.loads(flask("model", "info", "--json").output)["version"] == model[1]
    assert model[1] in flask("model", "info").output
    assert json.loads(flask("model", "list", "--json").output)[0]["state"] == "active"
    assert model[1] in flask("model", "list").output
    assert json.loads(flask("model", "show", model[1], "--json").output)["recipe"] == "templates"
    assert flask("model", "show", "nope").exit_code == 1


def test_score_a_text(flask, model):
    told = json.loads(flask("model", "score", "I love it", "--json", "--explain").output)
    assert told["sentiment"] == "positive"
    assert [one["surface"] for one in told["explanation"]["contributions"]] == ["I", "love", "it"]
    assert flask("model", "score", "I love it", "--explain").output.startswith("positive (")
    assert flask("model", "score", "I love it", "--model", model[1]).exit_code == 0


def test_evaluate_on_a_file(flask, tmp_path):
    file = tmp_path / "texts.csv"
    file.write_text("text,label\nI love this film,1\nThe food is not good,0\n")
    done = flask("model", "evaluate", "--data", str(file), "--labels", "0=negative,1=positive", "--json")
    measured = json.loads(done.output)
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
def test_a_model_that_is_not_there(flask, arguments):
    done = flask("model", *arguments)
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")


def test_every_command_has_help_with_an_example(flask, app):
    for group in ("user", "model", "config"):
        for name in app.cli.get_command(None, group).commands:
            assert "Example: flask" in flask(group, name, "--help").output
