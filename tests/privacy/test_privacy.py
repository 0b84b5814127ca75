"""Export, erasure, texts that are not stored, and a user's own retention."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from harness import PASSWORD
from sqlalchemy import func, select, text, update

from sentiment_app import maintenance
from sentiment_app.feedback import service as feedback
from sentiment_app.feedback.models import Feedback
from sentiment_app.infrastructure.database import db
from sentiment_app.privacy import service
from sentiment_app.sentiment import history
from sentiment_app.sentiment.models import SentimentRequest
from sentiment_app.tasks import executor
from sentiment_app.tasks.models import Chunk, Task
from sentiment_app.users import administration
from sentiment_app.users import service as users
from sentiment_app.users.models import User

ME = "/api/v1/users/me"
ANALYZE = "/api/v1/sentiment/analyze"
HISTORY = "/api/v1/sentiment/history"
FEEDBACK = "/api/v1/sentiment/feedback"
LOGIN = "/api/v1/auth/login"


@pytest.fixture
def analyze(client, as_ada):
    return lambda text, headers=as_ada, **fields: client.post(ANALYZE, json={"text": text, **fields}, headers=headers)


@pytest.fixture
def export(client, as_ada):
    def export(headers=as_ada):
        answer = client.get(f"{ME}/export", headers=headers)
        assert (answer.status_code, answer.mimetype) == (200, "application/x-ndjson")
        return [json.loads(line) for line in answer.text.splitlines()]

    return export


def number_of(table):
    return db.session.scalar(select(func.count()).select_from(table))


@pytest.mark.asvs("15.3.1")
def test_export_has_everything(client, ada, as_ada, analyze, upload, work, export):
    analyze("a text of Ada")
    body = {"current_password": PASSWORD, "name": "import", "scopes": ["read"]}
    client.post(f"{ME}/api-keys", json=body, headers=as_ada)
    client.post(FEEDBACK, json={"text": "a wrong text", "label": "neutral"}, headers=as_ada)
    upload("text,shop\ngood,north\n,south\n", "text/csv", "?keep=columns")
    work()
    found = export()
    by_kind = {}
    for entry in found:
        by_kind.setdefault(entry["kind"], []).append(entry)
    assert found[0]["kind"] == "account"
    assert by_kind["account"][0]["email"] == ada.email
    assert [entry["text"] for entry in by_kind["text"]] == ["a text of Ada"]
    assert [(entry["text"], entry["label"]) for entry in by_kind["feedback"]] == [("a wrong text", "neutral")]
    assert [entry["text"] for entry in by_kind["result"]] == ["good", None]
    assert [entry["columns"] for entry in by_kind["result"]] == [{"shop": "north"}, {"shop": "south"}]
    assert by_kind["api_key"][0]["name"] == "import"
    assert "key_hash" not in by_kind["api_key"][0]
    assert by_kind["session"][0]["agent"].startswith("Werkzeug")
    assert len(by_kind["task"]) == 1
    assert "authn_login_success" in {entry["event"] for entry in by_kind["audit_event"]}
    assert sum(entry["rows"] for entry in by_kind["usage"]) == 2  # a text, and a row of the task
    assert "password" not in json.dumps(by_kind["account"])


def test_export_has_nothing_of_others(client, analyze, make_user, sign_in, export):
    analyze("a text of Ada")
    grace = sign_in(make_user("grace"))
    analyze("a text of Grace", headers=grace)
    assert "Ada" not in json.dumps(export(grace))


def test_export_reads_more_than_a_page(analyze, export, monkeypatch):
    monkeypatch.setattr(service, "PAGE_ROWS", 2)
    texts = [f"text {number}" for number in range(5)]
    for each in texts:
        analyze(each)
    assert [entry["text"] for entry in export() if entry["kind"] == "text"] == texts[::-1]


@pytest.mark.asvs("7.4.2")
def test_account_is_erased_with_its_data(client, ada, as_ada, analyze, upload, work, make_user, sign_in):
    other, email = sign_in(make_user("grace")), ada.email
    analyze("a text of Grace", headers=other)
    analyze("a text of Ada")
    for headers in (as_ada, other):
        client.post(FEEDBACK, json={"text": "a text of both", "label": "neutral"}, headers=headers)
    upload("text\ngood\n", "text/csv")
    work()
    upload("text\nunfinished\n", "text/csv")
    answer = client.delete(ME, json={"current_password": PASSWORD}, headers=as_ada)
    assert answer.status_code == 204
    assert db.session.scalar(select(User.id).where(User.id == ada.id)) is None
    assert [number_of(table) for table in (Task, Chunk, SentimentRequest, Feedback)] == [0, 0, 1, 1]
    assert client.get(ME, headers=as_ada).status_code == 401
    assert analyze("again").status_code == 401
    assert client.post(LOGIN, json={"username": "ada", "password": PASSWORD}).status_code == 401
    written = db.session.scalars(text("SELECT audit_events::text FROM audit_events")).all()
    assert not any("ada@" in entry or "a text" in entry for entry in written)
    assert client.get(HISTORY, headers=other).json["items"]
    again = {"username": "ada", "email": email, "password": PASSWORD}
    assert client.post("/api/v1/auth/register", json=again).status_code == 201


def test_erasure_needs_the_password(client, as_ada, ada):
    for body in ({}, {"current_password": "wrong password"}):
        assert client.delete(ME, json=body, headers=as_ada).status_code in (403, 422)
    assert client.get(ME, headers=as_ada).status_code == 200


def test_key_of_an_erased_account_is_refused(client, as_ada):
    body = {"current_password": PASSWORD, "name": "import", "scopes": ["read"]}
    key = client.post(f"{ME}/api-keys", json=body, headers=as_ada).json["key"]
    bearer = {"Authorization": f"Bearer {key}"}
    assert client.get(ME, headers=bearer).status_code == 200
    client.delete(ME, json={"current_password": PASSWORD}, headers=as_ada)
    assert client.get(ME, headers=bearer).status_code == 401


def test_data_that_a_request_cannot_erase_is_purged(client, ada, as_ada, analyze, monkeypatch):
    for number in range(3):
        analyze(f"text {number}")
        client.post(FEEDBACK, json={"text": f"text {number}", "label": "neutral"}, headers=as_ada)
    monkeypatch.setattr(history, "BATCH_ROWS", 1)
    monkeypatch.setattr(feedback, "BATCH_ROWS", 2)
    monkeypatch.setattr(service.erase, "__defaults__", (-1.0,))
    assert client.delete(ME, json={"current_password": PASSWORD}, headers=as_ada).status_code == 204
    left = db.session.get(User, ada.id, populate_existing=True)
    assert left.deleted_at
    assert "ada" not in left.username + left.email
    assert number_of(SentimentRequest) == 2
    assert users.page(10, None) == []
    assert maintenance.purge()["accounts"] == 1
    assert (number_of(SentimentRequest), db.session.scalar(select(User.id).where(User.id == ada.id))) == (0, None)


def test_nobody_can_take_the_names_of_a_deleted_account(client, ada, as_admin):
    path = f"/api/v1/users/{ada.id}"
    account = {"username": "mallory", "email": f"{ada.id}@deleted.invalid", "password": PASSWORD}
    client.post("/api/v1/auth/register", json=account)
    administration.delete(ada.id)
    left = db.session.get(User, ada.id, populate_existing=True)
    assert "@" not in left.email
    taken = [{**account, "username": left.username}, {**account, "username": "eve", "email": left.email}]
    assert [client.post("/api/v1/auth/register", json=entry).status_code for entry in taken] == [422, 422]
    assert client.delete(path, headers=as_admin).status_code == 204


def test_password_that_changes_meanwhile_deletes_nothing(app, ada, monkeypatch):
    verify = users.passwords.verify

    def verify_slowly(*arguments):
        found = verify(*arguments)
        monkeypatch.undo()
        administration.reset_password("ada", "another passphrase")
        return found

    monkeypatch.setattr(users.passwords, "verify", verify_slowly)
    with pytest.raises(users.WrongPasswordError):
        administration.delete_own(ada.id, PASSWORD)
    assert users.find("ada").is_active


def test_tasks_of_a_deleted_account_stop_at_once(client, ada, as_ada, upload, work, analyze, monkeypatch, small_chunks):
    """Even if there is no time to erase them."""
    analyze("fine")
    upload("text\n" + "good\n" * 7, "text/csv")
    monkeypatch.setattr(service.erase, "__defaults__", (-1.0,))
    client.delete(ME, json={"current_password": PASSWORD}, headers=as_ada)
    work()
    assert db.session.scalars(select(Chunk.state).where(Chunk.state == "done")).all() == []
    assert db.session.scalars(select(Task.deleted_at)).all() != [None]
    maintenance.purge()
    assert (number_of(Task), number_of(Chunk)) == (0, 0)


def test_deletion_that_meets_another_deletion_goes_on(app, ada, analyze, monkeypatch):
    """The other one has deleted the same batch, so that this one deletes nothing."""
    for _ in range(3):
        analyze("fine")
    monkeypatch.setattr(history, "BATCH_ROWS", 2)
    delete_batch, calls = history._delete_batch, []

    def meet(is_chosen):
        calls.append(is_chosen)
        return delete_batch(is_chosen) if len(calls) > 1 else 0

    monkeypatch.setattr(history, "_delete_batch", meet)
    assert history.delete_all(ada.id, float("inf")) == (3, True)


def test_export_has_rows_that_were_never_scored(client, ada, as_ada, upload, export, fetch):
    task = upload("text,shop\nunfinished,north\n", "text/csv", "?keep=columns").json["task_id"]
    client.post(f"/api/v1/sentiment/tasks/{task}/cancel", headers=as_ada)
    (row,) = [entry for entry in export() if entry["kind"] == "unscored_row"]
    assert (row["text"], row["columns"], row["line"]) == ("unfinished", {"shop": "north"}, 2)


def test_export_has_rows_after_a_gap_of_a_running_task(client, upload, chunk_jobs, small_chunks, export):
    upload("text\n" + "".join(f"row {number}\n" for number in range(9)), "text/csv")
    for job in chunk_jobs()[1:]:  # another worker still scores the first chunk
        executor.score_chunk(UUID(job))
    found = export()
    assert [entry["index"] for entry in found if entry["kind"] == "unscored_row"] == [0, 1, 2]
    assert [entry["index"] for entry in found if entry["kind"] == "result"] == [3, 4, 5, 6, 7, 8]


def test_export_of_a_task_that_never_stops_changing_fails(client, ada, as_ada, upload, work, monkeypatch):
    upload("text\ngood\n", "text/csv")
    work()

    def change(*_, **__):
        raise service.tasks.ResultsChangedError

    monkeypatch.setattr(service.tasks, "results", change)
    with pytest.raises(service.tasks.ResultsChangedError):
        list(service.export(ada.id))


@pytest.mark.asvs("8.2.3")
def test_export_does_not_say_who_else_acted(client, ada, as_ada, admin, as_admin, export):
    other = {"environ_base": {"REMOTE_ADDR": "10.99.1.2"}}
    client.post(f"/api/v1/users/{ada.id}/password-reset", json={}, headers=as_admin, **other)
    client.application.test_cli_runner().invoke(args=["user", "promote", "ada"])
    events = [entry for entry in export() if entry["kind"] == "audit_event"]
    shown = {entry["event"]: entry for entry in events}
    assert "10.99.1.2" not in json.dumps(events)
    assert str(admin.id) not in json.dumps(events)
    assert "operator" not in shown["privilege_permissions_changed"]
    assert shown["authn_login_success"]["network"] == "127.0.0.1"
    assert shown["sensitive_read"]["actor_id"] == str(ada.id)


def test_tasks_are_marked_with_a_fixed_number_of_statements(app, ada, upload, fetch, statements):
    counts = []
    for number in (1, 6):
        for _ in range(number):
            upload("text\ngood\n", "text/csv")
        with statements() as seen:
            service.tasks.mark_all_deleted(ada.id)
        counts.append(len(seen))
    assert counts[0] == counts[1] > 0
    assert fetch().json["items"] == []


def test_export_has_ended_sessions_and_former_names(client, ada, as_ada, sign_in, export):
    client.post("/api/v1/auth/logout", headers=sign_in(ada))
    client.patch(ME, json={"current_password": PASSWORD, "username": "countess"}, headers=as_ada)
    found = export()
    assert {entry["end_reason"] for entry in found if entry["kind"] == "session"} == {None, "logout"}
    assert [entry["username"] for entry in found if entry["kind"] == "former_username"] == ["ada"]


def test_export_goes_on_if_a_task_changes_meanwhile(client, ada, as_ada, upload, work, export, monkeypatch):
    upload("text\ngood\nbad\n", "text/csv")
    work()
    results, calls = service.tasks.results, []

    def change(*arguments, **options):
        calls.append(arguments)
        found = results(*arguments, **options)

        def interrupted():
            yield next(found.rows)
            raise service.tasks.ResultsChangedError

        return found._replace(rows=interrupted()) if len(calls) == 1 else found

    monkeypatch.setattr(service.tasks, "results", change)
    assert [entry["text"] for entry in export() if entry["kind"] == "result"] == ["good", "bad"]


def test_administrator_erases_an_account(client, ada, as_ada, as_admin):
    path = f"/api/v1/users/{ada.id}"
    assert client.delete(path, headers=as_ada).status_code == 403
    assert client.delete(path, headers=as_admin).status_code == 204
    assert client.get(path, headers=as_admin).status_code == 404
    assert client.delete(path, headers=as_admin).status_code == 404


def test_command_erases_an_account(app, ada):
    runner = app.test_cli_runner()
    assert runner.invoke(args=["user", "delete", "ada"], input="n\n").exit_code == 1
    assert users.find("ada")
    done = runner.invoke(args=["user", "delete", "ada", "--yes"])
    assert (done.exit_code, done.stdout) == (0, "Deleted ada.\n")
    assert users.find("ada") is None
    assert "delete" in runner.invoke(args=["user", "--help"]).stdout


def test_deleted_account_cannot_be_changed(app, ada, monkeypatch):
    administration.delete(ada.id)
    for change in (
        lambda: administration.administer(ada.id, {"is_active": True}),
        lambda: administration.start_password_reset(ada.id, timedelta(days=1)),
        lambda: users.get(ada.id),
    ):
        with pytest.raises(users.NotFoundError):
            change()


def test_text_that_is_not_stored_is_scored(client, as_ada, analyze):
    stored, forgotten = analyze("very good"), analyze("very good", store=False)
    assert forgotten.status_code == 200
    assert forgotten.json["id"] is None
    assert forgotten.json["scores"] == stored.json["scores"]
    assert [entry["id"] for entry in client.get(HISTORY, headers=as_ada).json["items"]] == [stored.json["id"]]
    assert analyze("very good", store="no").status_code == 422


def test_history_is_deleted(client, as_ada, analyze, make_user, sign_in):
    other = sign_in(make_user("grace"))
    for headers in (as_ada, as_ada, other):
        analyze("fine", headers=headers)
    answer = client.delete(HISTORY, headers=as_ada)
    assert (answer.status_code, answer.json) == (200, {"number": 2, "is_complete": True})
    assert client.get(HISTORY, headers=as_ada).json["items"] == []
    assert len(client.get(HISTORY, headers=other).json["items"]) == 1


def test_deletion_of_a_long_history_is_continued(client, as_ada, analyze, monkeypatch):
    for _ in range(3):
        analyze("fine")
    monkeypatch.setattr(history, "BATCH_ROWS", 2)
    monkeypatch.setattr("sentiment_app.sentiment.routes.DELETE_SECONDS", -1.0)
    assert client.delete(HISTORY, headers=as_ada).json == {"number": 2, "is_complete": False}
    monkeypatch.undo()
    assert client.delete(HISTORY, headers=as_ada).json == {"number": 1, "is_complete": True}


@pytest.mark.asvs("14.2.7")
def test_history_is_kept_as_long_as_its_user_wants(client, as_ada, analyze, make_user, sign_in):
    other = sign_in(make_user("grace"))
    change = {"current_password": PASSWORD, "history_days": 30}
    assert client.patch(ME, json=change, headers=as_ada).json["history_days"] == 30
    old = history.make_id(int((datetime.now(UTC) - timedelta(days=31)).timestamp() * 1000), 7)
    for number, headers in enumerate((as_ada, other)):
        id_ = analyze("old", headers=headers).json["id"]
        moved = update(SentimentRequest).where(SentimentRequest.id == id_)
        db.session.execute(moved.values(id=history.UUID(int=old.int + number)))
    analyze("new")
    maintenance.purge()
    assert [entry["text"] for entry in client.get(HISTORY, headers=as_ada).json["items"]] == ["new"]
    assert [entry["text"] for entry in client.get(HISTORY, headers=other).json["items"]] == ["old"]
    change["history_days"] = None
    assert client.patch(ME, json=change, headers=as_ada).json["history_days"] is None
    for days in (0, -1, 36_501, 1.5, "30", True):
        assert client.patch(ME, json={**change, "history_days": days}, headers=as_ada).status_code == 422
