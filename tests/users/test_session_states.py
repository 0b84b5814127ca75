"""Stateful test of sessions: clients and administrators act in random order, and Redis loses its data."""

import pytest
from harness import PASSWORD
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import delete
from stateful import PARTS, run_machine

from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import REDIS
from sentiment_app.users import administration
from sentiment_app.users import service as users
from sentiment_app.users.models import Session, User

USERS = st.sampled_from(["ada", "bob"])
PICK = st.integers(0, 10_000)
PASSWORDS = (PASSWORD, "another fine long password")


class SignIn:
    """A sign-in as its client knows it: tokens, and whether they should work."""

    def __init__(self, username, tokens):
        self.username = username
        self.access, self.refresh = tokens["access_token"], tokens["refresh_token"]
        self.used = []
        self.is_live = True


class Sessions(RuleBasedStateMachine):
    """Two accounts, whose clients sign in and out, refresh, reuse tokens, change passwords and are deactivated."""

    client = redis = None

    def __init__(self):
        super().__init__()
        for table in (Session, User):
            db.session.execute(delete(table))
        db.session.commit()
        self.redis.flushdb()
        self.ids = {name: users.register(name, f"{name}@example.org", PASSWORD).id for name in ("ada", "bob")}
        self.passwords = dict.fromkeys(self.ids, PASSWORD)
        self.active = dict.fromkeys(self.ids, True)
        self.signed = []

    def post(self, path, body=None, token=None):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.client.post(f"/api/v1/auth/{path}", json=body, headers=headers)

    @rule(username=USERS, is_right=st.booleans())
    def sign_in(self, username, is_right):
        password = self.passwords[username] if is_right else "not the right password"
        answer = self.post("login", {"username": username, "password": password})
        assert answer.status_code == (200 if is_right and self.active[username] else 401)
        if answer.status_code == 200:
            self.signed.append(SignIn(username, answer.json))

    @precondition(lambda self: self.signed)
    @rule(pick=PICK)
    def refresh(self, pick):
        signed = self.signed[pick % len(self.signed)]
        answer = self.post("refresh", {"refresh_token": signed.refresh})
        assert answer.status_code == (200 if signed.is_live else 401)
        if answer.status_code == 200:
            signed.used.append(signed.refresh)
            signed.access, signed.refresh = answer.json["access_token"], answer.json["refresh_token"]

    @precondition(lambda self: any(signed.used for signed in self.signed))
    @rule(pick=PICK)
    def use_a_refresh_token_twice(self, pick):
        stolen = [signed for signed in self.signed if signed.used]
        signed = stolen[pick % len(stolen)]
        assert self.post("refresh", {"refresh_token": signed.used[pick % len(signed.used)]}).status_code == 401
        signed.is_live = False

    @precondition(lambda self: self.signed)
    @rule(pick=PICK)
    def sign_out(self, pick):
        signed = self.signed[pick % len(self.signed)]
        assert self.post("logout", token=signed.access).status_code == (204 if signed.is_live else 401)
        signed.is_live = False

    @precondition(lambda self: self.signed)
    @rule(pick=PICK)
    def change_the_password(self, pick):
        signed = self.signed[pick % len(self.signed)]
        new = next(password for password in PASSWORDS if password != self.passwords[signed.username])
        answer = self.client.patch(
            "/api/v1/users/me",
            json={"password": new, "current_password": self.passwords[signed.username]},
            headers={"Authorization": f"Bearer {signed.access}"},
        )
        assert answer.status_code == (200 if signed.is_live else 401)
        if answer.status_code == 200:
            self.passwords[signed.username] = new
            self.end(signed.username, but=signed)

    @rule(username=USERS)
    def reset_the_password(self, username):
        new = next(password for password in PASSWORDS if password != self.passwords[username])
        administration.reset_password(username, new)
        self.passwords[username] = new
        self.end(username)

    @rule(username=USERS, active=st.booleans())
    def set_account_active(self, username, active):
        administration.administer(self.ids[username], {"is_active": active})
        self.active[username] = active
        if not active:
            self.end(username)

    @rule()
    def wipe_redis(self):
        self.redis.flushdb()

    @rule()
    def lose_the_list_of_ended_sessions(self):
        for key in self.redis.keys("session-ended:*"):
            self.redis.delete(key)
        self.redis.delete("sessions-ended:listed")

    def end(self, username, but=None):
        for signed in self.signed:
            if signed.username == username and signed is not but:
                signed.is_live = False

    @invariant()
    def tokens_work_if_their_session_is_live_and_for_their_owner_alone(self):
        for signed in self.signed:
            headers = {"Authorization": f"Bearer {signed.access}"}
            answer = self.client.get("/api/v1/protected/test", headers=headers)
            assert answer.status_code == (200 if signed.is_live else 401)
            if signed.is_live:
                assert answer.json["username"] == signed.username


@pytest.mark.no_cover
@pytest.mark.parametrize("part", PARTS)
def test_sessions_keep_invariants_under_random_actions(part, app, client):
    run_machine(type("SessionsOfTwo", (Sessions,), {"client": client, "redis": REDIS.get(app)}))
