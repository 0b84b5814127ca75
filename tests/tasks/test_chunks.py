"""Chunks: claims, leases, stored results and bisection."""

import json
from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import func, select, update

from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import queue
from sentiment_app.tasks import chunks, executor, lifecycle, reconciler
from sentiment_app.tasks.models import Chunk, Task
from sentiment_app.tasks.quotas import count_pending


def chunk(chunk_id):
    return db.session.get(Chunk, UUID(chunk_id), populate_existing=True)


def expire_leases():
    db.session.execute(update(Chunk).where(Chunk.state == "running").values(lease_until=func.now() - timedelta(1)))


def outcome(fetch, task):
    rows = [json.loads(line) for line in fetch(f"/{task}/results", Accept="application/x-ndjson").text.splitlines()]
    return [(row["index"], row.get("sentiment"), row.get("error")) for row in rows]


def test_chunk_is_claimed_once(upload, lines, chunk_jobs):
    upload(lines("a"))
    (chunk_id,) = chunk_jobs()
    assert chunks.claim(UUID(chunk_id), uuid4()) is not None
    assert chunks.claim(UUID(chunk_id), uuid4()) is None


def test_worker_with_lost_lease_cannot_store(upload, lines, chunk_jobs):
    upload(lines("a"))
    (chunk_id,) = chunk_jobs()
    late = chunks.claim(UUID(chunk_id), uuid4())
    expire_leases()
    assert chunks.claim(UUID(chunk_id), uuid4()) is not None
    assert chunks.store(late, late.found, {}) is False
    assert chunk(chunk_id).state == "running"


def test_repeated_claim_counts_one_attempt(upload, lines, chunk_jobs):
    upload(lines("a"))
    (chunk_id,) = chunk_jobs()
    token = uuid4()
    assert [chunks.claim(UUID(chunk_id), token).attempts for _ in range(2)] == [1, 1]


def test_chunk_that_crashes_workers_is_bisected(upload, lines, chunk_jobs, fetch):
    """A worker that crashes leaves a claim whose lease expires."""
    task = upload(lines("good one", "bad one", "POISON", "fine", "great")).json["task_id"]
    deaths = 0
    for _ in range(60):
        reconciler.reconcile()
        for job in db.session.scalars(select(Chunk.id).where(Chunk.state == "queued")).all():
            texts = chunks.unpack(chunk(str(job)).texts)
            if "POISON" in texts and chunk(str(job)).attempts < chunks.MAX_ATTEMPTS:
                chunks.claim(job, uuid4())
                expire_leases()
                deaths += 1
            else:
                executor.score_chunk(job)
    assert fetch(f"/{task}").json["request_counts"] == {"total": 5, "completed": 4, "failed": 1}
    rows = outcome(fetch, task)
    assert [index for index, _, _ in rows] == [0, 1, 2, 3, 4]
    assert rows[2] == (2, None, chunks.POISON_TEXT)
    assert all(sentiment for index, sentiment, _ in rows if index != 2)
    assert deaths <= 2 * chunks.MAX_ATTEMPTS + 3  # for the whole, for each halving, and for the row alone


def test_scored_rows_of_a_bisected_chunk_do_not_wait(upload, lines, chunk_jobs, ada):
    upload(lines(*"abcd"))
    (chunk_id,) = chunk_jobs()
    claim = chunks.claim(UUID(chunk_id), uuid4())
    claim.found.scores[:3] = 1 / 3
    assert count_pending(db.session, {ada.id}) == {ada.id: 4}
    chunks.bisect(claim)
    assert count_pending(db.session, {ada.id}) == {ada.id: 1}


def test_chunk_of_another_worker_is_not_bisected(upload, lines, chunk_jobs):
    upload(lines(*"abcd"))
    (chunk_id,) = chunk_jobs()
    late = chunks.claim(UUID(chunk_id), uuid4())
    expire_leases()
    chunks.claim(UUID(chunk_id), uuid4())
    chunks.bisect(late)
    assert [(row.first, row.size) for row in db.session.query(Chunk)] == [(0, 4)]


def test_both_halves_of_a_chunk_are_queued(upload, lines, chunk_jobs):
    upload(lines(*"abcd"))
    (chunk_id,) = chunk_jobs()
    queue().empty()
    chunks.bisect(chunks.claim(UUID(chunk_id), uuid4()))
    lifecycle.dispatch(db.session.query(Task).one().id)
    assert len(chunk_jobs()) == 2
    assert chunk_id not in chunk_jobs()
