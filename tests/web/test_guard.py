"""Default deny: every route needs a token, except the public routes that are listed here."""

import re
import uuid

PUBLIC = {
    "GET /",
    "GET /docs",
    "GET /docs/model",
    "GET /docs/assets/<path:name>",
    "GET /health",
    "GET /livez",
    "GET /metrics",
    "GET /openapi.json",
    "GET /readyz",
    "GET /redoc",
    "GET /version",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/refresh",
    "POST /api/v1/auth/register",
}


def routes(app):
    for rule in app.url_map.iter_rules():
        for method in rule.methods - {"HEAD"}:
            yield method, rule.rule


def call(client, method, rule, **options):
    return client.open(re.sub("<[^>]*>", str(uuid.uuid4()), rule), method=method, **options)


def test_only_these_routes_are_public(app, client):
    open_to_all = {f"{method} {rule}" for method, rule in routes(app) if call(client, method, rule).status_code != 401}
    assert open_to_all == PUBLIC


def test_undeclared_route_needs_a_token(make_app):
    app = make_app(release="another")
    app.add_url_rule("/forgotten", view_func=lambda: "secret", endpoint="forgotten")
    assert app.test_client().get("/forgotten").status_code == 401


def test_openapi_contains_every_route(app, client):
    documented = client.get("/openapi.json").json["paths"]
    found = {
        f"{method.upper()} {path}"
        for path, operations in documented.items()
        for method in operations
        if method != "parameters"
    }
    hidden = {"GET /", "GET /metrics", "GET /docs/assets/<path:name>"}
    real = {f"{method} {rule}" for method, rule in routes(app)} - hidden
    assert found == {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", entry) for entry in real}


def test_root_redirects_to_docs(client):
    answer = client.get("/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/docs")
