"""The progress of tasks: queued chunks, and fair turns between tasks."""

from uuid import UUID

import pytest

from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import REDIS
from sentiment_app.tasks import executor, lifecycle, submission
from sentiment_app.tasks.models import Chunk


def chunk(chunk_id):
    return db.session.get(Chunk, UUID(chunk_id), populate_existing=True)


@pytest.mark.asvs("15.4.4")
def test_tasks_take_turns(upload, lines, chunk_jobs, monkeypatch):
    monkeypatch.setattr(submission, "CHUNK_ROWS", 1)
    upload(lines(*(str(number) for number in range(50))))
    upload(lines("small"))
    jobs = chunk_jobs()
    assert len(jobs) == lifecycle.QUEUED_CHUNKS + 1
    small = jobs[-1]
    for job in jobs:
        executor.score_chunk(UUID(job))
    assert chunk(small).state == "done"
    assert len(chunk_jobs()) > lifecycle.QUEUED_CHUNKS  # each finished chunk has queued another chunk


def test_only_ids_travel_through_redis(upload, lines, app):
    upload(lines("a very private text"))
    redis = REDIS.get(app)
    for key in redis.keys("rq:*"):
        kind = redis.type(key)
        content = key + (b"".join(redis.hgetall(key).values()) if kind == b"hash" else b"")
        assert b"private" not in content


def test_queued_chunks_are_limited_by_user(upload, lines, small_chunks, chunk_jobs):
    for _ in range(4):
        upload(lines(*"abcdefghijklmnopqrstuvwxyz" * 2))
    # At its submission, a task gets QUEUED_CHUNKS divided by the number of the user's tasks: 8, 8 // 2, 8 // 3, 8 // 4.
    assert len(chunk_jobs()) == lifecycle.QUEUED_CHUNKS + 4 + 2 + 2
