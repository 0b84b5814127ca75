import json
import re
from uuid import uuid4

import pytest
from argon2 import extract_parameters
from harness import PASSWORD
from sqlalchemy.exc import OperationalError

from sentiment_app.audit import service as audit
from sentiment_app.infrastructure.database import db
from sentiment_app.users import administration, passwords, sessions
from sentiment_app.users import service as users
from sentiment_app.users.hashing import HashingProcess
from sentiment_app.users.models import Session

LOGIN, REFRESH, LOGOUT, PROTECTED = (
    "/api/v1/auth/login",
    "/api/v1/auth/refresh",
    "/api/v1/auth/logout",
    "/api/v1/protected/test",
)


@pytest.fixture
def tokens(client, ada):
    return client.post(LOGIN, json={"username": "ada", "password": PASSWORD}).json


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_login_answers_like_an_oauth2_token_endpoint(tokens):
    assert set(tokens) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 900)


def test_login_accepts_oauth2_form(client, ada):
    form = {"grant_type": "password", "username": "Ada", "password": PASSWORD, "scope": "", "client_id": ""}
    assert client.post(LOGIN, data=form).status_code == 200


def test_token_identifies_its_user(client, ada, tokens):
    answer = client.get(PROTECTED, headers=bearer(tokens["access_token"]))
    assert answer.status_code == 200
    assert (answer.json["user_id"], answer.json["username"]) == (str(ada.id), "ada")


@pytest.mark.asvs("10.4.5")
def test_oauth_client_refreshes_its_token(client, ada):
    given = client.post(LOGIN, data={"grant_type": "password", "username": "ada", "password": PASSWORD}).json
    form = {"grant_type": "refresh_token", "refresh_token": given["refresh_token"]}
    renewed = client.post(LOGIN, data=form)
    assert (renewed.status_code, renewed.headers["Cache-Control"]) == (200, "no-store")
    assert client.get(PROTECTED, headers=bearer(renewed.json["access_token"])).status_code == 200
    again = client.post(LOGIN, data=form)
    assert (again.status_code, again.json["error"]) == (400, "invalid_grant")


@pytest.mark.asvs("2.2.3")
@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": "password", "username": "ada", "password": "wrong password"}, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "rubbish"}, "invalid_grant"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": "password", "username": "ada"}, "invalid_request"),
        ({"grant_type": "password", "username": "ada", "password": PASSWORD, "other": "x"}, "invalid_request"),
        ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
    ],
)
def test_oauth_client_gets_the_errors_of_oauth(client, ada, form, error):
    """RFC 6749, section 5.2. The answer is a problem document, too."""
    answer = client.post(LOGIN, data=form)
    assert (answer.status_code, answer.json["status"], answer.json["error"]) == (400, 400, error)
    assert set(answer.json["error_description"]).isdisjoint('"\\')
    assert answer.json["type"].startswith("urn:sentiment-app:problem:")


@pytest.mark.asvs("1.2.3", "15.3.7")
@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ("grant_type=password&grant_type=refresh_token&username=ada&password=x", 400, "invalid_request"),
        ("username=ada&username=bob&password=x", 400, "invalid_request"),
        ("grant_type=client_credentials%00", 400, "invalid_request"),
        ("%C3%A9%5C%22=1&username=ada&password=x", 400, "invalid_request"),
        ("username=" + "a" * 9000, 413, "invalid_request"),
    ],
)
def test_hostile_oauth_form_is_refused(client, ada, form, status, error):
    answer = client.post(LOGIN, data=form, content_type="application/x-www-form-urlencoded")
    assert (answer.status_code, answer.json["error"]) == (status, error)
    assert re.fullmatch(r"[ !#-\[\]-~]+", answer.json["error_description"])


def test_refused_grant_asks_for_no_bearer_token(client, ada):
    for form in (
        {"refresh_token": "rubbish", "grant_type": "refresh_token"},
        {"username": "ada", "password": "wrong password"},
    ):
        assert "WWW-Authenticate" not in client.post(LOGIN, data=form).headers


def test_failed_sign_in_takes_the_same_statements_for_an_unknown_account(client, ada, statements):
    found = {}
    for name in ("ada", "nobody"):
        with statements() as seen:
            client.post(LOGIN, json={"username": name, "password": "wrong password"})
        found[name] = [re.sub(r"^(RELEASE|ROLLBACK TO)|_\d+$", "", statement) for statement in seen]
    assert found["ada"] == found["nobody"]
    assert any("INSERT INTO audit_events" in statement for statement in found["ada"])


@pytest.mark.parametrize("name", ["ada", "nobody"])
def test_failed_sign_in_is_refused_and_counted_if_it_cannot_be_recorded(make_app, ada, monkeypatch, name):
    def fail(_):
        raise OperationalError("INSERT", {}, Exception("no space left"))

    monkeypatch.setattr(audit, "_record_failed_sign_in", fail)
    strict = make_app(login_rate_limit="2 per minute").test_client()
    body = {"username": name, "password": "wrong password"}
    assert [strict.post(LOGIN, json=body).status_code for _ in range(3)] == [401, 401, 429]


def test_client_that_sends_json_gets_only_a_problem(client, ada):
    answer = client.post(LOGIN, json={"username": "ada", "password": "wrong password"})
    assert answer.status_code == 401
    assert "error" not in answer.json


@pytest.mark.parametrize(("name", "password"), [("ada", "wrong password"), ("nobody", PASSWORD)])
def test_unknown_user_and_wrong_password_get_the_same_answer(client, ada, name, password):
    answer = client.post(LOGIN, json={"username": name, "password": password})
    assert answer.status_code == 401
    assert answer.json["detail"] == "The username or the password is wrong."
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_unknown_user_and_wrong_password_take_the_same_work(client, ada, make_user, monkeypatch):
    """Compares the hashes and their parameters. Measured times would depend on the load of the machine."""
    administration.administer(make_user("closed").id, {"is_active": False})
    ask, hashes = HashingProcess.ask, []

    def counted(self, request):
        hashes.append(extract_parameters(request["hash"]))
        return ask(self, request)

    monkeypatch.setattr(HashingProcess, "ask", counted)
    work = {}
    for name, password in (("ada", "wrong password"), ("nobody", "wrong password"), ("closed", PASSWORD)):
        hashes.clear()
        assert client.post(LOGIN, json={"username": name, "password": password}).status_code == 401
        work[name] = list(hashes)
    assert len(work["ada"]) == 1
    assert work["nobody"] == work["closed"] == work["ada"]


def test_deactivated_user_cannot_sign_in(client, ada):
    administration.administer(ada.id, {"is_active": False})
    assert client.post(LOGIN, json={"username": "ada", "password": PASSWORD}).status_code == 401


def test_refresh_token_can_be_used_once(client, tokens):
    renewed = client.post(REFRESH, json={"refresh_token": tokens["refresh_token"]})
    assert renewed.status_code == 200
    assert client.get(PROTECTED, headers=bearer(renewed.json["access_token"])).status_code == 200


@pytest.mark.asvs("7.2.2", "10.4.5")
def test_reused_refresh_token_ends_the_session(client, tokens):
    renewed = client.post(REFRESH, json={"refresh_token": tokens["refresh_token"]}).json
    assert client.post(REFRESH, json={"refresh_token": tokens["refresh_token"]}).status_code == 401
    assert client.post(REFRESH, json={"refresh_token": renewed["refresh_token"]}).status_code == 401
    assert client.get(PROTECTED, headers=bearer(renewed["access_token"])).status_code == 401
    assert db.session.query(Session).one().end_reason == "refresh token used twice"


@pytest.mark.parametrize("token", ["rubbish", "a.b.c"])
def test_forged_refresh_token_is_refused(client, token):
    assert client.post(REFRESH, json={"refresh_token": token}).status_code == 401


@pytest.mark.asvs("9.2.2")
def test_access_token_cannot_refresh(client, tokens):
    assert client.post(REFRESH, json={"refresh_token": tokens["access_token"]}).status_code == 401


@pytest.mark.asvs("7.4.1")
def test_logout_ends_access_and_refresh(client, tokens):
    assert client.post(LOGOUT, headers=bearer(tokens["access_token"])).status_code == 204
    assert client.get(PROTECTED, headers=bearer(tokens["access_token"])).status_code == 401
    assert client.post(REFRESH, json={"refresh_token": tokens["refresh_token"]}).status_code == 401


def test_logout_keeps_other_sessions(client, tokens):
    other = client.post(LOGIN, json={"username": "ada", "password": PASSWORD}).json
    client.post(LOGOUT, headers=bearer(tokens["access_token"]))
    assert client.get(PROTECTED, headers=bearer(other["access_token"])).status_code == 200


def test_outdated_hash_is_replaced_at_sign_in(make_app, ada):
    app = make_app(password_iterations=2)
    with app.app_context():
        assert app.test_client().post(LOGIN, json={"username": "ada", "password": PASSWORD}).status_code == 200
        assert "t=2" in users.get(ada.id).password_hash


def test_sign_in_succeeds_if_rehashing_is_refused(make_app, ada, monkeypatch):
    app = make_app(password_iterations=2)

    def hash_never(_):
        raise passwords.TooManySignInsError

    monkeypatch.setattr(passwords, "hash_password", hash_never)
    assert app.test_client().post(LOGIN, json={"username": "ada", "password": PASSWORD}).status_code == 200


def test_sign_in_succeeds_if_another_sign_in_rehashed(make_app, ada, monkeypatch):
    app = make_app(password_iterations=2)
    start = sessions.start

    def start_late(*arguments):
        monkeypatch.undo()
        users.rehash_password(users.get(ada.id), PASSWORD)  # as the other sign-in does
        return start(*arguments)

    monkeypatch.setattr(sessions, "start", start_late)
    assert app.test_client().post(LOGIN, json={"username": "ada", "password": PASSWORD}).status_code == 200


def test_password_matches_in_any_unicode_form(client):
    composed, decomposed = "p\u00e4sswort-lang", "pa\u0308sswort-lang"
    account = {"username": "eve", "email": "eve@example.org", "password": composed}
    assert client.post("/api/v1/auth/register", json=account).status_code == 201
    assert client.post(LOGIN, json={"username": "eve", "password": decomposed}).status_code == 200


def test_password_reset_wins_over_concurrent_sign_in(app, ada):
    verified = users.authenticate("ada", PASSWORD).password_hash
    administration.reset_password("ada", "another long passphrase")
    with pytest.raises(sessions.AccountChangedError):
        sessions.start(ada.id, verified, sessions.Origin("192.0.2.1", "test"))
    users._replace_hash(ada.id, verified, "the old password, hashed anew")
    assert users.authenticate("ada", "another long passphrase")


@pytest.mark.asvs("15.4.2")
def test_first_of_two_password_changes_wins(app, ada, monkeypatch):
    def meanwhile(*_, **__):
        monkeypatch.undo()
        administration.reset_password("ada", "first come")

    monkeypatch.setattr(passwords, "check", meanwhile)
    changes = {"password": "second come, too late", "current_password": PASSWORD}
    with pytest.raises(users.WrongPasswordError):
        users.change_profile(ada.id, uuid4(), changes)
    assert users.authenticate("ada", "first come")


@pytest.mark.asvs("15.2.2")
def test_flood_of_sign_ins_is_refused_with_503(client, ada, full):
    with full(passwords.HASHING_LIMIT.get(client.application)):
        answer = client.post(LOGIN, json={"username": "ada", "password": PASSWORD})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert client.post(LOGIN, json={"username": "ada", "password": PASSWORD}).status_code == 200


@pytest.mark.parametrize("large", [8 * 1024 + 1, 200_000])
def test_large_bodies_of_sign_in_are_refused_before_they_are_parsed(client, large, monkeypatch):
    monkeypatch.setattr("sentiment_app.web.operation.json", None)
    body = json.dumps({"username": "ada", "password": "x" * large})
    answer = client.post(LOGIN, data=body, content_type="application/json")
    assert (answer.status_code, answer.json["type"]) == (413, "urn:sentiment-app:problem:too-large")
