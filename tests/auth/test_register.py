import pytest
from sqlalchemy import func, select

from sentiment_app.infrastructure.database import db
from sentiment_app.users.models import User

URL = "/api/v1/auth/register"
VALID_ACCOUNT = {"username": "ada", "email": "ada@example.org", "password": "correct horse battery staple"}


@pytest.mark.asvs("15.3.1")
def test_register_returns_account_without_password(client):
    answer = client.post(URL, json=VALID_ACCOUNT)
    assert answer.status_code == 201
    assert set(answer.json) == {
        "id",
        "username",
        "email",
        "is_active",
        "is_superuser",
        "history_days",
        "rows_per_day",
        "rows_per_month",
        "created_at",
        "updated_at",
    }
    assert (answer.json["username"], answer.json["is_active"], answer.json["is_superuser"]) == (
        "ada",
        True,
        False,
    )


def test_password_is_stored_as_argon2id(client):
    client.post(URL, json=VALID_ACCOUNT)
    assert db.session.scalar(select(User.password_hash)).startswith("$argon2id$v=19$")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"username": "ADA", "email": "other@example.org"}, "username"),
        ({"username": "other", "email": "Ada@Example.org"}, "email"),
    ],
)
def test_username_and_email_are_unique_regardless_of_case(client, changes, field):
    client.post(URL, json=VALID_ACCOUNT)
    answer = client.post(URL, json=VALID_ACCOUNT | changes)
    assert (answer.status_code, answer.json["type"]) == (409, "urn:sentiment-app:problem:taken")
    assert answer.json["errors"][0]["pointer"] == f"/{field}"
    assert db.session.scalar(select(func.count(User.id))) == 1


@pytest.mark.asvs("2.2.1", "2.2.2", "6.2.11", "15.3.3")
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"username": "a"}, "username"),
        ({"username": "a b"}, "username"),
        ({"username": "ada\n"}, "username"),
        ({"email": "nobody"}, "email"),
        ({"email": "a@b"}, "email"),
        ({"email": "a@" + "x" * 63 + ".org" * 60}, "email"),
        ({"password": "short"}, "password"),
        ({"password": "x" * 129}, "password"),
        ({"password": "password"}, "password"),
        ({"password": "QwertyUiop"}, "password"),
        ({"username": "a.long.name", "password": "A.Long.Name"}, "password"),
        ({"password": "ada@example.org"}, "password"),
        ({"is_superuser": True}, "is_superuser"),
    ],
)
def test_error_points_to_invalid_field(client, changes, field):
    answer = client.post(URL, json=VALID_ACCOUNT | changes)
    assert answer.status_code == 422
    assert [entry["pointer"] for entry in answer.json["errors"]] == [f"/{field}"]
    assert db.session.scalar(select(func.count(User.id))) == 0


def test_error_lists_all_invalid_fields(client):
    answer = client.post(URL, json={"username": "?", "email": "?", "password": "?"})
    assert {entry["pointer"] for entry in answer.json["errors"]} == {"/username", "/email", "/password"}


@pytest.mark.asvs("6.2.5")
@pytest.mark.parametrize("password", ["a" * 7 + "é", "no digits or capitals here", "密码密码密码密码密码"])
def test_password_accepts_any_character(client, password):
    assert client.post(URL, json=VALID_ACCOUNT | {"password": password}).status_code == 201
    login = {"username": "ada", "password": password}
    assert client.post("/api/v1/auth/login", json=login).status_code == 200
