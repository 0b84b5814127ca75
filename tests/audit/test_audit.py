"""The audit log: what is recorded, who may read it, and that nobody can change it."""

import json
import runpy
from datetime import UTC, datetime, timedelta

import pytest
from harness import PASSWORD, ROOT
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError

from sentiment_app import maintenance
from sentiment_app.audit import service
from sentiment_app.audit.models import AuditEvent
from sentiment_app.infrastructure import logs
from sentiment_app.infrastructure.database import db
from sentiment_app.registry import releases
from sentiment_app.users import administration
from sentiment_app.users import service as users

AUDIT = "/api/v1/audit"
LOGIN = "/api/v1/auth/login"
ME = "/api/v1/users/me"


@pytest.fixture
def recorded(app):
    """The events since the last call, oldest first, with their details."""
    seen = set()

    def recorded():
        found = [entry for entry in reversed(service.page(1000, None)) if entry.id not in seen]
        seen.update(entry.id for entry in found)
        return found

    recorded()
    return recorded


def names(entries):
    return [entry.event for entry in entries]


def add(**values):
    db.session.execute(insert(AuditEvent).values({"id": service.uuid.uuid7(), "event": "user_created", **values}))


@pytest.mark.asvs("16.2.1")
def test_sign_ins_are_recorded_with_account_and_network(client, ada, recorded):
    recorded()
    for name, password in (("ada", PASSWORD), ("ada", "wrong password"), ("nobody", "wrong password")):
        client.post(
            LOGIN, json={"username": name, "password": password}, environ_base={"REMOTE_ADDR": "2001:db8:1:2::3"}
        )
    found = recorded()
    assert names(found) == ["authn_login_success", "authn_login_fail"]  # an unknown account is only logged
    assert [entry.account_id for entry in found] == [ada.id, ada.id]
    assert {entry.network for entry in found} == {"2001:db8:1:2::/64"}


@pytest.mark.asvs("16.2.1")
def test_life_of_an_account_is_recorded(client, recorded, sign_in, as_admin, admin):
    recorded()
    account = {"username": "eve", "email": "eve@example.org", "password": PASSWORD}
    user_id = client.post("/api/v1/auth/register", json=account).json["id"]
    as_eve = sign_in(users.get_by_username("eve"))
    body = {"current_password": PASSWORD, "email": "eve@example.net"}
    client.patch(ME, json=body, headers=as_eve)
    client.patch(ME, json={"current_password": "wrong", "email": "other@example.net"}, headers=as_eve)
    client.patch(ME, json={"current_password": PASSWORD, "password": "another passphrase"}, headers=as_eve)
    made = client.post(
        f"{ME}/api-keys",
        json={"current_password": "another passphrase", "name": "secret plan", "scopes": ["read"]},
        headers=as_eve,
    )
    client.delete(f"{ME}/api-keys/{made.json['id']}", headers=as_eve)
    client.delete(f"{ME}/api-keys/{made.json['id']}", headers=as_eve)  # a second time is no event
    client.patch(f"/api/v1/users/{user_id}", json={"is_active": False}, headers=as_admin)
    found = recorded()
    assert names(found) == [
        "user_created",
        "authn_login_success",
        "user_updated",
        "authn_login_fail",
        "authn_password_change",
        "authn_token_created",
        "authn_token_revoked",
        "user_updated",
        "session_ended",
    ]
    assert {str(entry.account_id) for entry in found} == {user_id}
    assert [str(entry.actor_id) for entry in found] == ["None", "None", *[user_id] * 5, *[str(admin.id)] * 2]
    written = json.dumps([entry.detail for entry in found])
    assert "email" in written
    assert "example.net" not in written
    assert "secret plan" not in written


def test_end_and_reuse_of_a_session_are_recorded(client, ada, recorded):
    tokens = client.post(LOGIN, json={"username": "ada", "password": PASSWORD}).json
    recorded()
    for _ in range(2):
        client.post("/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert names(recorded()) == ["authn_token_reuse"]
    again = client.post(LOGIN, json={"username": "ada", "password": PASSWORD}).json
    recorded()
    client.post("/api/v1/auth/logout", headers={"Authorization": f"Bearer {again['access_token']}"})
    (entry,) = recorded()
    assert (entry.event, entry.account_id, entry.detail.partition(": ")[0]) == ("session_ended", ada.id, "logout")


def test_change_of_a_model_is_recorded(app, model, recorded):
    releases.release(model[0], by="grace")
    found = recorded()
    assert names(found)[-1] == "model_changed"
    assert found[-1].detail == f"{model[1]} released"  # not the name, which the entry would keep after an erasure


def test_end_of_many_sessions_is_one_entry(app, ada, sign_in, recorded):
    for _ in range(12):
        sign_in(ada)
    recorded()
    administration.reset_password("ada", "another passphrase")
    ended = [entry for entry in recorded() if entry.event == "session_ended"]
    assert len(ended) == 1
    assert ended[0].detail.endswith(" and 2 more")


def test_one_time_tokens_are_recorded(client, ada, admin, as_admin, recorded):
    recorded()
    client.post(f"/api/v1/users/{ada.id}/password-reset", json={}, headers=as_admin)
    client.post("/api/v1/users/invitations", json={}, headers=as_admin)
    found = recorded()
    assert [entry.account_id for entry in found] == [ada.id, None]
    assert [entry.detail.partition(": ")[2] for entry in found] == ["password reset", "invitation"]
    assert {entry.actor_id for entry in found} == {admin.id}


@pytest.mark.asvs("2.3.3")
def test_what_fails_is_not_recorded(client, ada, as_ada, make_user, recorded):
    make_user("grace")
    recorded()
    taken = client.patch(ME, json={"current_password": PASSWORD, "username": "grace"}, headers=as_ada)
    assert (taken.status_code, recorded()) == (409, [])


@pytest.mark.asvs("16.2.1")
def test_command_is_recorded_with_its_operator(app, ada, recorded):
    recorded()
    app.test_cli_runner().invoke(args=["user", "promote", "ada"])
    (entry,) = recorded()
    assert (entry.event, entry.account_id) == ("privilege_permissions_changed", ada.id)
    assert entry.operator
    assert entry.actor_id is None


def test_request_after_another_has_its_own_actor(client, as_admin, admin, ada, recorded):
    client.get("/api/v1/users", headers=as_admin)
    recorded()
    client.post(LOGIN, json={"username": "ada", "password": PASSWORD})
    assert [entry.actor_id for entry in recorded()] == [None]


def test_administrators_read_pages_of_the_log(client, ada, as_ada, as_admin):
    client.post(LOGIN, json={"username": "ada", "password": "wrong password"})
    assert client.get(AUDIT, headers=as_ada).status_code == 403
    assert client.get(AUDIT).status_code == 401
    chosen = client.get(f"{AUDIT}?account_id={ada.id}&event=authn_login_fail", headers=as_admin).json
    assert [entry["event"] for entry in chosen["items"]] == ["authn_login_fail"]
    first = client.get(f"{AUDIT}?limit=1", headers=as_admin).json
    second = client.get(f"{AUDIT}?limit=1&cursor={first['next_cursor']}", headers=as_admin).json
    assert first["items"][0]["id"] > second["items"][0]["id"]
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat().replace("+", "%2B")
    assert client.get(f"{AUDIT}?since={later}", headers=as_admin).json["items"] == []
    assert client.get(f"{AUDIT}?event=other", headers=as_admin).status_code == 422


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET detail = 'nothing happened'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
    ],
)
def test_nobody_can_change_an_entry(app, ada, statement):
    with pytest.raises(DBAPIError, match="can only be added to"), db.session.begin_nested():
        db.session.execute(text(statement))
    assert db.session.scalar(select(func.count()).select_from(AuditEvent)) >= 1


def test_entries_of_the_last_ninety_days_are_not_purged(app, ada, make_app):
    young = datetime.now(UTC) - timedelta(days=90) + timedelta(seconds=30)
    add(at=young, detail="marked")
    for before in ("now() + interval '1 day'", "now() - interval '89 days'", "'infinity'"):
        assert db.session.scalar(text(f"SELECT delete_audit_events({before})")) == 0
    assert [entry.at for entry in service.page(1000, None) if entry.detail == "marked"] == [young]


@pytest.mark.asvs("14.2.7")
def test_old_entries_are_purged(app, recorded):
    old, kept = datetime.now(UTC) - timedelta(days=401), datetime.now(UTC) - timedelta(days=399)
    for at in (old, kept):
        add(at=at, detail="marked")
    assert maintenance.purge()["audit"] >= 1
    assert [entry.at for entry in service.page(1000, None) if entry.detail == "marked"] == [kept]


@pytest.mark.asvs("13.2.2", "16.2.1")
def test_role_of_the_service_may_only_add_and_read(app):
    """On a host, another role owns the tables. Here the migration runs again, as that role."""
    with db.session.begin_nested() as nested:
        db.session.execute(text("CREATE ROLE sentiment"))
        db.session.execute(text("GRANT SELECT, INSERT, UPDATE, DELETE ON audit_events TO sentiment"))
        block = runpy.run_path(str(ROOT / "migrations/versions/0014_audit_events.py"))["PROTECT"]
        db.session.execute(text(block[block.index("DO $$") :]))
        rights = db.session.scalars(
            text(
                "SELECT privilege_type FROM information_schema.role_table_grants "
                "WHERE grantee = 'sentiment' AND table_name = 'audit_events' ORDER BY 1"
            )
        ).all()
        columns = db.session.scalars(
            text(
                "SELECT column_name::text FROM information_schema.role_column_grants WHERE grantee = 'sentiment' "
                "AND table_name = 'audit_events' AND privilege_type = 'INSERT' ORDER BY 1"
            )
        ).all()
        nested.rollback()
    assert rights == ["SELECT"]
    assert columns == ["account_id", "actor_id", "detail", "event", "id", "network", "operator"]  # and not the time


def test_command_lists_the_log(app, ada):
    runner = app.test_cli_runner()
    shown = runner.invoke(args=["audit", "list", "--account", str(ada.id), "--json"])
    assert json.loads(shown.stdout)[0]["event"] == "user_created"
    table = runner.invoke(args=["audit", "list", "--event", "user_created"])
    assert "user_created" in table.stdout
    assert runner.invoke(args=["audit", "list", "--event", "nonsense"]).exit_code == 2
    administration.administer(ada.id, {"is_superuser": True})
    assert "privilege_permissions_changed" in runner.invoke(args=["audit", "list"]).output  # at 80 columns


@pytest.mark.asvs("16.2.4")
def test_events_are_logged_without_texts(app, client, ada, capfd):
    logs.configure("INFO")
    for name in ("ada", "a password in the wrong field"):
        client.post(LOGIN, json={"username": name, "password": "wrong password"})
    logged = capfd.readouterr().err
    known, unknown = [json.loads(line) for line in logged.splitlines() if "authn_login_fail" in line]
    assert known["account_id"] == str(ada.id)
    assert (unknown["detail"], unknown["network"]) == ("unknown account", "127.0.0.1")
    assert "wrong" not in logged
    logs.configure("WARNING")
