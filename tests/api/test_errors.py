import pytest

from sentiment_app.sentiment import service

ANALYZE = "/api/v1/sentiment/analyze"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/api/v1/nowhere", 404),
        ("DELETE", "/livez", 405),
        ("OPTIONS", "/livez", 405),
        ("GET", ANALYZE, 405),
        ("GET", "/docs/assets/../app.py", 404),
    ],
)
def test_errors_of_routing_are_problems(client, method, path, status):
    answer = client.open(path, method=method)
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert answer.json["status"] == status
    assert set(answer.json) == {"type", "title", "status", "detail", "instance", "request_id"}
    if status == 405:
        assert answer.headers["Allow"]


def test_a_problem_names_its_request(client):
    answer = client.get("/nowhere", headers={"X-Request-ID": "abc-1"})
    assert answer.headers["X-Request-ID"] == answer.json["request_id"] == "abc-1"
    assert answer.json["instance"] == "/nowhere"


def test_login_refuses_deep_nesting_as_any_other_malformed_body(client):
    answer = client.post("/api/v1/auth/login", data=b"[" * 100_000, content_type="application/json")
    assert answer.status_code == 400


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a;b", "é"])
def test_a_request_id_that_could_spoil_a_log_is_replaced(client, given):
    answer = client.get("/livez", headers={"X-Request-ID": given.encode()})
    assert len(answer.headers["X-Request-ID"]) == 36


def test_a_bug_is_a_500_that_tells_nothing_and_logs_no_text(make_app, as_ada, monkeypatch, capsys):
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
