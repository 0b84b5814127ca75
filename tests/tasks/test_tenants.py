"""No route changes or shows ada's data if another user calls it with the ids of her data."""

import io
import re
from datetime import timedelta
from itertools import cycle
from uuid import uuid4

import numpy as np
import pytest
import uuid_utils.compat as uuid
from harness import PASSWORD
from sqlalchemy import func, insert, select

from sentiment_app.infrastructure.database import Base, db
from sentiment_app.ml.runtime import Assessments
from sentiment_app.tasks import chunks, progress_stream
from sentiment_app.tasks.models import STATUSES, Chunk, Task
from sentiment_app.usage import quotas
from sentiment_app.users import administration, api_keys, one_time_tokens
from sentiment_app.users.models import FormerUsername, Session, User
from sentiment_app.users.one_time_tokens import Purpose
from sentiment_app.web.operation import operation_of
from sentiment_app.webhooks import secrets
from sentiment_app.webhooks.models import Delivery

SHARED = {"model_releases", "model_events", "audit_events", "token_keys"}
"""Tables whose rows do not belong to users: the audit log belongs to the operator."""
CHUNK_STATES = ("waiting", "queued", "running", "done")
ERRORS = ({}, {"0": {"detail": "not a text"}}, {"0": {"detail": "not scored", "retryable": True}})
PRIVATE = "the text that ada alone may read"


@pytest.fixture
def create_all_data(client, sign_in, model):
    """Creates a row of a user in every table, with a task in each status and all kinds of chunks. Returns the ids."""

    def own(user):
        headers = sign_in(user)
        scored = client.post("/api/v1/sentiment/analyze", json={"text": f"{PRIVATE} {user.username}"}, headers=headers)
        given = {"request_id": scored.json["id"], "label": "neutral"}
        feedback = client.post("/api/v1/sentiment/feedback", json=given, headers=headers)
        tasks, deliveries, states = [], [], cycle(("pending", "delivered", "failed"))
        for status in STATUSES:
            tasks.append(uuid.uuid7())
            chunks = [(state, errors) for state in CHUNK_STATES for errors in ERRORS]
            rest = {"finished_at": func.now(), "expires_at": func.now() + timedelta(1)}
            values = {"id": tasks[-1], "user_id": user.id, "status": status, "model_version": model[1]}
            values |= {"total": len(chunks), "idempotency_key": f"key-{status}", "fingerprint": "x"}
            db.session.execute(insert(Task).values({**values, **rest}))
            for index, (state, errors) in enumerate(chunks):
                add_chunk(tasks[-1], index, state, errors)
            deliveries.append(uuid.uuid7())
            values = {"id": deliveries[-1], "task_id": tasks[-1], "event": status, "state": next(states)}
            values |= {"user_id": user.id, "url": "https://example.org/", "payload": {}}
            db.session.execute(insert(Delivery).values(values))
        key = api_keys.create(user, api_keys.Grant("test", ["read"])).record
        db.session.execute(insert(FormerUsername).values(username=f"former-{user.username}", user_id=user.id))
        one_time_tokens.create(Purpose.PASSWORD_RESET, user.id, timedelta(days=1))
        secrets.get_or_create(user.id)
        administration.administer(user.id, {"rows_per_day": 1_000_000})
        quotas.prepare(user.id, None)
        sessions = db.session.scalars(select(Session.id).where(Session.user_id == user.id)).all()
        texts = {
            "request_id": [scored.json["id"]],
            "feedback_id": [feedback.json["id"]],
            "task_id": tasks,
            "delivery_id": deliveries,
        }
        return {"user_id": [user.id], "key_id": [key.id], "session_id": sessions, **texts}

    return own


def add_chunk(task_id, index, state, errors):
    is_scored = state == "done" and not errors
    scores = np.array([[0.2, 0.3, 0.5] if is_scored else [np.nan] * 3])
    values = {"id": uuid.uuid7(), "task_id": task_id, "first": index, "size": 1, "state": state, "errors": errors}
    values |= {"texts": chunks.pack([PRIVATE]), "keys": chunks.pack([[index + 1, None]])}
    values |= {"columns": chunks.pack([{"note": PRIVATE}])}
    found = Assessments(scores, np.full(1, np.nan), {})
    values |= {**chunks.write(found), "completed": int(is_scored), "failed": len(errors)}
    if state == "running":
        values |= {"token": uuid4(), "lease_until": func.now() + timedelta(1), "attempts": 1}
    db.session.execute(insert(Chunk).values(values))


def rows_of(user):
    """All rows of a user, by table."""
    tasks = select(Task.id).where(Task.user_id == user.id)
    found = {}
    for table in Base.metadata.sorted_tables:
        if table.name in SHARED:
            continue
        if table is User.__table__:
            mine = table.c.id == user.id
        elif "user_id" in table.c:
            mine = table.c.user_id == user.id
        else:  # a new table without these columns needs its own case
            mine = table.c.task_id.in_(tasks)
        found[table.name] = db.session.execute(select(table).where(mine).order_by(*table.primary_key)).all()
    return found


BODIES = {
    "POST /api/v1/auth/login": {"json": {"username": "ada", "password": f"not {PASSWORD}"}},
    "POST /api/v1/auth/refresh": {"json": {"refresh_token": "not.a.token"}},
    "POST /api/v1/auth/register": {
        "json": {"username": "ADA", "email": "other@example.org", "password": PASSWORD},
    },
    "PATCH /api/v1/users/me": {
        "json": {"username": "adam", "email": "ada@example.org", "current_password": PASSWORD},
    },
    "POST /api/v1/users/me/api-keys": {
        "json": {"name": "test", "scopes": ["read"], "current_password": PASSWORD},
    },
    "POST /api/v1/users/me/api-keys/<uuid:key_id>/rotate": {"json": {"current_password": PASSWORD}},
    "PATCH /api/v1/users/<uuid:user_id>": {"json": {"is_active": False}},
    "POST /api/v1/users/<uuid:user_id>/password-reset": {"json": {}},
    "POST /api/v1/users/invitations": {"json": {}},
    "POST /api/v1/auth/password-reset": {"json": {"token": "guessed", "password": PASSWORD}},
    "DELETE /api/v1/users/me": {"json": {"current_password": f"not {PASSWORD}"}},
    "POST /api/v1/sentiment/webhooks/secret/rotate": {"json": {}},
    "POST /api/v1/sentiment/analyze": {"json": {"text": "of another user"}},
    "POST /api/v1/sentiment/feedback": {"json": {"text": "of another user", "label": "positive"}},
    "POST /api/v1/sentiment/analyze/batch": {
        "json": {"texts": ["of another user"]},
        "headers": {"Idempotency-Key": "key-completed"},
    },
    "POST /api/v1/sentiment/tasks": {
        "data": '{"text": "of another user"}\n',
        "content_type": "application/x-ndjson",
        "headers": {"Idempotency-Key": "key-running"},
    },
    "POST /api/v1/sentiment/tasks/preview": {
        "data": '{"text": "of another user"}\n',
        "content_type": "application/x-ndjson",
    },
}
# Forms of the console. Other forms have no fields.
FORMS = {
    "POST /console": {"text": "of another user"},
    "POST /console/feedback": {"text": "of another user", "label": "positive"},
    "POST /console/sign-in": {"username": "ada", "password": f"not {PASSWORD}"},
    "POST /console/register": {"username": "ADA", "email": "other@example.org", "password": PASSWORD},
    "POST /console/password": {"token": "guessed", "password": PASSWORD},
    "POST /console/keys": {"name": "test", "scopes": "read", "current_password": PASSWORD},
    "POST /console/keys/<uuid:key_id>/rotate": {"current_password": PASSWORD},
    "POST /console/account": {"username": "adam", "email": "ada@example.org", "current_password": PASSWORD},
    "POST /console/account/delete": {"current_password": f"not {PASSWORD}"},
    "POST /console/team/<uuid:user_id>": {"is_active": "false"},
}
# These end sessions of the caller.
LAST = ("/api/v1/auth/sessions", "/console/account/sessions/end-others", "/api/v1/auth/logout", "/console/sign-out")


def operations(app, ids, version):
    """Every route with each of the ids. The routes that end sessions of the caller come last."""
    found = []
    for rule in app.url_map.iter_rules():
        for method in sorted(rule.methods - {"HEAD"}):
            view = operation_of(app.view_functions[rule.endpoint])
            name = f"{method} {rule.rule}"
            assert view.page or name in BODIES or not (view.body or view.streams), f"{name} needs a body in this test"
            paths = [rule.rule.replace("<name:version>", version).replace("<path:name>", "x")]
            for kind in re.findall(r"<uuid:(\w+)>", rule.rule):
                paths = [path.replace(f"<uuid:{kind}>", str(id_)) for path in paths for id_ in ids[kind]]
            options = (
                {"form": FORMS.get(name, {}), "is_upload": bool(view.streams)} if view.page else BODIES.get(name, {})
            )
            found += [(method, path, options) for path in paths]
    return sorted(
        found, key=lambda operation: (operation[1] in LAST and operation[0] != "GET", operation[0] == "DELETE")
    )


def make_browser(app, username):
    """A function that sends a request as the browser of a user who is signed in to the console."""
    client, headers = app.test_client(), {"Origin": "http://localhost"}

    def send(method, path, form=(), is_upload=False):
        if method == "GET":
            return client.get(path)
        token = re.search(r'csrf_token" value="(\w+)"', client.get("/console/sign-in").text)[1]
        data = {"csrf_token": token, **dict(form)}
        if is_upload:
            data["file"] = io.BytesIO(b"text\nof another user\n"), "texts.csv"
        return client.open(path, method=method, data=data, headers=headers)

    assert send("POST", "/console/sign-in", {"username": username, "password": PASSWORD}).status_code == 303
    return send


@pytest.mark.asvs("8.2.2", "8.4.1")
@pytest.mark.no_cover
@pytest.mark.parametrize("whose", ["ada's", "his own"])
def test_no_route_changes_or_shows_data_of_another_user(
    make_app, ada, make_user, sign_in, create_all_data, model, monkeypatch, whose
):
    monkeypatch.setattr(progress_stream, "HOLD_SECONDS", 0)  # event streams end at once, because no worker runs
    app = make_app(max_tasks=1000, max_held_requests=1000)
    bob = make_user("bob")
    ada_ids, bob_ids = create_all_data(ada), create_all_data(bob)
    headers, client, browse = sign_in(bob), app.test_client(), make_browser(app, "bob")
    before = rows_of(ada)
    assert {name: len(rows) > 0 for name, rows in before.items()} == dict.fromkeys(before, True)
    statuses = set()
    for method, path, options in operations(app, ada_ids if whose == "ada's" else bob_ids, model[1]):
        own = {**headers, **options.get("headers", {})}
        is_page = "form" in options
        answer = (
            browse(method, path, **options)
            if is_page
            else client.open(path, method=method, **{**options, "headers": own})
        )
        statuses.add(answer.status_code)
        assert answer.status_code < 500 or path == "/docs/model", (method, path, answer.text)
        assert f"{PRIVATE} ada" not in answer.text, (method, path)
        if whose == "ada's" and any(str(id_) in path for ids in ada_ids.values() for id_ in ids):
            assert answer.status_code in (403, 404), (method, path, answer.text)
        assert rows_of(ada) == before, (method, path)
    assert {200, 202, 204, 303} <= statuses or whose == "ada's"
