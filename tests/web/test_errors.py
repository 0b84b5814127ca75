import io
import json
from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import text

from sentiment_app.app import create_app
from sentiment_app.infrastructure.database import autocommit, db
from sentiment_app.sentiment import history, service
from sentiment_app.sentiment.routes import MAX_BODY_BYTES
from sentiment_app.web.operation import BODY_LIMIT

ANALYZE = "/api/v1/sentiment/analyze"


@pytest.mark.asvs("4.1.4", "5.3.2")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/api/v1/nowhere", 404),
        ("DELETE", "/livez", 405),
        ("OPTIONS", "/livez", 405),
        ("GET", ANALYZE, 405),
        ("GET", "/docs/assets/../docs.py", 404),
        ("GET", "/docs/assets/..%2fdocs.py", 404),
        ("GET", "/docs/assets/%2e%2e/docs.py", 404),
        ("GET", "/docs/assets//etc/hostname", 404),
    ],
)
def test_errors_of_routing_are_problems(client, method, path, status):
    answer = client.open(path, method=method)
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert answer.json["status"] == status
    assert set(answer.json) == {"type", "title", "status", "detail", "instance", "request_id"}
    if status == 405:
        assert answer.headers["Allow"]


def test_problem_has_request_id(client):
    answer = client.get("/nowhere", headers={"X-Request-ID": "abc-1"})
    assert answer.headers["X-Request-ID"] == answer.json["request_id"] == "abc-1"
    assert answer.json["instance"] == "/nowhere"


@pytest.mark.parametrize(("depth", "status"), [(400, 400), (8000, 422), (100_000, 413)])
def test_deeply_nested_login_body_is_refused(client, depth, status):
    answer = client.post("/api/v1/auth/login", data=b"[" * depth, content_type="application/json")
    assert answer.status_code == status


@pytest.mark.asvs("1.2.1")
@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a;b", "é"])
def test_invalid_request_id_is_replaced(client, given):
    answer = client.get("/livez", headers={"X-Request-ID": given.encode()})
    assert len(answer.headers["X-Request-ID"]) == 36


@pytest.mark.asvs("16.2.4", "16.3.4", "16.5.1", "16.5.4")
def test_bug_answers_500_without_details_and_logs_no_text(make_app, as_ada, monkeypatch, capsys):
    def bug(*_, **__):
        raise RuntimeError("secret text of a customer")

    monkeypatch.setattr(service, "serving", bug)
    client = make_app(log_level="INFO").test_client()
    answer = client.post(ANALYZE, json={"text": "secret text of a customer"}, headers=as_ada)
    assert (answer.status_code, answer.mimetype) == (500, "application/problem+json")
    logged = capsys.readouterr().err
    assert "secret" not in answer.text + logged
    assert '"error":"RuntimeError"' in logged
    assert answer.json["request_id"] in logged


def test_chunked_body_over_limit_is_refused(client, as_ada):
    body = json.dumps({"text": "x"}).encode()
    padded = body + b" " * (MAX_BODY_BYTES + 1 - len(body))
    environ = {"wsgi.input_terminated": True, "CONTENT_LENGTH": None}
    stream = io.BytesIO(padded)
    answer = client.post(
        ANALYZE, input_stream=stream, content_type="application/json", headers=as_ada, environ_overrides=environ
    )
    assert answer.status_code == 413


def test_small_chunked_body_is_not_limited_as_large(client, as_ada, full):
    environ = {"wsgi.input_terminated": True, "CONTENT_LENGTH": None}
    with full(BODY_LIMIT.get(client.application)):
        answer = client.post(
            ANALYZE,
            input_stream=io.BytesIO(b'{"text": "x"}'),
            content_type="application/json",
            headers=as_ada,
            environ_overrides=environ,
        )
    assert answer.status_code == 200


def test_slow_database_answers_503(app, client, as_ada, monkeypatch):
    monkeypatch.setattr(history, "get", lambda *_: db.session.execute(text("SELECT pg_sleep(60)")))
    db.session.execute(text("SET LOCAL statement_timeout = '50ms'"))
    answer = client.get(f"/api/v1/sentiment/history/{uuid4()}", headers=as_ada)
    assert (answer.status_code, answer.json["type"]) == (503, "urn:sentiment-app:problem:unavailable")
    assert answer.headers["Retry-After"]


def test_every_connection_has_a_statement_timeout(settings):
    app = create_app(replace(settings, database_statement_seconds=0.5))
    with app.app_context(), autocommit() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "500ms"
    with app.app_context(), db.engine.connect() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "500ms"


@pytest.mark.asvs("3.7.2")
def test_double_slash_is_not_redirected(client):
    # The path is set here, because the test client would parse its first part as a host.
    arrived = {"PATH_INFO": "//evil.example//livez", "RAW_URI": "//evil.example//livez"}
    answer = client.get("/", headers={"Host": "evil.example"}, environ_overrides=arrived)
    assert answer.status_code == 404


@pytest.mark.asvs("1.2.3")
def test_error_points_to_field_with_lone_surrogate(client, as_ada):
    answer = client.post(ANALYZE, data=r'{"text":"x","\ud800":1}', content_type="application/json", headers=as_ada)
    assert answer.status_code == 422
    assert [entry["pointer"] for entry in json.loads(answer.data)["errors"]] == ["/\ud800"]
