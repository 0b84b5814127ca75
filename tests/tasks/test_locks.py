"""Locks between two transactions on committed data. The second transaction runs in its own thread.

The first transaction makes its changes, and stays open until PostgreSQL reports that the second transaction waits for
it, or until the second transaction ends without waiting. No test measures time.
"""

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import delete, func, select, text, update

from sentiment_app.app import create_app
from sentiment_app.errors import NotFoundError
from sentiment_app.files.rows import Row
from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import REDIS
from sentiment_app.ml.runtime import Assessments
from sentiment_app.registry import promotion, releases
from sentiment_app.registry.models import ModelEvent, ModelRelease
from sentiment_app.tasks import chunks, lifecycle, quotas, reconciler, service, submission
from sentiment_app.tasks.models import Chunk, Task
from sentiment_app.users import api_keys
from sentiment_app.users import service as users
from sentiment_app.users.models import FormerUsername, User


@pytest.fixture
def committed(base_app, settings, model):
    """An application whose transactions are real. What it leaves behind is deleted."""
    app = create_app(replace(settings, max_tasks=2, max_queued_rows=10))
    with app.app_context():
        yield app
        db.session.rollback()
        db.session.execute(delete(User))
        db.session.execute(delete(FormerUsername))
        db.session.execute(delete(ModelEvent).where(ModelEvent.version != model[1]))
        db.session.execute(delete(ModelRelease).where(ModelRelease.version != model[1]))
        db.session.execute(update(ModelRelease).values(state="active"))
        db.session.commit()
        REDIS.get(app).flushdb()
        for engine_of_app in db.engines.values():
            engine_of_app.dispose()


@pytest.fixture
def user(committed):
    return users.register("ada", "ada@example.org", "a password of nobody")


@pytest.fixture
def second_waits(committed):
    """Runs a function in another transaction, which must wait for the caller's open transaction. Then the caller's
    transaction is committed. Returns the result or the error of the function."""

    @contextmanager
    def second_waits(work):
        outcome = []

        def run():
            with committed.app_context():
                try:
                    outcome.append(work())
                except Exception as error:  # noqa: BLE001  # the test looks at it
                    outcome.append(error)

        first = db.session.scalar(select(func.pg_backend_pid()))
        thread = threading.Thread(target=run)
        thread.start()
        try:
            assert is_held_back(first, thread), f"it did not wait: {outcome}"
            yield outcome
        finally:
            db.session.commit()
            thread.join()

    return second_waits


def is_held_back(first, thread):
    """Wait until a transaction waits for a backend (true), or until the thread has ended (false)."""
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE :first = ANY (pg_blocking_pids(pid))")
    with db.engine.connect() as connection:
        while thread.is_alive():
            if connection.scalar(waiting, {"first": first}):
                return True
            connection.rollback()
            time.sleep(0.01)
    return False


def upload(user, rows=1, **options):
    """Commit a task with one chunk, and return the ids of both."""
    task_id = submission.open_task(submission.Submission(user.id, **options), releases.active_version())
    add(user, task_id, rows)
    submission._close(task_id, rows, "x", None)
    lifecycle._queue_next(task_id)
    return task_id, db.session.scalar(select(Chunk.id).where(Chunk.task_id == task_id))


def add(user, task_id, rows, transaction=True):
    work = submission._add_chunk if transaction else submission._add_chunk.__wrapped__
    work(uuid4(), user.id, task_id, 0, [Row(number, None, "fine") for number in range(rows)])


def status(task_id):
    return db.session.get(Task, task_id, populate_existing=True).status


@pytest.mark.asvs("2.3.4")
def test_task_quota_counts_task_that_is_being_opened(user, second_waits):
    upload(user)
    version = releases.active_version()
    submission._open.__wrapped__(uuid4(), submission.Submission(user.id), version)
    with second_waits(lambda: submission.open_task(submission.Submission(user.id), version)) as outcome:
        pass
    assert isinstance(outcome[0], quotas.TooManyTasksError)


@pytest.mark.asvs("2.3.4")
def test_row_quota_counts_rows_that_are_being_stored(user, second_waits):
    tasks = [submission.open_task(submission.Submission(user.id), releases.active_version()) for _ in range(2)]
    add(user, tasks[0], 6, transaction=False)
    with second_waits(lambda: add(user, tasks[1], 6)) as outcome:
        pass
    assert isinstance(outcome[0], quotas.TooManyTasksError)


def test_finish_ignores_task_that_was_retried_meanwhile(user, second_waits):
    task_id, chunk_id = upload(user)
    claim = chunks.claim(chunk_id, uuid4())
    chunks.store(claim, claim.found, {"0": {"detail": "x", "retryable": True}})
    assert lifecycle._finish.__wrapped__(task_id)
    assert service._reopen.__wrapped__(db.session.get(Task, task_id))
    with second_waits(lambda: lifecycle._finish(task_id)) as outcome:
        pass
    assert (outcome, status(task_id)) == ([False], "queued")


def test_cancel_waits_for_claim_whose_worker_ends_the_task(user, second_waits):
    task_id, chunk_id = upload(user, rows=2)
    other = uuid4()
    db.session.execute(update(Task).values(status="running", started_at=func.now()))
    db.session.commit()
    claim = chunks.claim.__wrapped__(chunk_id, other)
    with second_waits(lambda: service.cancel(user.id, task_id).status) as outcome:
        pass
    assert outcome == ["cancelling"]
    chunks.store(claim, Assessments(np.full((2, 3), 1 / 3), np.ones(2), {}), {})
    assert lifecycle.finish(task_id)
    assert status(task_id) == "cancelled"


def test_bisection_locks_task_before_chunk_like_deletion(user, second_waits):
    task_id, chunk_id = upload(user, rows=2)
    claim = chunks.claim(chunk_id, uuid4())
    db.session.execute(select(Task.id).where(Task.id == task_id).with_for_update())
    with second_waits(lambda: chunks.bisect(claim)) as outcome:
        with db.engine.connect() as third:  # nothing locks the chunk
            third.execute(select(Chunk.id).where(Chunk.id == chunk_id).with_for_update(nowait=True))
        db.session.execute(delete(Task).where(Task.id == task_id))
    assert outcome == [None]


def test_reconciler_skips_chunk_that_is_being_stored(committed, user):
    _, chunk_id = upload(user)
    claim = chunks.claim(chunk_id, uuid4())
    db.session.execute(update(Chunk).values(lease_until=func.now() - timedelta(1)))
    db.session.commit()
    assert chunks.store.__wrapped__(claim, claim.found, {})
    with committed.app_context():  # another session
        assert reconciler._release_expired_leases() == []
    db.session.commit()
    assert db.session.get(Chunk, chunk_id, populate_existing=True).state == "done"


@pytest.fixture
def release(model):
    """Makes another release of the model with a macro recall of its own."""

    def release(name, macro_recall):
        manifest = json.loads(model[0].manifest) | {"version": f"20990101-{name}"}
        measured = {"texts": {"texts_sha256": "0" * 64, "macro_recall": macro_recall, "texts": 1000}}
        manifest["metrics"] = manifest["metrics"] | {"by_source": measured}
        return releases.release(model[0]._replace(manifest=json.dumps(manifest).encode()), by="tests")

    return release


def test_promotion_is_checked_against_the_model_that_is_being_activated(committed, release, second_waits):
    better, worse = release("better00", 0.9), release("worse000", 0.8)
    arguments = better, "tests", "activated", uuid4()
    promotion._activate.__wrapped__(*arguments, verified=releases.verify(better))
    with second_waits(lambda: promotion.activate(worse, by="tests")) as outcome:
        pass
    assert isinstance(outcome[0], promotion.PromotionError)
    assert releases.active_version() == better


def test_model_that_is_being_activated_cannot_be_retired(committed, release, second_waits):
    version = release("better00", 0.9)
    promotion._activate.__wrapped__(version, "tests", "activated", uuid4(), verified=releases.verify(version))
    with second_waits(lambda: promotion.retire(version, by="tests")) as outcome:
        pass
    assert isinstance(outcome[0], promotion.ModelStateError)
    assert releases.states()[version] == "active"


@pytest.mark.asvs("15.4.2")
def test_username_that_is_being_released_cannot_be_registered(committed, user, second_waits):
    users._store.__wrapped__(user.id, {"username": "eve"}, None, None, None)
    with second_waits(lambda: users.register("ADA", "new@example.org", "a password of nobody")) as outcome:
        pass
    assert isinstance(outcome[0], users.TakenError)
    assert users.find("ada") is None


@pytest.mark.asvs("2.3.4", "15.4.2")
def test_concurrent_requests_cannot_exceed_the_limit_on_api_keys(committed, user, second_waits, monkeypatch):
    monkeypatch.setattr(api_keys, "MAX_KEYS", 1)
    grant = api_keys.Grant("test", ["read"])
    api_keys._insert.__wrapped__(uuid4(), api_keys._generate(), user.id, user.password_hash, grant)
    with second_waits(lambda: api_keys.create(user, grant)) as outcome:
        pass
    assert isinstance(outcome[0], api_keys.TooManyKeysError)


def test_api_key_cannot_be_made_while_the_password_changes(committed, user, second_waits):
    verified = SimpleNamespace(id=user.id, password_hash=user.password_hash)
    users._store.__wrapped__(user.id, {"password_hash": "another"}, None, None, None)
    with second_waits(lambda: api_keys.create(verified, api_keys.Grant("test", ["read"]))) as outcome:
        pass
    assert isinstance(outcome[0], NotFoundError)
    assert api_keys.list_keys(user.id) == []


@pytest.mark.asvs("15.4.2")
def test_api_key_that_is_being_revoked_cannot_be_rotated(committed, user, second_waits):
    key_id = api_keys.create(user, api_keys.Grant("test", ["read"])).record.id
    api_keys._revoke.__wrapped__(user.id, key_id)
    with second_waits(lambda: api_keys.rotate(user, key_id, timedelta(hours=1))) as outcome:
        pass
    assert isinstance(outcome[0], NotFoundError)
    assert [key.id for key in api_keys.list_keys(user.id)] == [key_id]
