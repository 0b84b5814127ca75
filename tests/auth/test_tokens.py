"""Tokens: what is refused, and the keys that sign them."""

import base64
import hashlib
import hmac
import json
from uuid import uuid4

import jwt
import pytest
from harness import PASSWORD
from sqlalchemy import delete, text, update
from sqlalchemy.exc import OperationalError

from sentiment_app.auth import token_keys
from sentiment_app.auth.models import TokenKey
from sentiment_app.auth.token_keys import TOKEN_KEYS
from sentiment_app.errors import UnavailableError
from sentiment_app.infrastructure.database import db

LOGIN, REFRESH, PROTECTED = "/api/v1/auth/login", "/api/v1/auth/refresh", "/api/v1/protected/test"


@pytest.fixture
def tokens(client, ada):
    return client.post(LOGIN, json={"username": "ada", "password": PASSWORD}).json


@pytest.fixture
def key(app):
    """The key that signs tokens."""
    return TOKEN_KEYS.get().signing_key()


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def claims_of(token):
    return jwt.decode(token, options={"verify_signature": False})


def encode(value):
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def sign(key, claims, algorithm="sha256", **header):
    """A token with these claims, except claims that are None. PyJWT refuses to encode some of them."""
    given = {name: value for name, value in claims.items() if value is not None}
    signed = f"{encode({'alg': 'HS256', 'typ': 'JWT', 'kid': key.id, **header})}.{encode(given)}"
    return f"{signed}.{encode(hmac.digest(key.key, signed.encode(), algorithm))}"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Token x"])
def test_missing_token_is_answered_with_challenge(client, header):
    answer = client.get(PROTECTED, headers={"Authorization": header} if header is not None else {})
    assert (answer.status_code, answer.mimetype) == (401, "application/problem+json")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="sentiment"'


@pytest.mark.asvs("9.2.3")
@pytest.mark.parametrize("change", [{"iss": "urn:other"}, {"aud": "urn:other"}, {"iss": None}, {"aud": None}])
def test_token_of_another_service_with_the_same_key_is_refused(client, key, tokens, change):
    claims = claims_of(tokens["access_token"]) | change
    assert client.get(PROTECTED, headers=bearer(sign(key, claims))).status_code == 401


def forgeries(key, tokens, secret):
    """Tokens that somebody without the key could make, by what is wrong with them."""
    access = tokens["access_token"]
    header, payload, signature = access.split(".")
    claims = claims_of(access)
    other = key._replace(key=b"some other key that is long enough to use")
    yield from {
        "rubbish": "rubbish",
        "two parts": "a.b",
        "empty parts": "..",
        "three parts": "a.b.c",
        "four parts": f"{access}.x",
        "five parts, as an encrypted token": f"{access}.x.y",
        "a refresh token": tokens["refresh_token"],
        "no signature": f"{header}.{payload}.",
        "no signature and no dot": f"{header}.{payload}",
        "a shorter signature": access[:-4],
        "a longer signature": access + "AAAA",
        "another end of the signature": access[:-3] + "abc",
        "the signature of the refresh token": f"{header}.{payload}." + tokens["refresh_token"].split(".")[2],
        "the payload of the refresh token": f"{header}." + tokens["refresh_token"].split(".")[1] + f".{signature}",
        "another user": f"{header}.{encode({**claims, 'sub': str(uuid4())})}.{signature}",
        "a later expiry": f"{header}.{encode({**claims, 'exp': claims['exp'] + 60})}.{signature}",
        "another order of the parts": f"{payload}.{header}.{signature}",
        "no header": f".{payload}.{signature}",
        "no payload": f"{header}..{signature}",
        "a null byte": f"{header}\0.{payload}.{signature}",
        "a letter that is not ASCII": f"{header}.{payload}.{signature}é",
        "another key": sign(other, claims),
        "an empty key": sign(key._replace(key=b""), claims),
        "the key's id as the key": sign(key._replace(key=key.id.encode()), claims),
        "the secret itself as the key": sign(key._replace(key=secret.encode()), claims),
        "the name of the secret as the key": sign(key._replace(key=b"JWT_SECRET_KEY"), claims),
        "a plain hash instead of a signature": f"{header}.{payload}."
        + encode(hashlib.sha256(f"{header}.{payload}".encode()).digest()),
        "no key's id": sign(other, claims, kid=None),
        "the key's id is empty": sign(other, claims, kid=""),
        "the key's id is a number": sign(other, claims, kid=7),
        "the key's id is a list": sign(other, claims, kid=[key.id]),
        "the key's id is an object": sign(other, claims, kid={}),
        "an unknown key's id": sign(other, claims, kid=str(uuid4())),
        "the key's id is a path": sign(key._replace(key=b""), claims, kid="../../../dev/null"),
        "the key's id is SQL": sign(other, claims, kid="' UNION SELECT 'x' --"),
        "the key's id has another case": sign(other, claims, kid=key.id.upper()),
        "the key in the header": sign(other, claims, jwk={"kty": "oct", "k": encode(other.key)}),
        "an address of keys": sign(other, claims, jku="https://attacker.example/keys", x5u="https://attacker.example"),
        "another algorithm": sign(key, claims, "sha512", alg="HS512"),
        "another algorithm of the same length": sign(key, claims, alg="ES256"),
        "an unknown algorithm": sign(key, claims, alg="HS1"),
        "the algorithm is a list": sign(key, claims, alg=["HS256"]),
        "no algorithm": sign(key, claims, alg=None),
        "an unknown critical extension": sign(key, claims, crit=["exp"], exp=1),
        **{
            f"algorithm {name}": f"{encode({'alg': name, 'kid': key.id})}.{payload}."
            for name in ("none", "None", "NONE", "nOnE")
        },
    }.items()


@pytest.mark.asvs("1.2.4", "7.2.1", "9.1.1", "9.1.2", "9.1.3", "9.2.2")
def test_forged_tokens_are_refused(client, app, key, tokens, settings):
    forged = dict(forgeries(key, tokens, settings.jwt_secret_key))
    assert len(forged) >= 40
    accepted = {
        name: answer.status_code
        for name, token in forged.items()
        if (answer := client.get(PROTECTED, headers=bearer(token.encode().decode("latin-1")))).status_code != 401
    }
    assert accepted == {}


@pytest.mark.asvs("7.2.1", "9.1.3")
def test_forged_tokens_cannot_refresh(client, key, tokens, settings):
    refresh = {**tokens, "access_token": tokens["refresh_token"], "refresh_token": tokens["access_token"]}
    for name, token in forgeries(key, refresh, settings.jwt_secret_key):
        answer = client.post(REFRESH, json={"refresh_token": token})
        assert answer.status_code in (401, 422), name
    assert client.post(REFRESH, json={"refresh_token": tokens["refresh_token"]}).status_code == 200


def test_refused_token_is_answered_with_challenge(client):
    answer = client.get(PROTECTED, headers=bearer("rubbish"))
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


@pytest.mark.asvs("9.2.1")
@pytest.mark.parametrize(("seconds", "status"), [(20, 200), (-20, 200), (60, 401), (-60, 401)])
def test_clocks_of_hosts_may_differ_by_thirty_seconds(client, key, tokens, seconds, status):
    """The token was signed by a host whose clock is ahead, or expired for a host whose clock is behind."""
    claims = claims_of(tokens["access_token"])
    shifted = {**claims, "iat": claims["iat"] + seconds, "nbf": claims["nbf"] + seconds}
    if seconds < 0:
        shifted["exp"] = claims["iat"] + seconds
    token = sign(key, shifted)
    assert client.get(PROTECTED, headers=bearer(token)).status_code == status


FORGED = {
    "no type": {"type": None},
    "unknown type": {"type": "id"},
    "type of a refresh token": {"type": "refresh"},
    "type is a number": {"type": 7},
    "no user": {"sub": None},
    "user is empty": {"sub": ""},
    "user is not an id": {"sub": "ada"},
    "user is a number": {"sub": 7},
    "user is a list": {"sub": ["ada"]},
    "no session": {"sid": None},
    "session is empty": {"sid": ""},
    "session is not an id": {"sid": "1"},
    "session is a number": {"sid": 1},
    "session is a list": {"sid": [1]},
    "session is an object": {"sid": {}},
    "session does not exist but is almost an id": {"sid": "01a20810-6c0c-7378-b5fe-cfc50592fba"},
    "no expiry": {"exp": None},
    "expired": {"exp": 1},
    "expiry is text": {"exp": "later"},
    "expiry is a list": {"exp": [1]},
    "not valid before tomorrow": {"nbf": 4_102_444_800},
    "valid from is text": {"nbf": "now"},
    "issued in the future": {"iat": 4_102_444_800},
    "issued is text": {"iat": "now"},
    "id is a list": {"jti": [1]},
}


@pytest.mark.asvs("9.1.1")
def test_token_signed_by_hand_is_accepted(client, key, tokens):
    claims = claims_of(tokens["access_token"])
    assert client.get(PROTECTED, headers=bearer(sign(key, claims))).status_code == 200


@pytest.mark.asvs("7.4.1", "9.2.1", "9.2.2", "15.3.5")
@pytest.mark.parametrize("changes", FORGED.values(), ids=FORGED)
def test_signed_tokens_with_wrong_claims_are_refused(client, key, tokens, changes):
    claims = claims_of(tokens["access_token"])
    answer = client.get(PROTECTED, headers=bearer(sign(key, claims | changes)))
    assert (answer.status_code, answer.json["type"]) == (401, "urn:sentiment-app:problem:invalid-token")


@pytest.mark.parametrize("name", ["sid", "jti"])
@pytest.mark.parametrize("value", [None, "", "x", 7, ["x"], {}])
def test_signed_refresh_tokens_with_wrong_claims_are_refused(client, key, tokens, name, value):
    claims = claims_of(tokens["refresh_token"])
    answer = client.post(REFRESH, json={"refresh_token": sign(key, claims | {name: value})})
    assert (answer.status_code, answer.json["type"]) == (401, "urn:sentiment-app:problem:invalid-token")


@pytest.fixture
def flask(own):
    runner = own().test_cli_runner()
    return lambda *arguments: runner.invoke(args=list(arguments))


# The keys. Each test has an application of its own, because the keys of the common application stay after a rollback.


@pytest.fixture
def own(make_app):
    """An application of its own, as one of several processes."""

    def own():
        return make_app(release=str(uuid4()))

    return own


def sign_in(app):
    return app.test_client().post(LOGIN, json={"username": "ada", "password": PASSWORD}).json


def kid(tokens):
    return jwt.get_unverified_header(tokens["access_token"])["kid"]


def status(app, tokens):
    return app.test_client().get(PROTECTED, headers=bearer(tokens["access_token"])).status_code


def age(seconds):
    """Make all keys older, so that a new key has settled."""
    db.session.execute(update(TokenKey).values(created_at=TokenKey.created_at - text(f"interval '{seconds} seconds'")))
    db.session.commit()


def let_refresh(app):
    """Let a process read the keys again, as after some seconds."""
    TOKEN_KEYS.get(app)._ring._read_at = -float("inf")


def test_token_names_its_key_and_does_not_contain_it(tokens, key, settings):
    assert kid(tokens) == key.id
    assert len(key.key) == 32
    assert settings.jwt_secret_key.encode() != key.key


def test_rotation_signs_nobody_out(own, ada):
    here, there = own(), own()
    with here.app_context():
        before = sign_in(here)
        new = str(token_keys.rotate(force=True))
        let_refresh(here)
        assert kid(sign_in(here)) == kid(before)  # other processes may not know the new key yet
        age(token_keys.SETTLE_SECONDS)
        let_refresh(here)
        after = sign_in(here)
        assert (kid(before), kid(after)) != (new, new)
        assert kid(after) == new
        assert [status(here, tokens) for tokens in (before, after)] == [200, 200]
    with there.app_context():
        assert [status(there, tokens) for tokens in (before, after)] == [200, 200]
        renewed = there.test_client().post(REFRESH, json={"refresh_token": before["refresh_token"]})
        assert renewed.status_code == 200


def test_process_that_does_not_know_a_key_reads_the_keys_at_once(own, ada):
    here, there = own(), own()
    with there.app_context():
        sign_in(there)
    with here.app_context():
        token_keys.rotate(force=True)
        age(token_keys.SETTLE_SECONDS)
        after = sign_in(here)
    with there.app_context():
        TOKEN_KEYS.get()._ring._read_at -= token_keys.MIN_REFRESH_SECONDS
        assert status(there, after) == 200


def test_unknown_keys_do_not_cost_a_query_each(own, ada, key, tokens, statements):
    app = own()
    with app.app_context():
        TOKEN_KEYS.get().refresh()
        with statements() as seen:
            for _ in range(20):
                forged = sign(key, claims_of(tokens["access_token"]), kid=str(uuid4()))
                assert status(app, {"access_token": forged}) == 401
        assert len([statement for statement in seen if "token_keys" in statement]) <= 1


def test_second_rotation_is_refused_while_the_previous_key_is_in_use(own, ada):
    with own().app_context():
        token_keys.rotate()
        with pytest.raises(token_keys.RecentRotationError, match="in 15 seconds"):
            token_keys.rotate(force=True)
        age(token_keys.TAKES_OVER_SECONDS)
        with pytest.raises(token_keys.RecentRotationError, match="Wait until 2"):
            token_keys.rotate()
        age(31 * 86_400)
        token_keys.rotate()
        assert len(token_keys.list_keys()) == 2


def test_key_from_the_future_is_not_replaced(own, ada):
    """After a failover to a host whose clock is behind, a new key would not be the newest key."""
    with own().app_context():
        age(-60)
        with pytest.raises(token_keys.RecentRotationError, match="went back"):
            token_keys.rotate(force=True)
        token_keys.rotate(revoke_old=True)
        assert len(token_keys.list_keys()) == 1


def test_refresh_token_stays_valid_if_the_signing_key_cannot_be_read(own, ada, monkeypatch):
    app = own()
    with app.app_context():
        tokens = sign_in(app)
        with monkeypatch.context() as patch:

            def fail(*_):
                raise UnavailableError

            patch.setattr(token_keys.TokenKeys, "signing_key", fail)
            refused = app.test_client().post(REFRESH, json={"refresh_token": tokens["refresh_token"]})
            assert refused.status_code == 503
        assert app.test_client().post(REFRESH, json={"refresh_token": tokens["refresh_token"]}).status_code == 200


@pytest.mark.asvs("7.4.5")
def test_revoked_key_ends_remembered_tokens(own, ada):
    app = own()
    with app.app_context():
        before = sign_in(app)
        assert status(app, before) == 200
        token_keys.rotate(revoke_old=True)
        let_refresh(app)
        assert status(app, before) == 401
        assert app.test_client().post(REFRESH, json={"refresh_token": before["refresh_token"]}).status_code == 401
        assert status(app, sign_in(app)) == 200


def test_forced_rotation_keeps_the_key_that_signs(own, ada):
    app = own()
    with app.app_context():
        token_keys.rotate()
        age(token_keys.TAKES_OVER_SECONDS)
        let_refresh(app)
        tokens = sign_in(app)
        token_keys.rotate(force=True)
        let_refresh(app)
        assert status(app, tokens) == 200
        assert status(app, sign_in(app)) == 200


def test_sign_in_after_a_revocation_gets_the_new_key(own, ada):
    app = own()
    with app.app_context():
        sign_in(app)
        token_keys.rotate(revoke_old=True)
        TOKEN_KEYS.get()._ring._read_at -= token_keys.MIN_REFRESH_SECONDS
        tokens = sign_in(app)
        let_refresh(app)
        assert status(app, tokens) == 200


@pytest.mark.asvs("14.2.1")
def test_token_elsewhere_than_in_its_header_is_ignored(client, tokens):
    token = tokens["access_token"]
    client.set_cookie("access_token", token)
    client.set_cookie("access_token_cookie", token)
    for query in ("access_token", "jwt", "token", "api_key"):
        assert client.get(f"{PROTECTED}?{query}={token}", data={query: token}).status_code == 401
    assert client.get(PROTECTED, headers={"X-Api-Key": token, "Authorization": f"Token {token}"}).status_code == 401


def test_keys_stay_while_the_database_does_not_answer(own, ada, monkeypatch):
    app = own()
    with app.app_context():
        tokens = sign_in(app)

        def fail():
            raise OperationalError("", {}, Exception())

        monkeypatch.setattr(token_keys, "list_keys", fail)
        let_refresh(app)
        assert status(app, tokens) == 200


def test_sign_in_without_any_key_is_answered_with_503(own, ada):
    app = own()
    with app.app_context():
        db.session.execute(delete(TokenKey))
        db.session.commit()
        answer = app.test_client().post(LOGIN, json={"username": "ada", "password": PASSWORD})
        assert (answer.status_code, "sentiment auth rotate-key" in answer.json["detail"]) == (503, True)
        token_keys.rotate()
        TOKEN_KEYS.get()._ring._read_at = -float("inf")
        assert status(app, sign_in(app)) == 200


def test_repeated_rotation_after_a_lost_answer_changes_nothing(own, ada):
    with own().app_context():
        id_ = token_keys.rotate()
        token_keys._rotate(id_, b"x" * 32, False, False)
        first, second = token_keys.list_keys()
        assert (first.id, first.salt) != (second.id, b"x" * 32)


def test_rotation_is_in_the_audit_log(own, flask):
    done = flask("auth", "rotate-key", "--revoke-old", "--json")
    id_ = json.loads(done.output)["id"]
    assert id_ in flask("audit", "list", "--event", "signing_key_rotated", "--json").output
    assert id_ in flask("auth", "list-keys").output


def test_command_says_how_to_rotate_again(app, flask):
    assert "signs all new tokens" in flask("auth", "rotate-key").output
    age(token_keys.TAKES_OVER_SECONDS)
    refused = flask("auth", "rotate-key")
    assert (refused.exit_code, "--force" in refused.output) == (1, True)
    assert flask("auth", "rotate-key", "--force").exit_code == 0
