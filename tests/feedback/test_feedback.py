"""Feedback: the right labels that users give to texts."""

import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from harness import PASSWORD
from sqlalchemy import update

from sentiment_app.audit.models import AuditEvent
from sentiment_app.errors import InvalidTokenError
from sentiment_app.feedback import service
from sentiment_app.feedback.models import Feedback
from sentiment_app.infrastructure.database import db
from sentiment_app.users import administration

URL = "/api/v1/sentiment/feedback"
ANALYZE = "/api/v1/sentiment/analyze"


@pytest.fixture
def give(client, as_ada):
    """Sends feedback, and returns the answer."""
    return lambda headers=as_ada, **body: client.post(URL, json=body, headers=headers)


def texts_and_labels(client, headers, query=""):
    return [(entry["text"], entry["label"]) for entry in client.get(URL + query, headers=headers).json["items"]]


def test_label_of_a_text_is_stored(client, as_ada, give):
    answer = give(text="It works.", label="positive")
    assert answer.status_code == 200
    assert set(answer.json) == {"id", "text", "label", "created_at", "updated_at"}
    assert client.get(URL, headers=as_ada).json == {"items": [answer.json], "next_cursor": None}


def test_label_of_a_text_of_the_history_is_stored(client, as_ada, give):
    scored = client.post(ANALYZE, json={"text": "It works."}, headers=as_ada).json
    assert give(request_id=scored["id"], label="neutral").json["text"] == "It works."
    client.delete("/api/v1/sentiment/history", headers=as_ada)
    assert texts_and_labels(client, as_ada) == [("It works.", "neutral")]


def test_new_label_replaces_the_old_label(client, as_ada, give):
    first = give(text="caf\u00e9", label="positive").json
    assert give(text="cafe\u0301", label="positive").json == first  # the same text in another normalisation form
    second = give(text="caf\u00e9", label="negative").json
    assert (second["id"], second["created_at"]) == (first["id"], first["created_at"])
    assert texts_and_labels(client, as_ada) == [("caf\u00e9", "negative")]


def test_users_give_labels_to_the_same_text(client, as_ada, give, make_user, sign_in):
    as_bob = sign_in(make_user("bob"))
    give(text="It works.", label="positive")
    made = give(as_bob, text="It works.", label="negative").json
    assert texts_and_labels(client, as_ada) == [("It works.", "positive")]
    assert texts_and_labels(client, as_bob) == [("It works.", "negative")]
    assert client.delete(f"{URL}/{made['id']}", headers=as_ada).status_code == 404
    assert client.delete(f"{URL}/{made['id']}", headers=as_bob).status_code == 204


def test_feedback_is_listed_in_pages(client, as_ada, give):
    for text in "abc":
        give(text=text, label="neutral")
    first = client.get(f"{URL}?limit=2", headers=as_ada).json
    second = client.get(f"{URL}?limit=2&cursor={first['next_cursor']}", headers=as_ada).json
    assert [entry["text"] for entry in first["items"] + second["items"]] == ["c", "b", "a"]
    assert second["next_cursor"] is None


def test_deleted_feedback_is_gone(client, as_ada, give):
    path = f"{URL}/{give(text='It works.', label='positive').json['id']}"
    assert client.delete(path, headers=as_ada).status_code == 204
    assert client.delete(path, headers=as_ada).status_code == 404
    assert texts_and_labels(client, as_ada) == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/label"),
        ({"label": "positive"}, "/text"),
        ({"text": "x"}, "/label"),
        ({"text": "x", "label": "happy"}, "/label"),
        ({"text": "x", "label": None}, "/label"),
        ({"text": "x", "label": ["positive"]}, "/label"),
        ({"text": "", "label": "positive"}, "/text"),
        ({"text": "\0", "label": "positive"}, "/text"),
        ({"text": "\ud800", "label": "positive"}, "/text"),
        ({"text": "x" * 20_001, "label": "positive"}, "/text"),
        ({"text": None, "label": "positive"}, "/text"),
        ({"text": "x", "request_id": str(uuid4()), "label": "positive"}, "/text"),
        ({"request_id": "x", "label": "positive"}, "/request_id"),
        ({"request_id": str(uuid4()), "label": "positive"}, "/request_id"),
        ({"text": "x", "label": "positive", "user_id": str(uuid4())}, "/user_id"),
    ],
)
def test_invalid_feedback_is_refused_with_a_pointer(give, body, pointer):
    answer = give(**body)
    assert (answer.status_code, answer.mimetype) == (422, "application/problem+json")
    assert pointer in [error["pointer"] for error in answer.json["errors"]]


def test_text_of_another_history_is_refused(client, as_ada, give, make_user, sign_in):
    as_bob = sign_in(make_user("bob"))
    scored = client.post(ANALYZE, json={"text": "a text of Bob"}, headers=as_bob).json
    answer = give(request_id=scored["id"], label="neutral")
    assert (answer.status_code, "Bob" in answer.text) == (422, False)


def test_account_has_a_limit(client, as_ada, give, monkeypatch):
    monkeypatch.setattr(service, "MAX_TEXTS", 2)
    assert [give(text=text, label="neutral").status_code for text in "aabc"] == [200, 200, 200, 409]
    assert give(text="a", label="positive").status_code == 200
    assert texts_and_labels(client, as_ada) == [("b", "neutral"), ("a", "positive")]


def test_deleted_account_gives_no_feedback(ada):
    administration.delete(ada.id)
    with pytest.raises(InvalidTokenError):
        service.store(ada.id, "neutral", text="late")


def test_feedback_is_deleted_in_batches(ada, monkeypatch):
    for text in "abcde":
        service.store(ada.id, "neutral", text=text)
    monkeypatch.setattr(service, "BATCH_ROWS", 2)
    assert not service.delete_all(ada.id, time.monotonic() - 1)
    assert service.count(ada.id) == 3
    assert service.delete_all(ada.id, time.monotonic() + 60)
    assert service.count(ada.id) == 0


def test_feedback_of_all_accounts_is_read_and_audited(ada, make_user, monkeypatch):
    monkeypatch.setattr(service, "BATCH_ROWS", 2)
    bob, gone = make_user("bob"), make_user("gone")
    for user, text in ((ada, "first"), (bob, "second"), (gone, "erased soon"), (ada, "third")):
        service.store(user.id, "neutral", text=text)
    administration.delete(gone.id)
    changed = update(Feedback).where(Feedback.text == "first")
    db.session.execute(changed.values(updated_at=datetime.now(UTC) + timedelta(hours=1)))
    assert list(service.read_all()) == [("first", "neutral"), ("third", "neutral"), ("second", "neutral")]
    (entry,) = db.session.query(AuditEvent).filter_by(event="sensitive_read")
    assert (entry.account_id, entry.detail) == (None, "feedback of all accounts")


def test_label_that_changes_while_feedback_is_read_is_not_missed(ada, monkeypatch):
    monkeypatch.setattr(service, "BATCH_ROWS", 2)
    for text in "abcde":
        service.store(ada.id, "neutral", text=text)
    found = service.read_all()
    read = [next(found)]
    service.store(ada.id, "positive", text="a")
    read += found
    assert sorted(text for text, _ in read) == list("abcde")


def test_feedback_of_deactivated_accounts_is_not_read(ada, make_user):
    bob = make_user("bob")
    service.store(ada.id, "neutral", text="kept")
    service.store(bob.id, "neutral", text="left out")
    administration.administer(bob.id, {"is_active": False})
    assert list(service.read_all()) == [("kept", "neutral")]


@pytest.mark.parametrize(("scopes", "status"), [(["score"], 403), (["score", "read"], 200)])
def test_key_names_entries_of_the_history_only_with_the_scope_read(client, as_ada, scopes, status):
    scored = client.post(ANALYZE, json={"text": "It works."}, headers=as_ada).json
    body = {"current_password": PASSWORD, "name": "key", "scopes": scopes}
    key = client.post("/api/v1/users/me/api-keys", json=body, headers=as_ada).json["key"]
    given = {"request_id": scored["id"], "label": "neutral"}
    answer = client.post(URL, json=given, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == status
    assert ("It works." in answer.text) == (status == 200)
