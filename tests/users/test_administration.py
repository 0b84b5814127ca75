"""What administrators do with accounts: promote, demote, invite, reset passwords, end sessions."""

import threading

import pytest
from harness import PASSWORD
from sqlalchemy import delete, update

from sentiment_app.infrastructure.database import db
from sentiment_app.users import administration, one_time_tokens, service
from sentiment_app.users.models import OneTimeToken, User

USERS = "/api/v1/users"
ME = f"{USERS}/me"
REGISTER = "/api/v1/auth/register"
RESET = "/api/v1/auth/password-reset"
LOGIN = "/api/v1/auth/login"
EVE = {"username": "eve", "email": "eve@example.org", "password": PASSWORD}


def test_administrator_promotes_and_demotes(client, ada, as_ada, as_admin):
    changed = client.patch(f"{USERS}/{ada.id}", json={"is_superuser": True}, headers=as_admin)
    assert (changed.status_code, changed.json["is_superuser"]) == (200, True)
    assert client.get(USERS, headers=as_ada).status_code == 200
    client.patch(f"{USERS}/{ada.id}", json={"is_superuser": False}, headers=as_admin)
    assert client.get(USERS, headers=as_ada).status_code == 403


@pytest.mark.parametrize("body", [{"is_active": False}, {"is_superuser": False}])
def test_administrators_do_not_take_their_own_rights(client, admin, as_admin, body):
    answer = client.patch(f"{USERS}/{admin.id}", json=body, headers=as_admin)
    assert (answer.status_code, answer.json["type"].rpartition(":")[2]) == (409, "own-account")
    assert client.delete(f"{USERS}/{admin.id}", headers=as_admin).status_code == 409


@pytest.mark.parametrize("changes", [{"is_active": False}, {"is_superuser": False}])
def test_last_administrator_keeps_the_rights(app, admin, make_user, changes):
    with pytest.raises(service.LastAdministratorError):
        administration.administer(admin.id, changes)
    with pytest.raises(service.LastAdministratorError):
        administration.delete(admin.id)
    other = make_user("other")
    administration.administer(other.id, {"is_superuser": True, "is_active": False})
    with pytest.raises(service.LastAdministratorError):  # an inactive administrator does not help
        administration.administer(admin.id, changes)
    administration.administer(other.id, {"is_active": True})
    administration.administer(admin.id, changes)


def test_last_administrator_can_be_changed_otherwise(client, admin, as_admin):
    body = {"current_password": PASSWORD, "email": "other@example.org"}
    assert client.patch(ME, json=body, headers=as_admin).status_code == 200
    assert administration.administer(admin.id, {"is_active": True}).is_superuser


@pytest.mark.asvs("7.4.5")
def test_administrator_ends_the_sessions_of_an_account(client, ada, as_ada, as_admin):
    listed = client.get(f"{USERS}/{ada.id}/sessions", headers=as_admin).json["items"]
    assert [entry["is_current"] for entry in listed] == [False]
    assert client.delete(f"{USERS}/{ada.id}/sessions", headers=as_admin).status_code == 204
    assert client.get(ME, headers=as_ada).status_code == 401
    assert client.get(ME, headers=as_admin).status_code == 200


@pytest.mark.parametrize(("mode", "hint"), [("closed", "by an administrator"), ("invitation", "with an invitation")])
def test_registration_can_be_closed(make_app, mode, hint):
    client = make_app(registration=mode).test_client()
    answer = client.post(REGISTER, json=EVE)
    assert (answer.status_code, answer.json["type"].rpartition(":")[2]) == (403, "registration-closed")
    assert hint in answer.json["detail"]
    assert client.post(REGISTER, json={**EVE, "invitation": "guessed"}).status_code == 403


@pytest.mark.asvs("6.4.1")
def test_invitation_is_used_once(make_app, as_admin):
    client = make_app(registration="invitation").test_client()
    made = client.post(f"{USERS}/invitations", json={}, headers=as_admin)
    assert made.status_code == 201
    invitation = made.json["token"]
    weak = client.post(REGISTER, json={**EVE, "password": "password123", "invitation": invitation})
    assert weak.status_code == 422  # and does not use it up
    assert client.post(REGISTER, json={**EVE, "invitation": invitation}).status_code == 201
    again = client.post(REGISTER, json={**EVE, "username": "mallory", "email": "m@x.org", "invitation": invitation})
    assert (again.status_code, again.json["type"].rpartition(":")[2]) == (403, "invalid-one-time-token")
    assert client.post(RESET, json={"token": invitation, "password": PASSWORD}).status_code == 403


def test_taken_name_does_not_use_up_the_invitation(make_app, ada, as_admin):
    client = make_app(registration="invitation").test_client()
    invitation = client.post(f"{USERS}/invitations", json={}, headers=as_admin).json["token"]
    taken = {**EVE, "username": "ada", "invitation": invitation}
    assert client.post(REGISTER, json=taken).status_code == 409
    assert client.post(REGISTER, json={**EVE, "invitation": invitation}).status_code == 201


@pytest.mark.asvs("6.4.1")
def test_expired_invitation_is_refused(make_app, as_admin):
    client = make_app(registration="invitation").test_client()
    invitation = client.post(f"{USERS}/invitations", json={}, headers=as_admin).json["token"]
    db.session.execute(update(OneTimeToken).values(expires_at="2020-01-01T00:00:00Z"))
    assert client.post(REGISTER, json={**EVE, "invitation": invitation}).status_code == 403


def test_command_invites(make_app):
    app = make_app(registration="invitation")
    token = app.test_cli_runner().invoke(args=["user", "invite"]).stdout.strip()
    assert app.test_client().post(REGISTER, json={**EVE, "invitation": token}).status_code == 201


@pytest.mark.asvs("6.4.1", "6.4.3", "7.4.3")
def test_user_sets_a_new_password_with_a_token(client, ada, as_ada, as_admin):
    made = client.post(f"{USERS}/{ada.id}/password-reset", json={}, headers=as_admin)
    assert made.status_code == 201
    token = made.json["token"]
    assert client.post(RESET, json={"token": token, "password": "password123"}).status_code == 422
    assert client.post(RESET, json={"token": token, "password": "a new passphrase"}).status_code == 204
    assert client.get(ME, headers=as_ada).status_code == 401
    assert client.post(LOGIN, json={"username": "ada", "password": PASSWORD}).status_code == 401
    assert client.post(LOGIN, json={"username": "ada", "password": "a new passphrase"}).status_code == 200
    assert client.post(RESET, json={"token": token, "password": "another passphrase"}).status_code == 403
    assert client.post(REGISTER, json={**EVE, "invitation": token}).status_code == 403


def reset_token(client, user, headers):
    return client.post(f"{USERS}/{user.id}/password-reset", json={}, headers=headers).json["token"]


def test_administrators_do_not_reset_their_own_password(client, admin, as_admin):
    """Otherwise a stolen access token would take the account over."""
    assert client.post(f"{USERS}/{admin.id}/password-reset", json={}, headers=as_admin).status_code == 409


@pytest.mark.asvs("6.2.2", "6.4.3")
@pytest.mark.parametrize("change", ["profile", "another reset", "command"])
def test_new_password_cancels_password_resets(client, ada, as_ada, as_admin, change):
    first, second = (reset_token(client, ada, as_admin) for _ in range(2))
    if change == "profile":
        body = {"current_password": PASSWORD, "password": "a new passphrase"}
        assert client.patch(ME, json=body, headers=as_ada).status_code == 200
    elif change == "command":
        administration.reset_password("ada", "a new passphrase")
    else:
        assert client.post(RESET, json={"token": second, "password": "a new passphrase"}).status_code == 204
    assert client.post(RESET, json={"token": first, "password": "an attacker's one"}).status_code == 403
    assert client.post(LOGIN, json={"username": "ada", "password": "a new passphrase"}).status_code == 200


@pytest.mark.asvs("6.4.3")
@pytest.mark.parametrize("end", ["deactivate", "delete"])
def test_reset_of_an_account_that_ended_is_refused(client, ada, as_admin, monkeypatch, end):
    token, user_id = reset_token(client, ada, as_admin), ada.id

    def end_account():
        administration.delete(user_id) if end == "delete" else administration.administer(user_id, {"is_active": False})

    def check(*_, **__):  # between the two steps of the reset
        monkeypatch.undo()
        end_account()

    monkeypatch.setattr(service.passwords, "check", check)
    for _ in range(2):
        assert client.post(RESET, json={"token": token, "password": "a new passphrase"}).status_code == 403


@pytest.mark.asvs("6.4.1")
def test_only_the_hash_of_a_token_is_stored(app):
    made = one_time_tokens.create(one_time_tokens.Purpose.INVITATION, None, service.timedelta(days=1))
    assert made.token.encode() not in made.record.token_hash
    assert len(made.token) >= 43  # 256 bits


def test_unknown_account_has_no_password_reset(client, as_admin):
    path = f"{USERS}/01a20810-6c0c-7378-b5fe-cfc50592fba5/password-reset"
    assert client.post(path, json={}, headers=as_admin).status_code == 404


@pytest.mark.asvs("15.4.2")
def test_two_administrators_cannot_demote_each_other(base_app):
    """With transactions of their own, which the other tests do not have."""
    with base_app.app_context():
        pair = [
            service.register(name, f"{name}@example.org", PASSWORD, is_superuser=True) for name in ("first", "second")
        ]
        ids = [user.id for user in pair]
    outcomes, barrier = [], threading.Barrier(2)

    def demote(user_id):
        with base_app.app_context():
            barrier.wait()
            try:
                administration.administer(user_id, {"is_superuser": False})
                outcomes.append("demoted")
            except service.LastAdministratorError:
                outcomes.append("refused")

    try:
        threads = [threading.Thread(target=demote, args=(user_id,)) for user_id in ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["demoted", "refused"]
    finally:
        with base_app.app_context():
            db.session.execute(delete(User).where(User.id.in_(ids)))
            db.session.commit()
