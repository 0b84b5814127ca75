"""Jobs, through a real queue and a real worker."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from sentiment_app.auth import jobs
from sentiment_app.extensions import db, enqueue, queue
from sentiment_app.users.models import Session
from sentiment_app.worker import Worker


@pytest.fixture
def work(app):
    """Runs all that is queued."""

    return lambda: Worker(app, app.extensions["redis"]).work(burst=True, logging_level="WARNING")


def add_session(user, expires):
    session = Session(id=uuid4(), user_id=user.id, refresh_jti=uuid4(), expires_at=datetime.now(UTC) + expires)
    db.session.add(session)
    db.session.commit()
    return session.id


def test_a_sign_in_has_expired_sessions_deleted(ada, as_ada, work):
    expired = add_session(ada, timedelta(days=-1))
    alive = add_session(ada, timedelta(days=1))
    assert queue().count == 1
    work()
    assert queue().count == 0
    kept = {one.id for one in db.session.query(Session)}
    assert alive in kept
    assert expired not in kept


def test_a_job_that_runs_twice_does_no_harm(ada):
    add_session(ada, timedelta(days=-1))
    assert jobs.forget_expired_sessions(str(ada.id)) == 1
    assert jobs.forget_expired_sessions(str(ada.id)) == 0


def test_only_ids_travel(ada, as_ada):
    (job,) = queue().jobs
    assert (list(job.args), job.description) == ([str(ada.id)], "forget_expired_sessions")
    assert b"pickle" not in b"".join(value for value in queue().connection.hgetall(job.key).values())


def test_without_redis_a_job_is_not_enqueued_and_nothing_fails(make_app):
    with make_app(redis_url="unix:///nowhere").app_context():
        assert enqueue(jobs.forget_expired_sessions, "x") is False
