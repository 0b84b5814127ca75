"""Quotas: limits on the rows of a day or a month, by account and by API key."""

import datetime as dt
import json
from uuid import UUID, uuid4

import psycopg2
import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import OperationalError
from usage_rows import row

from sentiment_app.files.rows import Row
from sentiment_app.infrastructure.database import db
from sentiment_app.ml.runtime import Scorer
from sentiment_app.sentiment.models import SentimentRequest
from sentiment_app.sentiment.writer import WRITER
from sentiment_app.tasks import chunks, lifecycle, submission
from sentiment_app.tasks.models import Chunk, Task
from sentiment_app.usage import counters as quota_counters
from sentiment_app.usage import quotas
from sentiment_app.usage.models import QuotaCounter, UsageRecord
from sentiment_app.users import administration, api_keys
from sentiment_app.users.models import User

ANALYZE, USAGE, ME = "/api/v1/sentiment/analyze", "/api/v1/users/me/usage", "/api/v1/users/me"
BATCH, TASKS = "/api/v1/sentiment/analyze/batch", "/api/v1/sentiment/tasks"


@pytest.fixture
def limited(make_app):
    """A client of an application of its own, with quotas."""

    def limited(**settings):
        return make_app(release=str(uuid4()), **settings).test_client()

    return limited


def score(client, headers, count=1):
    return [client.post(ANALYZE, json={"text": "good"}, headers=headers).status_code for _ in range(count)]


def submit(client, headers, count):
    return client.post(BATCH, json={"texts": ["good"] * count}, headers=headers)


def used(client, headers):
    return {entry["period"]: entry["used"] for entry in client.get(USAGE, headers=headers).json["quotas"]}


@pytest.mark.asvs("2.3.2", "2.4.1")
@pytest.mark.parametrize("period", ["day", "month"])
def test_quota_of_the_service_limits_single_texts(limited, as_ada, period):
    client = limited(**{f"rows_per_{period}": 2})
    assert score(client, as_ada, 4) == [200, 200, 429, 429]
    answer = client.post(ANALYZE, json={"text": "good"}, headers=as_ada)
    assert answer.json["type"] == "urn:sentiment-app:problem:quota-exceeded"
    assert f"2 rows in a {period}" in answer.json["detail"]
    resets_at = dt.datetime.fromisoformat(client.get(USAGE, headers=as_ada).json["quotas"][0]["resets_at"])
    left = (resets_at - dt.datetime.now(dt.UTC)).total_seconds()
    assert abs(int(answer.headers["Retry-After"]) - left) < 60
    assert used(client, as_ada) == {period: 2}


def test_headers_report_the_quota(limited, as_ada):
    client = limited(rows_per_day=3)
    answer = client.post(ANALYZE, json={"text": "good"}, headers=as_ada)
    assert answer.headers["RateLimit-Policy"] == '"rows-per-day";q=3;w=86400'
    assert answer.headers["RateLimit"].startswith('"rows-per-day";r=2;t=')


def test_own_limit_of_an_account_replaces_the_limit_of_the_service(limited, ada, as_ada):
    administration.administer(ada.id, {"rows_per_day": 3})
    assert score(limited(rows_per_day=1), as_ada, 4) == [200, 200, 200, 429]
    administration.administer(ada.id, {"rows_per_day": 0})
    assert score(limited(rows_per_day=1), as_ada, 2) == [200, 200]
    administration.administer(ada.id, {"rows_per_day": None})
    assert score(limited(rows_per_day=1), as_ada) == [429]


def test_account_may_have_a_quota_although_the_service_has_none(limited, ada, as_ada, make_user, sign_in):
    administration.administer(ada.id, {"rows_per_month": 1})
    client = limited()
    assert score(client, as_ada, 2) == [200, 429]
    assert score(client, sign_in(make_user("bob")), 2) == [200, 200]


def test_quota_of_a_key_does_not_limit_its_user(limited, ada, as_ada):
    made = api_keys.create(ada, api_keys.Grant("test", ["score", "read"], rows_per_day=1))
    client, with_key = limited(), {"Authorization": f"Bearer {made.key}"}
    assert score(client, with_key, 2) == [200, 429]
    assert "This API key may score 1 rows" in client.post(ANALYZE, json={"text": "x"}, headers=with_key).json["detail"]
    assert score(client, as_ada) == [200]
    (quota,) = client.get(USAGE, headers=with_key).json["quotas"]
    assert (quota["api_key_id"], quota["used"]) == (str(made.record.id), 1)


def test_rotated_key_keeps_its_limit(app, ada):
    made = api_keys.create(ada, api_keys.Grant("test", ["score"], rows_per_day=7, rows_per_month=8))
    rotated = api_keys.rotate(ada, made.record.id, dt.timedelta(0))
    assert (rotated.record.rows_per_day, rotated.record.rows_per_month) == (7, 8)


def test_rows_that_fail_do_not_use_up_the_quota(limited, as_ada, monkeypatch):
    client = limited(rows_per_day=1)
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "assess_many", lambda *_: 1 / 0)
        patch.setattr(Scorer, "assess", lambda *_: 1 / 0, raising=False)
        assert score(client, as_ada) == [422]
    assert used(client, as_ada) == {"day": 0}
    assert score(client, as_ada, 2) == [200, 429]


def test_tasks_share_the_quota_with_single_texts(limited, ada, as_ada, work):
    administration.administer(ada.id, {"rows_per_day": 5})
    client = limited()
    assert score(client, as_ada) == [200]
    assert submit(client, as_ada, 5).status_code == 429
    assert submit(client, as_ada, 3).status_code == 202
    # The rows of the task wait, and have their place.
    assert score(client, as_ada, 2) == [200, 429]
    assert submit(client, as_ada, 1).status_code == 429
    assert used(client, as_ada) == {"day": 2}
    work()
    assert used(client, as_ada) == {"day": 5}
    assert score(client, as_ada) == [429]


@pytest.mark.asvs("2.3.3")
def test_refused_task_leaves_nothing(limited, as_ada, small_chunks):
    client = limited(rows_per_day=5)
    assert score(client, as_ada) == [200]
    assert submit(client, as_ada, 5).status_code == 429  # the second chunk does not fit
    assert db.session.scalar(select(func.count()).select_from(Task).where(Task.deleted_at.is_(None))) == 0
    assert submit(client, as_ada, 4).status_code == 202


def test_cancelled_rows_are_free_again(limited, as_ada):
    client = limited(rows_per_day=5)
    task = submit(client, as_ada, 5).json["task_id"]
    assert client.post(f"{TASKS}/{task}/cancel", headers=as_ada).status_code == 200
    assert submit(client, as_ada, 5).status_code == 202


def test_retry_needs_room(limited, as_ada, work, monkeypatch):
    client = limited(rows_per_day=2)
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "assess_many", lambda *_: 1 / 0)
        task = submit(client, as_ada, 2).json["task_id"]
        work()
    assert score(client, as_ada) == [200]
    assert client.post(f"{TASKS}/{task}/retry", headers=as_ada).status_code == 429
    assert client.get(f"{TASKS}/{task}", headers=as_ada).json["status"] == "completed"


def test_new_quota_begins_with_the_rows_of_the_period(limited, ada, as_ada):
    client = limited()
    assert score(client, as_ada, 2) == [200, 200]
    administration.administer(ada.id, {"rows_per_day": 3})
    assert score(limited(), as_ada, 2) == [200, 429]


def test_next_period_begins_at_zero(limited, as_ada):
    client = limited(rows_per_day=1)
    assert score(client, as_ada, 2) == [200, 429]
    db.session.execute(update(QuotaCounter).values(starts_on=QuotaCounter.starts_on - 1))
    db.session.execute(update(UsageRecord).values(day=UsageRecord.day - 1))
    db.session.commit()
    assert score(client, as_ada, 2) == [200, 429]


def counters():
    return dict(db.session.execute(select(QuotaCounter.period, QuotaCounter.rows)).all())


def test_task_that_runs_into_the_next_day_counts_once(limited, ada, as_ada, work):
    """The first rows of a day are those of a task, and no counter exists."""
    administration.administer(ada.id, {"rows_per_day": 10})
    client = limited()
    submit(client, as_ada, 4)
    db.session.execute(delete(QuotaCounter))
    db.session.commit()
    work()
    assert used(client, as_ada) == {"day": 4}
    assert score(client, as_ada, 7) == [200] * 6 + [429]
    assert counters() == {"day": 10}


def test_quota_that_was_off_meanwhile_knows_all_rows(limited, ada, as_ada):
    for limit, count, statuses in ((3, 4, [200, 200, 200, 429]), (0, 5, [200] * 5), (10, 3, [200, 200, 429])):
        administration.administer(ada.id, {"rows_per_day": limit})
        assert score(limited(), as_ada, count) == statuses


def test_process_that_does_not_know_a_quota_counts_its_rows(limited, ada, as_ada):
    stale = limited()
    assert score(stale, as_ada) == [200]
    administration.administer(ada.id, {"rows_per_day": 5})
    assert score(limited(), as_ada) == [200]
    assert score(stale, as_ada, 2) == [200, 200]
    assert counters() == {"day": 4}
    assert score(limited(), as_ada, 2) == [200, 429]


def test_lost_answer_of_a_commit_counts_once(limited, as_ada, monkeypatch):
    """Also if the row has used up the quota, so that its repetition seems to exceed it."""
    client = limited(rows_per_day=1)
    writer = WRITER.get(client.application)
    insert, failures = writer._insert, [OperationalError("", {}, psycopg2.OperationalError())]

    def lose_answer(rows, *_):
        outcomes = insert(rows)
        if failures:
            raise failures.pop()
        return outcomes

    monkeypatch.setattr(writer, "_insert", lose_answer)
    assert score(client, as_ada, 2) == [200, 429]
    assert counters() == {"day": 1}


@pytest.mark.parametrize("store", [True, False])
def test_request_that_nginx_repeats_uses_the_quota_once(limited, as_ada, store):
    client = limited(rows_per_day=1, trusted_proxies=1)
    key = {"X-Request-Key": "1795534000.123-" + "0123456789abcdef" * 2}
    body = {"text": "x", "store": store}
    assert [client.post(ANALYZE, json=body, headers=as_ada | key).status_code for _ in range(3)] == [200] * 3
    assert counters() == {"day": 1}


def test_group_refuses_only_the_rows_without_room(limited, ada, make_user):
    """Rows of several users, with and without quotas, share a transaction."""
    client, bob = limited(rows_per_day=2), make_user("bob")
    with client.application.app_context():
        quotas_of = {user.id: [quotas.Quota(user.id, "day", 2)] for user in (ada, bob)}
        rows = [row(ada, quotas=quotas_of[ada.id]) for _ in range(3)] + [
            row(bob, quotas=quotas_of[bob.id]),
            row(bob, quotas=[]),
        ]
        outcomes = WRITER.get()._insert(rows)
    refused = [isinstance(outcome, quotas.QuotaExceededError) for outcome in outcomes]
    assert refused == [False, False, True, False, False]
    counted = select(UsageRecord.user_id, func.sum(UsageRecord.rows)).group_by(UsageRecord.user_id)
    for statement in (counted, select(QuotaCounter.user_id, QuotaCounter.rows)):
        assert dict(db.session.execute(statement).all()) == {ada.id: 2, bob.id: 2}


def test_request_that_is_twice_in_a_group_is_stored_once(limited, ada):
    with limited(rows_per_day=1).application.app_context():
        twice = row(ada, quotas=[quotas.Quota(ada.id, "day", 1)])
        outcomes = WRITER.get()._insert([twice, row(ada, quotas=[quotas.Quota(ada.id, "day", 2)]), {**twice}])
    assert [isinstance(outcome, quotas.QuotaExceededError) for outcome in outcomes] == [False, False, False]
    assert db.session.scalar(select(func.count()).select_from(SentimentRequest)) == 2
    assert counters() == {"day": 2}


def test_wrong_counter_is_corrected(limited, as_ada):
    client = limited(rows_per_day=5, rows_per_month=5)
    score(client, as_ada, 2)
    long_ago = QuotaCounter.corrected_at - dt.timedelta(minutes=2)
    db.session.execute(update(QuotaCounter).values(rows=99, corrected_at=long_ago))
    db.session.commit()
    quota_counters.correct()
    assert counters() == {"day": 2, "month": 2}
    db.session.execute(update(QuotaCounter).values(rows=99))
    db.session.commit()
    quota_counters.correct()  # not again within a minute
    assert counters() == {"day": 99, "month": 99}


def test_new_counter_is_corrected_at_once(limited, as_ada):
    """A transaction that stored scores while the counter was created has not seen it."""
    score(limited(rows_per_day=5), as_ada, 2)
    db.session.execute(update(QuotaCounter).values(rows=1))
    db.session.commit()
    quota_counters.correct()
    assert counters() == {"day": 2}


def test_all_counters_are_corrected(limited, ada, as_ada, monkeypatch):
    monkeypatch.setattr(quota_counters, "CORRECTED_TOGETHER", 1)
    score(limited(rows_per_day=5, rows_per_month=5), as_ada, 2)
    db.session.execute(update(QuotaCounter).values(rows=99))
    db.session.commit()
    quota_counters.correct()
    assert counters() == {"day": 2, "month": 2}


def test_counters_of_all_users_of_a_group_are_locked_before_it_is_stored(limited, ada, make_user, statements):
    """Also a counter whose quota this process does not know: it is raised, and must not be locked later."""
    with limited().application.app_context():
        bob = make_user("bob")
        administration.administer(bob.id, {"rows_per_day": 9})
        quotas.prepare(bob.id, None)
        with statements() as seen:
            WRITER.get()._insert([row(ada, quotas=[quotas.Quota(ada.id, "day", 2)]), row(bob, quotas=[])])
    locking = [statement for statement in seen if "FOR UPDATE" in statement or "EXECUTE" in statement]
    assert ["EXECUTE" in statement for statement in locking] == [False, True]
    assert dict(db.session.execute(select(QuotaCounter.user_id, QuotaCounter.rows)).all()) == {ada.id: 1, bob.id: 1}


def test_running_chunk_of_a_failed_task_keeps_its_place(limited, ada, as_ada):
    administration.administer(ada.id, {"rows_per_day": 5})
    client = limited()
    task = submit(client, as_ada, 5).json["task_id"]
    (chunk_id,) = db.session.scalars(select(Chunk.id))
    claim = chunks.claim(chunk_id, uuid4())
    lifecycle.fail(UUID(task), "the model is gone")
    assert score(client, as_ada) == [429]
    claim.found.scores[:] = [0.1, 0.2, 0.7]
    assert chunks.store(claim, claim.found, {})
    assert (used(client, as_ada), score(client, as_ada)) == ({"day": 5}, [429])


def test_missing_prepared_statement_is_prepared_again(client, as_ada):
    assert score(client, as_ada) == [200]
    db.session.execute(text("SELECT 1"))
    db.session.connection().exec_driver_sql("DEALLOCATE ALL")
    assert score(client, as_ada) == [200]


def test_counters_are_deleted_with_their_account(limited, ada, as_ada):
    score(limited(rows_per_day=5), as_ada)
    quota_counters.delete_all_of(ada.id)
    assert counters() == {}


def test_deleted_account_is_refused_with_401(limited, ada, as_ada):
    client = limited(rows_per_day=5)
    db.session.execute(delete(User).where(User.id == ada.id))
    db.session.commit()
    assert score(client, as_ada) == [401]
    assert submit(client, as_ada, 2).status_code == 401
    assert client.get(USAGE, headers=as_ada).status_code == 200


def test_task_larger_than_the_quota_is_too_large(limited, as_ada):
    answer = submit(limited(rows_per_day=5), as_ada, 6)
    assert (answer.status_code, "Retry-After" in answer.headers) == (413, False)
    assert "5 rows in a day" in answer.json["detail"]


def test_rows_of_a_refused_upload_are_not_scored(limited, ada, as_ada, small_chunks, work, chunk_jobs):
    administration.administer(ada.id, {"rows_per_day": 8})
    client = limited()
    assert score(client, as_ada) == [200]
    assert submit(client, as_ada, 8).status_code == 429
    assert chunk_jobs() == []
    assert submit(client, as_ada, 7).status_code == 202
    work()
    assert used(client, as_ada) == {"day": 8}


def test_quota_that_is_set_during_an_upload_counts_what_was_used(limited, ada, small_chunks):
    client = limited()
    with client.application.app_context():
        writer = WRITER.get()
        writer._insert([row(ada) for _ in range(5)])

        def rows():
            for line in range(1, 11):
                if line == 5:
                    administration.administer(ada.id, {"rows_per_day": 12})
                yield Row(line, None, "good")

        with pytest.raises(quotas.QuotaExceededError):
            submission.submit(submission.Submission(ada.id), rows(), lambda: "")
    assert db.session.scalar(select(func.count()).select_from(Task)) == 0


def test_missing_counter_is_counted_and_not_zero(limited, ada):
    """A period begins, or a quota is set, between the creation of the counter and its use."""
    with limited().application.app_context():
        WRITER.get()._insert([row(ada) for _ in range(3)])
        assert counters() == {}
        limit = [quotas.Quota(ada.id, "day", 3)]
        assert isinstance(quotas.refuse_excess(db.session, [row(ada, quotas=limit)])[0], quotas.QuotaExceededError)


def test_rows_that_only_wait_are_worth_a_retry_soon(limited, ada, as_ada):
    client = limited(rows_per_month=10)
    assert submit(client, as_ada, 10).status_code == 202
    answer = client.post(ANALYZE, json={"text": "good"}, headers=as_ada)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "60")
    assert "Retry in a minute" in answer.json["detail"]


def test_retry_after_is_the_time_of_the_quota_that_begins_anew_last(limited, as_ada):
    client = limited(rows_per_day=1, rows_per_month=1)
    assert score(client, as_ada) == [200]
    answer = client.post(ANALYZE, json={"text": "good"}, headers=as_ada)
    assert "1 rows in a month" in answer.json["detail"]


def test_repeated_request_takes_no_place_from_another_request_of_its_group(limited, ada):
    with limited().application.app_context():
        limit = [quotas.Quota(ada.id, "day", 2)]
        repeated, new = row(ada, quotas=limit), row(ada, quotas=limit)
        WRITER.get()._insert([repeated])
        outcomes = WRITER.get()._insert([repeated, new])
        assert not any(isinstance(outcome, Exception) for outcome in outcomes)
    assert counters() == {"day": 2}


def test_quota_of_a_key_is_known_at_once(limited, ada):
    client = limited()
    for _ in range(2):
        made = api_keys.create(ada, api_keys.Grant("test", ["score"], rows_per_month=1))
        assert score(client, {"Authorization": f"Bearer {made.key}"}, 2) == [200, 429]


def test_reading_usage_creates_no_counter(limited, as_ada):
    assert used(limited(rows_per_day=5), as_ada) == {"day": 0}
    assert counters() == {}


def test_counters_of_past_periods_are_deleted(limited, as_ada):
    client = limited(rows_per_day=5, rows_per_month=5)
    score(client, as_ada)
    db.session.execute(
        update(QuotaCounter).where(QuotaCounter.period == "day").values(starts_on=QuotaCounter.starts_on - 90)
    )
    db.session.commit()
    assert quota_counters.delete_expired() == 1
    assert db.session.scalars(select(QuotaCounter.period)).all() == ["month"]


@pytest.mark.asvs("8.2.3")
def test_users_do_not_set_their_own_quota(client, as_ada):
    answer = client.patch(ME, json={"rows_per_day": 0, "current_password": "x"}, headers=as_ada)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/rows_per_day")


@pytest.mark.asvs("15.3.5")
@pytest.mark.parametrize("value", [-1, 1.5, "3", True, 10**13, float("inf")])
def test_wrong_quotas_are_refused(client, ada, as_admin, value):
    body = json.dumps({"rows_per_day": value})
    answer = client.patch(f"/api/v1/users/{ada.id}", data=body, content_type="application/json", headers=as_admin)
    assert answer.status_code in (400, 422)


def test_administrator_sets_a_quota(client, ada, as_admin):
    answer = client.patch(f"/api/v1/users/{ada.id}", json={"rows_per_day": 7}, headers=as_admin)
    assert (answer.json["rows_per_day"], answer.json["rows_per_month"]) == (7, None)
    assert client.patch(f"/api/v1/users/{ada.id}", json={}, headers=as_admin).status_code == 422


def test_administrator_may_limit_the_own_account(client, admin, as_admin):
    answer = client.patch(f"/api/v1/users/{admin.id}", json={"rows_per_day": 0}, headers=as_admin)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--rows-per-day", "100000"], 0, "ada: rows per day: 100,000"),
        (["--rows-per-month", "0"], 0, "ada: rows per month: no limit"),
        (["--rows-per-day", "default"], 0, "ada: rows per day: the setting"),
        (["--rows-per-day", "-1"], 2, "neither a number"),
        (["--rows-per-day", "\u0663"], 2, "neither a number"),
        (["--rows-per-day", "9" * 5000], 2, "neither a number"),
        ([], 2, "Give --rows-per-day"),
    ],
)
def test_command_sets_a_quota(app, ada, arguments, status, said):
    done = app.test_cli_runner().invoke(args=["user", "set-quota", "ada", *arguments])
    assert (done.exit_code, said in done.output) == (status, True), done.output


@pytest.mark.parametrize(
    ("now", "period", "expected"),
    [
        ("2026-12-31T23:59:59", "day", "2027-01-01"),
        ("2026-12-31T23:59:59", "month", "2027-01-01"),
        ("2028-02-01T00:00:00", "month", "2028-03-01"),
        ("2028-01-31T12:00:00", "month", "2028-02-01"),
    ],
)
def test_periods_end_at_midnight_in_utc(monkeypatch, now, period, expected):
    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return dt.datetime.fromisoformat(now).replace(tzinfo=tz)

    monkeypatch.setattr(quotas.dt, "datetime", Clock)
    assert quotas.next_start(period).date().isoformat() == expected
