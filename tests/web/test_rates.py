"""Rate limits: counted in Redis, shown in headers, and counted in memory while Redis is unavailable."""

import time
from types import SimpleNamespace

import pytest
from harness import PASSWORD
from prometheus_client import REGISTRY

from sentiment_app.auth import service
from sentiment_app.infrastructure.queue import REDIS, REDIS_BREAKER
from sentiment_app.users import passwords
from sentiment_app.web import admission

PROTECTED, LOGIN = "/api/v1/protected/test", "/api/v1/auth/login"
ANALYZE = "/api/v1/sentiment/analyze"


def test_headers_show_remaining_requests(make_app, as_ada):
    client = make_app(scoring_rate_limit="3 per hour").test_client()
    left = []
    for _ in range(3):
        answer = client.post(ANALYZE, json={"text": "x"}, headers=as_ada)
        assert answer.headers["RateLimit-Policy"] == '"scoring";q=3;w=3600'
        left.append(answer.headers["RateLimit"].partition(";t=")[0])
    assert left == ['"scoring";r=2', '"scoring";r=1', '"scoring";r=0']


@pytest.mark.asvs("2.4.1")
def test_exceeded_rate_answers_429_with_retry_after(make_app, as_ada):
    client = make_app(user_rate_limit="1 per hour").test_client()
    assert client.get(PROTECTED, headers=as_ada).status_code == 200
    answer = client.get(PROTECTED, headers=as_ada)
    assert (answer.status_code, answer.mimetype) == (429, "application/problem+json")
    assert 1 <= int(answer.headers["Retry-After"]) <= 2 * 3600  # the current window also counts in the next window


def test_request_after_retry_after_is_admitted(make_app, as_ada, monkeypatch):
    client = make_app(user_rate_limit="4 per minute").test_client()
    now = time.time()
    monkeypatch.setattr(admission, "time", SimpleNamespace(time=lambda: now, monotonic=time.monotonic))
    for _ in range(3):  # full windows, and the windows that follow them
        while (answer := client.get(PROTECTED, headers=as_ada)).status_code == 200:
            pass
        now += int(answer.headers["Retry-After"])
        assert client.get(PROTECTED, headers=as_ada).status_code == 200


def test_rates_are_counted_by_user(make_app, as_ada, make_user, sign_in):
    as_bob = sign_in(make_user("bob"))
    client = make_app(user_rate_limit="1 per hour").test_client()
    assert [client.get(PROTECTED, headers=who).status_code for who in (as_ada, as_bob)] == [200, 200]


def test_scoring_has_its_own_rate(make_app, as_ada):
    client = make_app(user_rate_limit="1 per hour", scoring_rate_limit="1 per hour").test_client()
    assert client.get(PROTECTED, headers=as_ada).status_code == 200
    assert client.post(ANALYZE, json={"text": "x"}, headers=as_ada).status_code == 200


@pytest.mark.asvs("2.4.1")
def test_sign_in_is_limited_by_address(make_app):
    client = make_app(auth_rate_limit="2 per hour").test_client()
    answers = [client.post(LOGIN, json={"username": f"user-{n}", "password": "x"}) for n in range(3)]
    assert [answer.status_code for answer in answers] == [401, 401, 429]
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert answers[0].headers["RateLimit"].startswith('"auth";r=1;')


@pytest.fixture
def try_password(make_app):
    """Signs in from an address, and returns the status."""
    client = make_app(login_rate_limit="2 per hour", auth_rate_limit="1000 per hour", trusted_proxies=1).test_client()

    def try_password(address, password="wrong password", username="ada"):
        headers = {"X-Forwarded-For": address}
        return client.post(LOGIN, json={"username": username, "password": password}, headers=headers).status_code

    return try_password


@pytest.mark.asvs("6.3.1")
def test_failed_sign_ins_are_limited_by_account_and_network(ada, try_password):
    assert [try_password("192.0.2.1", username=name) for name in ("ada", "Ada", "ADA")] == [401, 401, 429]
    assert try_password("192.0.2.1", PASSWORD) == 429
    assert [try_password("2001:db8::1"), try_password("2001:db8::2"), try_password("2001:db8::3")] == [401, 401, 429]
    assert try_password("192.0.2.1", username="bob") == 401


@pytest.mark.asvs("6.3.1")
def test_attacker_cannot_lock_the_owner_out(ada, try_password):
    assert try_password("198.51.100.7", PASSWORD) == 200
    for number in range(60):
        try_password(f"192.0.2.{number % 20}")
    assert [try_password("198.51.100.7", PASSWORD) for _ in range(5)] == [200] * 5
    assert try_password("203.0.113.9", PASSWORD) == 200  # also from a network that the service does not know


@pytest.mark.asvs("6.3.1")
def test_many_unknown_networks_get_an_attempt_a_minute_each(ada, try_password):
    assert [try_password(f"192.0.2.{number}") for number in range(6)] == [401] * 6
    assert [try_password("192.0.2.77") for _ in range(3)] == [401, 429, 429]
    assert [try_password("192.0.2.78") for _ in range(2)] == [401, 429]


def test_sign_in_that_could_not_be_tried_does_not_count(ada, try_password, monkeypatch):
    def unavailable(*_):
        raise passwords.TooManySignInsError

    with monkeypatch.context() as patch:
        patch.setattr(service, "sign_in", unavailable)
        assert [try_password("192.0.2.1", PASSWORD) for _ in range(3)] == [503] * 3
    assert try_password("192.0.2.1", PASSWORD) == 200


def test_attempts_that_are_refused_do_not_slow_other_networks(ada, try_password):
    for _ in range(20):
        try_password("192.0.2.1")
    assert [try_password("192.0.2.2") for _ in range(3)] == [401, 401, 429]


def test_unknown_accounts_are_limited_like_known_accounts(try_password):
    assert [try_password("192.0.2.1", username="nobody") for _ in range(3)] == [401, 401, 429]


def test_successful_sign_ins_do_not_count(ada, try_password):
    assert [try_password("192.0.2.1", PASSWORD) for _ in range(5)] == [200] * 5
    assert [try_password("192.0.2.1") for _ in range(3)] == [401, 401, 429]


def test_attempts_count_before_their_password_is_verified(ada, try_password, monkeypatch):
    statuses = []

    def guess_meanwhile(*arguments):
        monkeypatch.undo()
        statuses.extend(try_password("192.0.2.1") for _ in range(2))
        return service.sign_in(*arguments)

    monkeypatch.setattr(service, "sign_in", guess_meanwhile)
    assert try_password("192.0.2.1") == 401
    assert statuses == [401, 429]


@pytest.mark.asvs("14.2.2", "16.2.5")
def test_login_leaves_no_username_in_redis_or_log(make_app, capfd):
    app = make_app(login_rate_limit="1 per hour", log_level="INFO")
    typed_into_the_wrong_field = "correct horse battery" * 50
    for _ in range(2):
        app.test_client().post(LOGIN, json={"username": typed_into_the_wrong_field, "password": "x"})
    keys = REDIS.get(app).keys("*")
    assert keys
    assert max(len(key) for key in keys) < 200
    assert not any(b"horse" in key for key in keys)
    assert "horse" not in capfd.readouterr().err


def test_login_without_username_uses_no_account_limit(make_app, make_user, sign_in):
    client = make_app(login_rate_limit="2 per hour", trusted_proxies=1).test_client()
    for n in range(4):
        client.post(LOGIN, json={}, headers={"X-Forwarded-For": f"192.0.2.{n}"})
    answer = client.post(LOGIN, json={}, headers={"X-Forwarded-For": "192.0.2.9"})
    assert answer.status_code == 422
    sign_in(make_user("nobody"), client)


@pytest.mark.parametrize("address", ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1:5678", "a:b:c"])
def test_forwarded_addresses_have_their_own_rate(make_app, address):
    client = make_app(auth_rate_limit="1 per hour", trusted_proxies=1).test_client()
    statuses = [
        client.post(LOGIN, json={"username": "x", "password": "x"}, headers={"X-Forwarded-For": entry}).status_code
        for entry in (address, address, "::ffff:192.0.2.2")
    ]
    assert statuses == [401, 429, 401]


def test_password_change_is_limited_like_login(make_app, as_ada):
    client = make_app(login_rate_limit="2 per hour").test_client()
    guess = {"password": PASSWORD, "current_password": PASSWORD.upper()}
    answers = [client.patch("/api/v1/users/me", json=guess, headers=as_ada) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [403, 403, 429]
    assert answers[-1].headers["RateLimit"].startswith('"profile";r=0;')
    assert int(answers[-1].headers["Retry-After"]) > 60


def test_forged_forwarded_address_is_ignored(make_app):
    client = make_app(auth_rate_limit="2 per hour").test_client()
    statuses = [
        client.post(
            LOGIN,
            json={"username": f"user-{n}", "password": "x"},
            headers={"X-Forwarded-For": f"192.0.2.{n}"},
        ).status_code
        for n in range(3)
    ]
    assert statuses[-1] == 429


@pytest.fixture
def without_redis(make_app):
    """Makes an application whose Redis refuses connections."""
    return lambda **changes: make_app(redis_url="unix:///nowhere/redis.sock", **changes)


@pytest.mark.asvs("16.5.2")
def test_scoring_is_limited_in_memory_without_redis(without_redis, as_ada):
    client = without_redis(scoring_rate_limit="2 per hour").test_client()
    answers = [client.post(ANALYZE, json={"text": "x"}, headers=as_ada) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["RateLimit"].startswith('"scoring";r=1;')


@pytest.mark.asvs("6.3.1")
def test_sign_in_is_limited_in_memory_without_redis(without_redis, ada):
    client = without_redis(auth_rate_limit="2 per hour").test_client()
    body = {"username": "ada", "password": "correct horse battery staple"}
    counted = REGISTRY.get_sample_value("sentiment_rate_limiter_fallbacks_total")
    assert [client.post(LOGIN, json=body).status_code for _ in range(3)] == [200, 200, 429]
    assert REGISTRY.get_sample_value("sentiment_rate_limiter_fallbacks_total") - counted == 6


@pytest.mark.asvs("7.4.1", "16.5.2")
def test_ended_session_stays_ended_without_redis(without_redis, client, as_ada):
    client.post("/api/v1/auth/logout", headers=as_ada)
    assert without_redis().test_client().get(PROTECTED, headers=as_ada).status_code == 401


def test_session_ended_without_redis_stays_ended(app, client, without_redis, as_ada):
    assert client.get(PROTECTED, headers=as_ada).status_code == 200
    without_redis().test_client().post("/api/v1/auth/logout", headers=as_ada)
    REDIS.get(app).delete("sessions-ended:listed")  # otherwise it expires after 30 seconds at most
    assert client.get(PROTECTED, headers=as_ada).status_code == 401


@pytest.mark.asvs("7.4.1")
def test_wiped_redis_revives_no_session(app, client, as_ada):
    client.post("/api/v1/auth/logout", headers=as_ada)
    REDIS.get(app).flushdb()
    assert client.get(PROTECTED, headers=as_ada).status_code == 401


@pytest.mark.parametrize("username", ["\ud800", "", 7, None, ["x"]])
def test_invalid_username_does_not_open_the_redis_breaker(make_app, ada, username):
    app = make_app(release="fresh")
    answer = app.test_client().post(LOGIN, json={"username": username, "password": "x"})
    assert answer.status_code == 422
    assert not REDIS_BREAKER.get(app).is_open


def test_ipv6_client_is_limited_by_network(make_app):
    client = make_app(auth_rate_limit="2 per hour", trusted_proxies=1).test_client()
    sent_from = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"]
    statuses = [
        client.post(LOGIN, json={"username": f"u{n}", "password": "x"}, headers={"X-Forwarded-For": entry}).status_code
        for n, entry in enumerate(sent_from)
    ]
    assert statuses == [401, 401, 429, 401]


def test_first_request_of_a_window_shows_the_whole_window(make_app, ada):
    client = make_app(auth_rate_limit="5 per minute", trusted_proxies=1).test_client()
    for n in range(30):
        headers = {"X-Forwarded-For": f"192.0.2.{n}"}
        answer = client.post(LOGIN, json={"username": f"u{n}", "password": "x"}, headers=headers)
        assert answer.headers["RateLimit"] == '"auth";r=4;t=60'
