"""API keys: created, used, limited, rotated and revoked."""

import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import redis
from harness import PASSWORD
from sqlalchemy import func, select, text, update

from sentiment_app import maintenance
from sentiment_app.auth.tokens import VERIFIED
from sentiment_app.config import KEY_CACHE_LIFE
from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import REDIS
from sentiment_app.users import administration, api_keys
from sentiment_app.users.models import ApiKey

KEYS = "/api/v1/users/me/api-keys"
ME = "/api/v1/users/me"
ANALYZE = "/api/v1/sentiment/analyze"


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def create(client, as_ada):
    def create(*scopes, headers=as_ada, **fields):
        body = {"current_password": PASSWORD, "name": "import", "scopes": list(scopes) or ["read"], **fields}
        return client.post(KEYS, json=body, headers=headers)

    return create


@pytest.fixture
def forget(app):
    """Makes the process forget the keys that it has verified."""
    return VERIFIED.get(app)._tokens.clear


@pytest.mark.asvs("15.3.1")
def test_key_is_shown_once_and_works(client, create, as_ada, ada, model):
    made = create("read", "score")
    assert made.status_code == 201, made.text
    key = made.json["key"]
    assert re.fullmatch(r"snt_live_[0-9A-Za-z]{38}", key)
    assert made.json["hint"] == key[:13]
    assert client.get(ME, headers=bearer(key)).json["id"] == str(ada.id)
    assert client.post(ANALYZE, json={"text": "fine"}, headers=bearer(key)).status_code == 200
    (listed,) = client.get(KEYS, headers=as_ada).json["items"]
    assert listed.items() >= {"name": "import", "scopes": ["read", "score"], "revoked_at": None}.items()
    assert "key" not in listed
    life = datetime.fromisoformat(listed["expires_at"]) - datetime.fromisoformat(listed["created_at"])
    assert timedelta(364) < life < timedelta(366)
    assert listed["last_used_at"] is not None


def test_database_has_only_a_keyed_hash(create):
    key = create().json["key"]
    row = db.session.execute(text("SELECT * FROM api_keys")).one()
    stored = bytes(row.key_hash)
    assert stored != hashlib.sha256(key.encode()).digest()
    assert key.encode() not in stored
    assert key not in str(row)


def test_key_costs_no_query_and_one_round_trip_when_it_is_known(client, create, app, monkeypatch):
    key = create().json["key"]
    headers = bearer(key)
    client.get("/api/v1/sentiment/history", headers=headers)
    monkeypatch.setattr(api_keys, "authenticate", None)
    assert client.get("/api/v1/sentiment/history", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1] + ("a" if key[-1] != "a" else "b"),
        lambda key: key[:12] + ("a" if key[12] != "a" else "b") + key[13:],
        lambda key: key + "a",
        lambda key: key[:-1],
        lambda key: "snt_live_",
        lambda key: "snt_live_" + "é" * 38,
        lambda key: key.swapcase(),
        lambda key: api_keys._generate(),
    ],
)
def test_forged_keys_are_refused(client, create, change):
    forged = change(create().json["key"]).encode().decode("latin-1")
    answer = client.get(ME, headers=bearer(forged))
    assert (answer.status_code, answer.json["type"]) == (401, "urn:sentiment-app:problem:invalid-token")


def test_malformed_keys_are_refused_without_a_query(client, create, monkeypatch):
    key = create().json["key"]
    monkeypatch.setattr(api_keys, "authenticate", None)
    assert client.get(ME, headers=bearer(key[:-1] + ("a" if key[-1] != "a" else "b"))).status_code == 401


def test_unknown_keys_are_limited_by_network(make_app, create):
    client = make_app(key_rate_limit="3 per minute").test_client()
    statuses = [client.get(ME, headers=bearer(api_keys._generate())).status_code for _ in range(5)]
    assert statuses == [401, 401, 401, 429, 429]


@pytest.mark.asvs("8.3.2")
def test_revoked_key_is_refused_at_the_next_request(client, create, as_ada):
    made = create().json
    assert client.get(ME, headers=bearer(made["key"])).status_code == 200
    for _ in range(2):
        assert client.delete(f"{KEYS}/{made['id']}", headers=as_ada).status_code == 204
    assert client.get(ME, headers=bearer(made["key"])).status_code == 401
    assert client.get(KEYS, headers=as_ada).json["items"][0]["revoked_at"] is not None


def test_revoked_key_is_refused_after_redis_was_wiped(client, create, as_ada, app):
    made = create().json
    client.get(ME, headers=bearer(made["key"]))
    client.delete(f"{KEYS}/{made['id']}", headers=as_ada)
    REDIS.get(app).flushdb()
    assert client.get(ME, headers=bearer(made["key"])).status_code == 401


@pytest.mark.asvs("16.5.3")
def test_key_is_refused_and_accepted_without_redis(client, create, ada, app, monkeypatch):
    revoked, valid = create().json, create().json
    for made in (revoked, valid):
        assert client.get(ME, headers=bearer(made["key"])).status_code == 200
    api_keys._revoke(ada.id, revoked["id"])  # without telling Redis

    def fail(*_):
        raise redis.ConnectionError

    monkeypatch.setattr("sentiment_app.web.admission.Admission._ask_redis", fail)
    assert client.get(ME, headers=bearer(revoked["key"])).status_code == 401
    assert client.get(ME, headers=bearer(valid["key"])).status_code == 200


def test_expired_key_is_refused(client, create, forget):
    made = create(expires_in_days=1).json
    db.session.execute(update(ApiKey).values(expires_at=func.now() - timedelta(seconds=1)))
    assert client.get(ME, headers=bearer(made["key"])).status_code == 401


def test_process_remembers_a_key_until_it_expires_and_at_most_a_minute(client, create, app):
    key = create(expires_in_days=None).json["key"]
    assert client.get(ME, headers=bearer(key)).status_code == 200
    remembered = VERIFIED.get(app)._tokens
    _, expires_at = remembered[key]
    assert remembered.timer() < expires_at <= remembered.timer() + KEY_CACHE_LIFE.total_seconds()


def test_key_of_inactive_account_is_refused_at_once(client, create, ada, admin, forget):
    key = create().json["key"]
    assert client.get(ME, headers=bearer(key)).status_code == 200
    administration.administer(ada.id, {"is_active": False}, by=admin.id)
    assert client.get(ME, headers=bearer(key)).status_code == 401
    forget()
    assert client.get(ME, headers=bearer(key)).status_code == 401


@pytest.mark.asvs("8.2.1")
def test_key_is_limited_to_its_scopes(client, create, as_ada):
    key = create("score").json["key"]
    answer = client.get(ME, headers=bearer(key))
    assert (answer.status_code, answer.json["type"]) == (403, "urn:sentiment-app:problem:insufficient-scope")
    assert answer.json["detail"] == "This operation needs the scope read. The API key has: score."
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="sentiment", error="insufficient_scope", scope="read"'


@pytest.mark.asvs("7.2.2")
@pytest.mark.parametrize("method", ["get", "post"])
def test_keys_cannot_manage_keys(client, create, method):
    key = create("score", "tasks", "read").json["key"]
    answer = getattr(client, method)(KEYS, headers=bearer(key), json={} if method == "post" else None)
    assert answer.status_code == 403
    assert "access token of a person" in answer.json["detail"]


def test_creating_a_key_requires_the_password(client, create, as_ada):
    assert create(current_password="not her password").status_code == 403
    answer = client.post(KEYS, json={"name": "x", "scopes": ["read"]}, headers=as_ada)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/current_password")


@pytest.mark.asvs("2.2.1")
@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["everything"]}, "/scopes/0"),
        ({"scopes": ["admin"]}, "/scopes"),
        ({"name": ""}, "/name"),
        ({"networks": ["10.0.0.1/8"]}, "/networks/0"),
        ({"networks": ["10.0.0.0/8"] * 21}, "/networks"),
        ({"rate": "often"}, "/rate"),
        ({"rate": "0 per minute"}, "/rate"),
        ({"rate": "1000 per 999999999 years"}, "/rate"),
        ({"rate": "99999999999999999999 per second"}, "/rate"),
        ({"networks": ["::ffff:127.0.0.0/104"]}, "/networks/0"),
        ({"expires_in_days": 0}, "/expires_in_days"),
        ({"expires_in_days": 1.5}, "/expires_in_days"),
    ],
)
def test_invalid_grants_are_refused(create, fields, pointer):
    answer = create(**({"scopes": ["read"]} | fields)) if "scopes" not in fields else create(**fields)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, pointer)


@pytest.mark.asvs("8.3.2")
def test_administrators_scopes_need_an_administrator_at_each_request(
    client, create, as_admin, admin, make_user, forget
):
    administration.administer(make_user("other").id, {"is_superuser": True})
    key = create("admin", headers=as_admin).json["key"]
    assert client.get("/api/v1/users", headers=bearer(key)).status_code == 200
    administration.administer(admin.id, {"is_superuser": False})
    assert client.get("/api/v1/users", headers=bearer(key)).status_code == 403


def test_key_is_limited_to_its_networks(client, create):
    home, away = (create(networks=[network]).json["key"] for network in ("127.0.0.0/8", "192.0.2.0/24"))
    assert client.get(ME, headers=bearer(home)).status_code == 200
    answer = client.get(ME, headers=bearer(away))
    assert (answer.status_code, "127.0.0.1" in answer.json["detail"]) == (403, True)
    mapped = client.get(ME, headers=bearer(home), environ_overrides={"REMOTE_ADDR": "::ffff:127.0.0.1"})
    assert mapped.status_code == 200


@pytest.mark.asvs("2.4.1")
def test_key_has_its_own_rate(client, create, as_ada):
    key, other = create(rate="2 per minute").json["key"], create().json["key"]
    answers = [client.get(ME, headers=bearer(key)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].headers["RateLimit-Policy"] == '"api-key";q=2;w=60'
    assert client.get(ME, headers=bearer(other)).status_code == 200


def test_keys_count_with_their_user(make_app, create):
    keys = [create().json["key"] for _ in range(2)]
    client = make_app(user_rate_limit="3 per minute").test_client()
    REDIS.get(client.application).flushdb()
    assert [client.get(ME, headers=bearer(key)).status_code for key in keys * 2] == [200, 200, 200, 429]


def test_rotation_keeps_the_old_key_for_a_while(client, create, as_ada):
    old = create("read", networks=["127.0.0.0/8"], rate="100 per minute").json
    body = {"current_password": PASSWORD, "overlap_seconds": 3600}
    new = client.post(f"{KEYS}/{old['id']}/rotate", json=body, headers=as_ada)
    assert new.status_code == 201
    same = ("name", "scopes", "networks", "rate")
    assert [new.json[name] for name in same] == [old[name] for name in same]
    for key in (old["key"], new.json["key"]):
        assert client.get(ME, headers=bearer(key)).status_code == 200
    shown = {key["id"]: key for key in client.get(KEYS, headers=as_ada).json["items"]}
    left = datetime.fromisoformat(shown[old["id"]]["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=55) < left < timedelta(minutes=61)


def test_rotation_without_overlap_revokes_the_old_key(client, create, as_ada):
    old = create().json
    assert client.get(ME, headers=bearer(old["key"])).status_code == 200
    body = {"current_password": PASSWORD, "overlap_seconds": 0}
    new = client.post(f"{KEYS}/{old['id']}/rotate", json=body, headers=as_ada).json
    assert client.get(ME, headers=bearer(old["key"])).status_code == 401
    assert client.get(ME, headers=bearer(new["key"])).status_code == 200
    assert client.post(f"{KEYS}/{old['id']}/rotate", json=body, headers=as_ada).status_code == 404


@pytest.mark.asvs("8.2.2")
def test_other_users_keys_cannot_be_touched(client, create, as_admin):
    made = create().json
    body = {"current_password": PASSWORD}
    assert client.delete(f"{KEYS}/{made['id']}", headers=as_admin).status_code == 404
    assert client.post(f"{KEYS}/{made['id']}/rotate", json=body, headers=as_admin).status_code == 404
    assert client.get(KEYS, headers=as_admin).json["items"] == []
    assert client.get(ME, headers=bearer(made["key"])).status_code == 200


@pytest.mark.asvs("2.3.2")
def test_number_of_keys_is_limited(create, client, as_ada, monkeypatch):
    monkeypatch.setattr(api_keys, "MAX_KEYS", 2)
    first, _ = create(), create()
    answer = create()
    assert (answer.status_code, answer.json["type"]) == (409, "urn:sentiment-app:problem:too-many-api-keys")
    client.delete(f"{KEYS}/{first.json['id']}", headers=as_ada)
    assert create().status_code == 201


def test_keys_that_ended_long_ago_are_deleted(create):
    for _ in range(3):
        create()
    ids = db.session.scalars(select(ApiKey.id).order_by(ApiKey.id)).all()
    long_ago = func.now() - api_keys.KEPT_AFTER_END - timedelta(days=1)
    db.session.execute(update(ApiKey).where(ApiKey.id == ids[0]).values(revoked_at=long_ago))
    db.session.execute(update(ApiKey).where(ApiKey.id == ids[1]).values(expires_at=long_ago))
    assert maintenance.purge()["api_keys"] == 2
    assert db.session.scalars(select(ApiKey.id)).all() == [ids[2]]


def test_operators_manage_keys(app, client, ada):
    run = app.test_cli_runner().invoke
    made = run(args=["user", "create-key", "ada", "--name", "ci", "--scope", "read", "--expires-in-days", "0"])
    assert made.exit_code == 0, made.output
    key = made.output.strip()
    assert client.get(ME, headers=bearer(key)).status_code == 200
    shown = run(args=["user", "keys", "ada", "--json"]).output
    (key_id,) = re.findall(r'"id": "([^"]+)"', shown)
    assert '"expires_at": null' in shown
    assert run(args=["user", "revoke-key", key_id]).output == f"Revoked {key_id}.\n"
    assert client.get(ME, headers=bearer(key)).status_code == 401
    refused = run(args=["user", "create-key", "ada", "--name", "ci", "--scope", "admin"])
    assert (refused.exit_code, "Only administrators" in refused.output) == (1, True)


def test_key_that_may_not_be_used_leaves_the_rate_of_its_user(make_app, create, as_ada):
    away, slow = create(networks=["192.0.2.0/24"]).json["key"], create(rate="1 per minute").json["key"]
    client = make_app(user_rate_limit="4 per minute").test_client()
    REDIS.get(client.application).flushdb()
    assert [client.get(ME, headers=bearer(away)).status_code for _ in range(5)] == [403] * 5
    assert [client.get(ME, headers=bearer(slow)).status_code for _ in range(5)] == [200, *[429] * 4]
    assert client.get(ME, headers=as_ada).status_code == 200


@pytest.mark.parametrize("address", ["10.0.0.1:5555", "[2001:db8::1]:99", "unknown", "garbage"])
def test_key_with_networks_is_refused_from_what_is_no_address(make_app, create, address):
    key = create(networks=["10.0.0.0/8"]).json["key"]
    client = make_app(trusted_proxies=1).test_client()
    assert client.get(ME, headers={**bearer(key), "X-Forwarded-For": address}).status_code == 403


def test_revoked_key_stays_refused_with_short_access_tokens(settings):
    assert replace(settings, access_token_seconds=1).ended_session_life > KEY_CACHE_LIFE


def test_password_reset_can_revoke_keys(client, create, ada):
    kept, other = create().json["key"], create().json["key"]
    for key in (kept, other):
        assert client.get(ME, headers=bearer(key)).status_code == 200
    administration.reset_password("ada", "another good one")
    assert client.get(ME, headers=bearer(kept)).status_code == 200
    administration.reset_password("ada", "yet another good one", revoke_keys=True)
    assert [client.get(ME, headers=bearer(key)).status_code for key in (kept, other)] == [401, 401]


def test_list_has_valid_keys_first_and_a_limit(client, create, as_ada, monkeypatch):
    monkeypatch.setattr(api_keys, "MAX_LISTED", 2)
    made = [create().json["id"] for _ in range(3)]
    for key_id in made[1:]:
        client.delete(f"{KEYS}/{key_id}", headers=as_ada)
    assert [key["id"] for key in client.get(KEYS, headers=as_ada).json["items"]] == [made[0], made[2]]
