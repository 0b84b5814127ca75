from datetime import timedelta
from uuid import uuid4

import jwt
import pytest
from argon2 import extract_parameters
from flask_jwt_extended import create_access_token
from harness import PASSWORD

from sentiment_app.infrastructure.database import db
from sentiment_app.users import passwords, sessions
from sentiment_app.users import service as users
from sentiment_app.users.models import Session

LOGIN, REFRESH, LOGOUT, WHO = (
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


def test_the_answer_is_that_of_an_oauth2_token_endpoint(tokens):
    assert set(tokens) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 900)


def test_a_form_as_oauth2_clients_send_it_signs_in(client, ada):
    form = {"grant_type": "password", "username": "Ada", "password": PASSWORD, "scope": "", "client_id": ""}
    assert client.post(LOGIN, data=form).status_code == 200


def test_the_token_says_whose_it_is(client, ada, tokens):
    answer = client.get(WHO, headers=bearer(tokens["access_token"]))
    assert answer.status_code == 200
    assert (answer.json["user_id"], answer.json["username"]) == (str(ada.id), "ada")


@pytest.mark.parametrize(("name", "password"), [("ada", "wrong password"), ("nobody", PASSWORD)])
def test_unknown_user_and_wrong_password_get_one_answer(client, ada, name, password):
    answer = client.post(LOGIN, json={"username": name, "password": password})
    assert answer.status_code == 401
    assert answer.json["detail"] == "The username or the password is wrong."
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_unknown_user_and_wrong_password_take_the_same_work(client, ada, make_user, monkeypatch):
    """Counted in hashes, each with its costs: a measured time would be that of whatever else runs here."""
    users.set_active(make_user("closed").id, False)
    verify, hashes = passwords.PasswordHasher.verify, []

    def counted(self, stored, given):
        hashes.append(extract_parameters(stored))
        return verify(self, stored, given)

    monkeypatch.setattr(passwords.PasswordHasher, "verify", counted)
    work = {}
    for name, password in (("ada", "wrong password"), ("nobody", "wrong password"), ("closed", PASSWORD)):
        hashes.clear()
        assert client.post(LOGIN, json={"username": name, "password": password}).status_code == 401
        work[name] = list(hashes)
    assert len(work["ada"]) == 1
    assert work["nobody"] == work["closed"] == work["ada"]


def test_a_deactivated_user_cannot_sign_in(client, ada):
    users.set_active(ada.id, False)
    assert client.post(LOGIN, json={"username": "ada", "password": PASSWORD}).status_code == 401


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Token x"])
def test_without_a_token_a_challenge_comes(client, header):
    answer = client.get(WHO, headers={"Authorization": header} if header is not None else {})
    assert (answer.status_code, answer.mimetype) == (401, "application/problem+json")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="sentiment"'


def forgeries(app, user, tokens):
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    yield "rubbish"
    yield tokens["refresh_token"]
    yield tokens["access_token"][:-3] + "abc"
    yield jwt.encode(claims, "some other key that is long enough to use", algorithm="HS256")
    yield jwt.encode(claims, None, algorithm="none")
    yield create_access_token(
        str(user.id), expires_delta=timedelta(seconds=-1), additional_claims={"sid": claims["sid"]}
    )
    yield create_access_token(str(user.id))


def test_a_token_that_is_not_valid_is_refused(app, client, ada, tokens):
    for token in forgeries(app, ada, tokens):
        answer = client.get(WHO, headers=bearer(token))
        assert answer.status_code == 401, token
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_a_refresh_token_gives_new_tokens_once(client, tokens):
    renewed = client.post(REFRESH, json={"refresh_token": tokens["refresh_token"]})
    assert renewed.status_code == 200
    assert client.get(WHO, headers=bearer(renewed.json["access_token"])).status_code == 200


def test_a_refresh_token_used_twice_ends_the_whole_session(client, tokens):
    renewed = client.post(REFRESH, json={"refresh_token": tokens["refresh_token"]}).json
    assert client.post(REFRESH, json={"refresh_token": tokens["refresh_token"]}).status_code == 401
    assert client.post(REFRESH, json={"refresh_token": renewed["refresh_token"]}).status_code == 401
    assert client.get(WHO, headers=bearer(renewed["access_token"])).status_code == 401
    assert db.session.query(Session).one().end_reason == "refresh token used twice"


@pytest.mark.parametrize("token", ["rubbish", "a.b.c"])
def test_a_false_refresh_token_is_refused(client, token):
    assert client.post(REFRESH, json={"refresh_token": token}).status_code == 401


def test_an_access_token_does_not_refresh(client, tokens):
    assert client.post(REFRESH, json={"refresh_token": tokens["access_token"]}).status_code == 401


def test_logout_ends_access_and_refresh(client, tokens):
    assert client.post(LOGOUT, headers=bearer(tokens["access_token"])).status_code == 204
    assert client.get(WHO, headers=bearer(tokens["access_token"])).status_code == 401
    assert client.post(REFRESH, json={"refresh_token": tokens["refresh_token"]}).status_code == 401


def test_logout_leaves_other_sessions(client, tokens):
    other = client.post(LOGIN, json={"username": "ada", "password": PASSWORD}).json
    client.post(LOGOUT, headers=bearer(tokens["access_token"]))
    assert client.get(WHO, headers=bearer(other["access_token"])).status_code == 200


def test_a_password_hashed_with_old_parameters_is_hashed_anew(make_app, ada):
    app = make_app(password_iterations=2)
    with app.app_context():
        assert app.test_client().post(LOGIN, json={"username": "ada", "password": PASSWORD}).status_code == 200
        assert "t=2" in users.get(ada.id).password_hash


def test_a_hash_that_nobody_has_time_to_make_anew_is_no_refusal(make_app, ada, monkeypatch):
    app = make_app(password_iterations=2)

    def hash_never(_):
        raise passwords.TooManySignInsError

    monkeypatch.setattr(passwords, "hash_password", hash_never)
    assert app.test_client().post(LOGIN, json={"username": "ada", "password": PASSWORD}).status_code == 200


def test_a_hash_that_another_sign_in_made_anew_meanwhile_is_no_refusal(make_app, ada, monkeypatch):
    app = make_app(password_iterations=2)
    start = sessions.start

    def start_late(*arguments):
        monkeypatch.undo()
        users.rehash_password(users.get(ada.id), PASSWORD)  # what the other one does
        return start(*arguments)

    monkeypatch.setattr(sessions, "start", start_late)
    assert app.test_client().post(LOGIN, json={"username": "ada", "password": PASSWORD}).status_code == 200


def test_a_password_may_be_typed_in_any_form_of_unicode(client):
    composed, decomposed = "p\u00e4sswort-lang", "pa\u0308sswort-lang"
    account = {"username": "eve", "email": "eve@example.org", "password": composed}
    assert client.post("/api/v1/auth/register", json=account).status_code == 201
    assert client.post(LOGIN, json={"username": "eve", "password": decomposed}).status_code == 200


def test_a_password_reset_during_a_sign_in_wins(app, ada):
    verified = users.authenticate("ada", PASSWORD).password_hash
    users.reset_password("ada", "another long passphrase")
    with pytest.raises(sessions.AccountChangedError):
        sessions.start(ada.id, verified)
    users._replace_hash(ada.id, verified, "the old password, hashed anew")
    assert users.authenticate("ada", "another long passphrase")


def test_of_two_changes_of_one_password_the_first_wins(app, ada, monkeypatch):
    def meanwhile(*_, **__):
        monkeypatch.undo()
        users.reset_password("ada", "first come")

    monkeypatch.setattr(passwords, "check", meanwhile)
    changes = {"password": "second come, too late", "current_password": PASSWORD}
    with pytest.raises(users.WrongPasswordError):
        users.change_profile(ada.id, uuid4(), changes)
    assert users.authenticate("ada", "first come")


def test_a_flood_of_passwords_is_turned_away_and_does_not_take_all_threads(client, ada, full):
    with full(passwords.HASHING_LIMIT.get(client.application)):
        answer = client.post(LOGIN, json={"username": "ada", "password": PASSWORD})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert client.post(LOGIN, json={"username": "ada", "password": PASSWORD}).status_code == 200
