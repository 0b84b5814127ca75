"""Usage: every row counts once, whatever happens to the transaction that stores it."""

import datetime as dt
import json
from uuid import uuid4

import psycopg2
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError
from usage_rows import row

from sentiment_app.infrastructure.database import db
from sentiment_app.ml.runtime import Scorer
from sentiment_app.sentiment.models import SentimentRequest
from sentiment_app.sentiment.writer import WRITER
from sentiment_app.tasks import chunks
from sentiment_app.tasks.models import Chunk
from sentiment_app.usage import service
from sentiment_app.usage.models import UsageRecord
from sentiment_app.users import api_keys

ANALYZE, USAGE = "/api/v1/sentiment/analyze", "/api/v1/users/me/usage"
BATCH, TASKS = "/api/v1/sentiment/analyze/batch", "/api/v1/sentiment/tasks"
TODAY = dt.datetime.now(dt.UTC).date().isoformat()


@pytest.fixture
def key_of(app):
    def key_of(user, **grant):
        made = api_keys.create(user, api_keys.Grant("test", ["score", "tasks", "read"], **grant))
        return made.record.id, {"Authorization": f"Bearer {made.key}"}

    return key_of


def rows_of(client, headers, query=""):
    return client.get(USAGE + query, headers=headers).json["total_rows"]


def test_rows_are_listed_by_day_key_and_model(client, ada, as_ada, key_of, model):
    key_id, with_key = key_of(ada)
    for headers in (as_ada, as_ada, with_key):
        assert client.post(ANALYZE, json={"text": "good"}, headers=headers).status_code == 200
    answer = client.get(USAGE, headers=as_ada).json
    common = {"day": TODAY, "model_version": model[1]}
    assert answer["items"] == [
        {**common, "api_key_id": None, "rows": 2},
        {**common, "api_key_id": str(key_id), "rows": 1},
    ]
    assert (answer["total_rows"], answer["quotas"]) == (3, [])


def test_text_that_is_not_stored_counts(client, as_ada):
    answer = client.post(ANALYZE, json={"text": "good", "store": False}, headers=as_ada)
    assert (answer.status_code, answer.json["id"]) == (200, None)
    assert rows_of(client, as_ada) == 1
    assert db.session.scalar(select(func.count()).select_from(SentimentRequest)) == 0


def test_refused_text_does_not_count(client, as_ada, monkeypatch):
    client.post(ANALYZE, json={"text": ""}, headers=as_ada)
    monkeypatch.setattr(Scorer, "assess_many", lambda *_: 1 / 0)
    monkeypatch.setattr(Scorer, "assess", lambda *_: 1 / 0, raising=False)
    assert client.post(ANALYZE, json={"text": "good"}, headers=as_ada).status_code == 422
    assert rows_of(client, as_ada) == 0


@pytest.mark.parametrize("store", [True, False])
def test_request_that_nginx_repeats_counts_once(make_app, as_ada, store):
    client = make_app(trusted_proxies=1).test_client()
    key = {"X-Request-Key": "1795534000.123-" + "0123456789abcdef" * 2}
    for _ in range(2):
        client.post(ANALYZE, json={"text": "x", "store": store}, headers=as_ada | key)
    assert rows_of(client, as_ada) == 1


def test_group_counts_each_row_once_although_it_is_written_twice(app, ada, make_user):
    """As after a lost answer, and with a repeated row within a group."""
    bob, same = make_user("bob"), str(uuid4())
    rows = [row(ada), row(ada), row(ada, is_stored=False), row(bob), row(ada, id=same), row(ada, id=same)]
    writer = WRITER.get()
    for _ in range(2):
        writer._insert(rows)
    counted = dict(
        db.session.execute(select(UsageRecord.user_id, func.sum(UsageRecord.rows)).group_by("user_id")).all()
    )
    assert counted == {ada.id: 4, bob.id: 1}
    assert db.session.scalar(select(func.count()).select_from(SentimentRequest)) == 4


def test_rows_of_tasks_count_when_they_are_scored(client, ada, as_ada, key_of, work):
    key_id, with_key = key_of(ada)
    client.post(BATCH, json={"texts": ["good", "bad"]}, headers=with_key)
    assert rows_of(client, as_ada) == 0
    work()
    (item,) = client.get(USAGE, headers=as_ada).json["items"]
    assert (item["rows"], item["api_key_id"]) == (2, str(key_id))


def test_retried_task_counts_only_the_rows_that_were_not_scored(client, as_ada, work, monkeypatch):
    assess_many = Scorer.assess_many

    def fail(self, texts):
        if any("trouble" in text for text in texts):
            raise ValueError
        return assess_many(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "assess_many", fail)
        task = client.post(BATCH, json={"texts": ["good", "trouble", "bad"]}, headers=as_ada).json["task_id"]
        work()
    assert rows_of(client, as_ada) == 2
    client.post(f"{TASKS}/{task}/retry", headers=as_ada)
    work()
    assert rows_of(client, as_ada) == 3


def test_chunk_that_is_stored_twice_counts_once(client, as_ada, upload, lines):
    """Its answer was lost, or another worker has taken the lease."""
    upload(lines("good", "bad"))
    (chunk_id,) = db.session.scalars(select(Chunk.id))
    claim = chunks.claim(chunk_id, uuid4())
    found = claim.found
    found.scores[:] = [0.1, 0.2, 0.7]
    found.coverage[:] = 1
    for _ in range(2):
        assert chunks.store(claim, found, {})
    assert not chunks.store(claim._replace(token=uuid4()), found, {})
    assert rows_of(client, as_ada) == 2
    db.session.execute(update(UsageRecord).values(created_at=UsageRecord.created_at - dt.timedelta(hours=1)))
    db.session.commit()
    service.add_up()
    assert chunks.store(claim, found, {})
    assert rows_of(client, as_ada) == 2


def test_bisected_chunk_counts_rows_that_were_scored_before_once(client, as_ada, upload, lines, work):
    upload(lines("good", "bad", "fine"))
    (chunk_id,) = db.session.scalars(select(Chunk.id))
    claim = chunks.claim(chunk_id, uuid4())
    claim.found.scores[0] = [0.1, 0.2, 0.7]
    service.record(uuid4(), claim.user_id, None, claim.model_version, 1)  # as its first run would
    chunks.bisect(claim)
    db.session.execute(update(Chunk).values(state="queued", token=None))
    db.session.commit()
    for half in db.session.scalars(select(Chunk.id)).all():
        work_on = chunks.claim(half, uuid4())
        missing = work_on.found.scores[:, 0] != work_on.found.scores[:, 0]
        work_on.found.scores[missing] = [0.1, 0.2, 0.7]
        assert chunks.store(work_on, work_on.found, {})
    assert rows_of(client, as_ada) == 3


def test_adding_up_changes_no_sum(client, ada, as_ada, key_of):
    _, with_key = key_of(ada)
    for headers in (as_ada, with_key, as_ada):
        client.post(ANALYZE, json={"text": "good"}, headers=headers)
    before = client.get(USAGE, headers=as_ada).json
    for _ in range(2):
        db.session.execute(update(UsageRecord).values(created_at=UsageRecord.created_at - dt.timedelta(hours=1)))
        db.session.commit()
        service.add_up()
        assert client.get(USAGE, headers=as_ada).json == before
        assert db.session.scalar(select(func.count()).where(UsageRecord.is_total)) == 2
        client.post(ANALYZE, json={"text": "good"}, headers=as_ada)
        before["items"][0]["rows"] += 1
        before["total_rows"] += 1
    assert rows_of(client, as_ada) == 5


def test_recent_records_are_not_added_up(client, as_ada):
    client.post(ANALYZE, json={"text": "good"}, headers=as_ada)
    service.add_up()
    assert db.session.scalar(select(func.count()).where(UsageRecord.is_total)) == 0


@pytest.mark.asvs("2.2.3")
@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("?since=2026-01-01&until=2025-12-31", "/since"),
        ("?since=2020-01-01", "/since"),
        ("?since=yesterday", "/since"),
        ("?until=0001-01-05", "/since"),
        ("?until=9999-12-31", "/since"),
        ("?since=0001-01-01&until=0001-01-01&x=1", "/x"),
    ],
)
def test_wrong_days_are_refused(client, as_ada, query, pointer):
    answer = client.get(USAGE + query, headers=as_ada)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, pointer)


def test_other_days_are_not_listed(client, as_ada):
    client.post(ANALYZE, json={"text": "good"}, headers=as_ada)
    assert rows_of(client, as_ada, "?since=2020-01-01&until=2020-12-31") == 0


def test_administrator_sees_usage_of_an_account(client, ada, as_ada, as_admin):
    client.post(ANALYZE, json={"text": "good"}, headers=as_ada)
    assert client.get(f"/api/v1/users/{ada.id}/usage", headers=as_admin).json["total_rows"] == 1
    assert client.get(f"/api/v1/users/{ada.id}/usage", headers=as_ada).status_code == 403
    assert client.get(f"/api/v1/users/{uuid4()}/usage", headers=as_admin).status_code == 404


@pytest.mark.asvs("16.5.3")
def test_text_is_refused_with_503_if_its_usage_cannot_be_stored(client, as_ada, monkeypatch):
    def fail(*_, **__):
        raise OperationalError("", {}, Exception())

    monkeypatch.setattr(WRITER.get(), "_insert", fail)
    answer = client.post(ANALYZE, json={"text": "good", "store": False}, headers=as_ada)
    assert answer.status_code == 503


def test_client_learns_whether_a_text_may_have_been_stored(client, as_ada, monkeypatch):
    writer = WRITER.get(client.application)
    connect = writer._connect

    def fail(*_):
        raise OperationalError("", {}, psycopg2.OperationalError("lost"))

    def kind():
        answer = client.post(ANALYZE, json={"text": "good"}, headers=as_ada)
        return answer.status_code, answer.json["type"].rpartition(":")[2]

    monkeypatch.setattr(writer, "_connect", fail)
    assert kind() == (503, "unavailable")
    monkeypatch.setattr(writer, "_connect", connect)
    monkeypatch.setattr(writer, "_execute", fail)
    assert kind() == (503, "outcome-unknown")


def test_key_that_may_only_score_sees_no_usage(client, ada, as_ada):
    made = api_keys.create(ada, api_keys.Grant("test", ["score", "tasks"]))
    assert client.get(USAGE, headers={"Authorization": f"Bearer {made.key}"}).status_code == 403


def test_command_refuses_wrong_days(app, ada):
    done = app.test_cli_runner().invoke(args=["user", "usage", "ada", "--until", "0001-01-05"])
    assert (done.exit_code, "since" in done.output, "Traceback" in done.output) == (1, True, False)


def test_command_shows_usage(app, client, as_ada):
    client.post(ANALYZE, json={"text": "good"}, headers=as_ada)
    flask = app.test_cli_runner()
    assert TODAY in flask.invoke(args=["user", "usage", "ada"]).output
    (item,) = json.loads(flask.invoke(args=["user", "usage", "ada", "--json"]).output)
    assert (item["day"], item["rows"]) == (TODAY, 1)
