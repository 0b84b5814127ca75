"""Default deny: every route needs a token, except the public routes that are listed here."""

import json
import re
import uuid

import pytest

from sentiment_app.infrastructure import logs
from sentiment_app.users import api_keys
from sentiment_app.web.operation import ADMINISTRATOR_SCOPES, SCOPES

PUBLIC = {
    "GET /",
    "GET /docs",
    "GET /docs/model",
    "GET /docs/assets/<path:name>",
    "GET /console/assets/<path:name>",
    "GET /console/password",
    "GET /console/register",
    "GET /console/sign-in",
    "POST /console/password",
    "POST /console/register",
    "POST /console/sign-in",
    "GET /health",
    "GET /livez",
    "GET /metrics",
    "GET /openapi.json",
    "GET /readyz",
    "GET /redoc",
    "GET /version",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/refresh",
    "POST /api/v1/auth/password-reset",
    "POST /api/v1/auth/register",
}


def routes(app):
    for rule in app.url_map.iter_rules():
        for method in rule.methods - {"HEAD"}:
            yield method, rule.rule


def call(client, method, rule, **options):
    path = re.sub("<[^>]*>", str(uuid.uuid4()), re.sub("<int[^>]*>", "0", rule))
    return client.open(path, method=method, **options)


@pytest.mark.asvs("8.2.1", "8.3.1", "13.4.5")
def test_only_these_routes_are_public(app, client):
    own = {"Origin": "http://localhost"}  # without it, the console refuses writes before it asks for the cookie
    found = {
        f"{method} {rule}" for method, rule in routes(app) if call(client, method, rule, headers=own).status_code != 401
    }
    assert found == PUBLIC


@pytest.mark.asvs("8.3.1")
def test_undeclared_route_needs_a_token(make_app):
    app = make_app(release="another")
    app.add_url_rule("/forgotten", view_func=lambda: "secret", endpoint="forgotten")
    assert app.test_client().get("/forgotten").status_code == 401


@pytest.mark.asvs("4.1.4")
def test_openapi_contains_every_route(app, client):
    documented = client.get("/openapi.json").json["paths"]
    found = {
        f"{method.upper()} {path}"
        for path, operations in documented.items()
        for method in operations
        if method != "parameters"
    }
    hidden = {"GET /", "GET /metrics", "GET /docs", "GET /docs/assets/<path:name>", "GET /docs/model", "GET /redoc"}
    real = {f"{method} {rule}" for method, rule in routes(app) if not rule.startswith("/console")} - hidden
    assert found == {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", entry) for entry in real}


@pytest.mark.asvs("3.7.2")
def test_root_redirects_to_the_console(client):
    answer = client.get("/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/console")


# These need a signed-in user, and would end the sessions of the other calls.
ENDS_SESSIONS = {"POST /api/v1/auth/logout", "DELETE /api/v1/auth/sessions"}

# Who may call each other route that is not public: "user" or "administrator", and the scopes of API keys that may.
ROLES = {
    "GET /api/v1/auth/sessions": ("user", set()),
    "GET /api/v1/users/me/usage": ("user", {"read"}),
    "GET /api/v1/users/<uuid:user_id>/usage": ("administrator", {"admin"}),
    "DELETE /api/v1/auth/sessions/<uuid:session_id>": ("user", set()),
    "GET /api/v1/protected/test": ("user", {"score", "tasks", "read", "models", "admin"}),
    "GET /api/v1/sentiment/models": ("user", {"read", "models"}),
    "GET /api/v1/sentiment/models/<name:version>": ("user", {"read", "models"}),
    "GET /api/v1/sentiment/models/<name:version>/card": ("user", {"read", "models"}),
    "GET /api/v1/sentiment/models/<name:version>/events": ("administrator", {"models"}),
    "POST /api/v1/sentiment/models/<name:version>/activate": ("administrator", {"models"}),
    "POST /api/v1/sentiment/analyze": ("user", {"score"}),
    "GET /api/v1/sentiment/history": ("user", {"read"}),
    "GET /api/v1/sentiment/history/<uuid:request_id>": ("user", {"read"}),
    "DELETE /api/v1/sentiment/history": ("user", set()),
    "DELETE /api/v1/sentiment/history/<uuid:request_id>": ("user", set()),
    "POST /api/v1/sentiment/feedback": ("user", {"score"}),
    "GET /api/v1/sentiment/feedback": ("user", {"read"}),
    "DELETE /api/v1/sentiment/feedback/<uuid:feedback_id>": ("user", {"score"}),
    "POST /api/v1/sentiment/analyze/batch": ("user", {"tasks"}),
    "POST /api/v1/sentiment/tasks": ("user", {"tasks"}),
    "POST /api/v1/sentiment/tasks/preview": ("user", {"tasks"}),
    "GET /api/v1/sentiment/tasks": ("user", {"tasks", "read"}),
    "GET /api/v1/sentiment/task/<uuid:task_id>": ("user", {"tasks", "read"}),
    "GET /api/v1/sentiment/tasks/<uuid:task_id>": ("user", {"tasks", "read"}),
    "DELETE /api/v1/sentiment/tasks/<uuid:task_id>": ("user", {"tasks"}),
    "POST /api/v1/sentiment/tasks/<uuid:task_id>/cancel": ("user", {"tasks"}),
    "POST /api/v1/sentiment/tasks/<uuid:task_id>/retry": ("user", {"tasks"}),
    "GET /api/v1/sentiment/tasks/<uuid:task_id>/results": ("user", {"tasks", "read"}),
    "GET /api/v1/sentiment/tasks/<uuid:task_id>/events": ("user", {"tasks", "read"}),
    "GET /api/v1/sentiment/tasks/<uuid:task_id>/deliveries": ("user", {"tasks", "read"}),
    "POST /api/v1/sentiment/tasks/<uuid:task_id>/deliveries/<uuid:delivery_id>/redeliver": ("user", {"tasks"}),
    "GET /api/v1/sentiment/webhooks/secret": ("user", set()),
    "POST /api/v1/sentiment/webhooks/secret/rotate": ("user", set()),
    "GET /api/v1/audit": ("administrator", {"admin"}),
    "GET /api/v1/users": ("administrator", {"admin"}),
    "GET /api/v1/users/<uuid:user_id>": ("administrator", {"admin"}),
    "PATCH /api/v1/users/<uuid:user_id>": ("administrator", {"admin"}),
    "DELETE /api/v1/users/<uuid:user_id>": ("administrator", {"admin"}),
    "POST /api/v1/users/<uuid:user_id>/password-reset": ("administrator", set()),
    "GET /api/v1/users/<uuid:user_id>/sessions": ("administrator", {"admin"}),
    "DELETE /api/v1/users/<uuid:user_id>/sessions": ("administrator", {"admin"}),
    "POST /api/v1/users/invitations": ("administrator", {"admin"}),
    "GET /api/v1/users/me": ("user", {"read"}),
    "GET /api/v1/users/me/export": ("user", set()),
    "DELETE /api/v1/users/me": ("user", set()),
    "PATCH /api/v1/users/me": ("user", set()),
    "GET /api/v1/users/me/api-keys": ("user", set()),
    "POST /api/v1/users/me/api-keys": ("user", set()),
    "POST /api/v1/users/me/api-keys/<uuid:key_id>/rotate": ("user", set()),
    "DELETE /api/v1/users/me/api-keys/<uuid:key_id>": ("user", set()),
}


@pytest.mark.asvs("8.2.1")
def test_every_route_admits_exactly_the_declared_roles_and_scopes(app, client, ada, admin, sign_in):
    callers = [(who, "session", sign_in(who)) for who in (ada, admin)]
    for who in (ada, admin):
        for scope in sorted(SCOPES.keys() - (ADMINISTRATOR_SCOPES if who is ada else set())):
            key = api_keys.create(who, api_keys.Grant("test", [scope])).key
            callers.append((who, scope, {"Authorization": f"Bearer {key}"}))
    found = {}
    for method, rule in routes(app):
        route = f"{method} {rule}"
        if route in PUBLIC or route in ENDS_SESSIONS or rule.startswith("/console"):
            continue
        admitted = set()
        for who, scope, headers in callers:
            status = call(client, method, rule, headers=headers).status_code
            assert status not in (401, 429), (route, who.username, scope, status)
            if status != 403:
                admitted.add((who.username, scope))
        found[route] = admitted
    expected = {}
    for route, (role, scopes) in ROLES.items():
        names = {"root"} if role == "administrator" else {"ada", "root"}
        allowed = {(name, scope) for name in names for scope in {*scopes, "session"}}
        expected[route] = allowed - {("ada", scope) for scope in ADMINISTRATOR_SCOPES}
    assert found == expected


@pytest.mark.asvs("16.3.2")
def test_refused_attempts_are_logged(client, ada, as_ada, capfd):
    made = api_keys.create(ada, api_keys.Grant("test", ["score"]))
    elsewhere = api_keys.create(ada, api_keys.Grant("test", ["read"], ["192.0.2.0/24"]))
    logs.configure("WARNING")  # to the stream that the test reads
    client.get("/api/v1/users", headers=as_ada)
    for key in (made, elsewhere):
        client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {key.key}"})
    logged = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "authz_fail" in line]
    assert [entry["reason"] for entry in logged] == ["forbidden", "insufficient-scope", "forbidden"]
    assert {(entry["user_id"], entry["network"]) for entry in logged} == {(str(ada.id), "127.0.0.1")}
    assert [entry["credential_id"] for entry in logged[1:]] == [str(made.record.id), str(elsewhere.record.id)]
