"""People see their sessions, and end them."""

from datetime import UTC, datetime, timedelta

import pytest
from harness import PASSWORD
from sqlalchemy import func, update

from sentiment_app.infrastructure.database import db
from sentiment_app.users.models import Session

SESSIONS, LOGIN, REFRESH = "/api/v1/auth/sessions", "/api/v1/auth/login", "/api/v1/auth/refresh"


@pytest.fixture
def start(client, ada):
    """Signs in, and returns the tokens and their Authorization header."""

    def start(agent="curl/8"):
        body = {"username": "ada", "password": PASSWORD}
        tokens = client.post(LOGIN, json=body, headers={"User-Agent": agent}).json
        return tokens, {"Authorization": f"Bearer {tokens['access_token']}"}

    return start


def test_sessions_are_listed_with_their_origin(client, start):
    _, first = start("Firefox \u00e9" + "x" * 400)
    tokens, _ = start("curl/8")
    client.post(REFRESH, json={"refresh_token": tokens["refresh_token"]})
    newest, oldest = client.get(SESSIONS, headers=first).json["items"]
    assert (newest["agent"], newest["network"], newest["is_current"]) == ("curl/8", "127.0.0.1", False)
    assert newest["last_used_at"] is not None
    assert (len(oldest["agent"]), oldest["last_used_at"], oldest["is_current"]) == (300, None, True)


@pytest.mark.asvs("7.2.2", "10.4.9")
def test_session_can_be_ended(client, start):
    _, first = start()
    tokens, second = start()
    (session,) = [entry for entry in client.get(SESSIONS, headers=first).json["items"] if not entry["is_current"]]
    for _ in range(2):
        assert client.delete(f"{SESSIONS}/{session['id']}", headers=first).status_code == 204
    assert client.get(SESSIONS, headers=second).status_code == 401
    assert client.post(REFRESH, json={"refresh_token": tokens["refresh_token"]}).status_code == 401
    assert len(client.get(SESSIONS, headers=first).json["items"]) == 1


@pytest.mark.asvs("10.4.9")
def test_all_other_sessions_can_be_ended(client, start, as_admin):
    _, first = start()
    others = [start()[1] for _ in range(3)]
    assert client.delete(SESSIONS, headers=first).status_code == 204
    assert [client.get(SESSIONS, headers=other).status_code for other in others] == [401] * 3
    assert client.get(SESSIONS, headers=first).status_code == 200
    assert client.get(SESSIONS, headers=as_admin).status_code == 200


@pytest.mark.asvs("8.2.2")
def test_other_users_sessions_cannot_be_ended(client, start, as_admin):
    _, first = start()
    (session,) = client.get(SESSIONS, headers=first).json["items"]
    assert client.delete(f"{SESSIONS}/{session['id']}", headers=as_admin).status_code == 404
    assert client.get(SESSIONS, headers=first).status_code == 200


@pytest.mark.asvs("7.3.2", "10.4.8")
def test_session_cannot_be_renewed_forever(client, start):
    tokens, headers = start()
    almost = timedelta(days=89, hours=23)
    db.session.execute(update(Session).values(created_at=func.now() - almost))
    renewed = client.post(REFRESH, json={"refresh_token": tokens["refresh_token"]})
    assert renewed.status_code == 200
    (session,) = client.get(SESSIONS, headers=headers).json["items"]
    left = datetime.fromisoformat(session["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=55) < left <= timedelta(hours=1)
    db.session.execute(update(Session).values(expires_at=func.now()))
    assert client.post(REFRESH, json={"refresh_token": renewed.json["refresh_token"]}).status_code == 401


@pytest.mark.asvs("7.3.1")
def test_unused_session_ends(client, start):
    tokens, headers = start()
    (session,) = client.get(SESSIONS, headers=headers).json["items"]
    left = datetime.fromisoformat(session["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)
    unused = timedelta(days=30)
    moved = {"created_at": Session.created_at - unused, "expires_at": Session.expires_at - unused}
    db.session.execute(update(Session).values(moved))
    db.session.commit()
    assert client.post(REFRESH, json={"refresh_token": tokens["refresh_token"]}).status_code == 401
