"""Pages of other origins may call the API only if the operator lists their origin."""

import pytest

from sentiment_app.config import ConfigError, Settings

ANALYZE = "/api/v1/sentiment/analyze"
ORIGIN = "https://app.example.org"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}


@pytest.fixture
def open_client(make_app):
    return make_app(cors_origins=[ORIGIN]).test_client()


def test_no_origin_is_allowed_by_default(client, as_ada):
    assert client.options(ANALYZE, headers=PREFLIGHT).status_code == 405
    answer = client.post(ANALYZE, json={"text": "good"}, headers={**as_ada, "Origin": ORIGIN})
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


def test_listed_origin_may_call_the_api_and_read_its_answers(open_client, as_ada):
    preflight = open_client.options(ANALYZE, headers=PREFLIGHT)
    assert (preflight.status_code, preflight.data) == (204, b"")
    assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    for headers, status in ((as_ada, 200), ({}, 401)):  # also errors can be read
        answer = open_client.post(ANALYZE, json={"text": "good"}, headers={**headers, "Origin": ORIGIN})
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, ORIGIN)
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{ORIGIN}.evil.example", "null", "http://app.example.org", ""]
)
def test_other_origins_are_not_allowed(open_client, as_ada, origin):
    assert open_client.options(ANALYZE, headers={**PREFLIGHT, "Origin": origin}).status_code == 405
    answer = open_client.post(ANALYZE, json={"text": "good"}, headers={**as_ada, "Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("path", ["/console/sign-in", "/docs", "/readyz"])
def test_only_the_api_is_open(open_client, path):
    assert open_client.options(path, headers=PREFLIGHT).status_code == 405
    assert "Access-Control-Allow-Origin" not in open_client.get(path, headers={"Origin": ORIGIN}).headers


@pytest.mark.parametrize("origins", ["*", "app.example.org", "https://a.example/path", "https://a.example, *"])
def test_setting_takes_exact_origins_only(monkeypatch, settings, origins):
    monkeypatch.setenv("CORS_ORIGINS", origins)
    with pytest.raises(ConfigError, match="is not an origin"):
        Settings.from_env()
