"""The headers that tell browsers to be careful."""

import pytest

REQUESTS = {
    "answer": ("GET", "/api/v1/users/me", 200),
    "score": ("POST", "/api/v1/sentiment/analyze", 200),
    "wrong body": ("POST", "/api/v1/auth/login", 422),
    "no content": ("DELETE", "/api/v1/auth/sessions", 204),
    "unknown path": ("GET", "/nowhere", 404),
    "wrong method": ("DELETE", "/livez", 405),
    "health": ("GET", "/livez", 200),
    "OpenAPI": ("GET", "/openapi.json", 200),
    "pages": ("GET", "/docs", 200),
}


@pytest.mark.asvs("3.4.4", "3.4.5", "14.3.2")
@pytest.mark.parametrize(("method", "path", "status"), REQUESTS.values(), ids=REQUESTS)
def test_answers_have_the_headers_of_security(client, as_ada, method, path, status):
    answer = client.open(path, method=method, json={"text": "good"} if method == "POST" else None, headers=as_ada)
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";"))
    assert (policy["default-src"], policy["frame-ancestors"]) == ("'none'", "'none'")
    assert "unsafe" not in policy.get("script-src", "")
    if path.startswith("/api"):
        assert answer.headers["Cache-Control"] == "no-store"


def test_error_that_nobody_expected_has_the_headers_of_security(app, client, as_ada, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError

    monkeypatch.setattr("sentiment_app.users.service.get", fail)
    answer = client.get("/api/v1/users/me", headers=as_ada)
    assert (answer.status_code, answer.headers["X-Content-Type-Options"]) == (500, "nosniff")
    assert answer.headers["Cache-Control"] == "no-store"
