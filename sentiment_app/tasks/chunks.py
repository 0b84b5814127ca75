"""Chunks: claimed with a lease, stored by the worker that still holds the lease, bisected after repeated crashes.

    waiting ──dispatch──► queued ──claim──► running ──store──► done
       ▲                                       │
       └── the lease expired, or was released ─┘

PostgreSQL is the source of truth, and Redis only transports jobs. A job may arrive twice or not at all. A lease has a
token. One statement writes the results and the state if the token is still the same, so the results of each chunk are
stored exactly once.
"""

import zlib
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import orjson
import uuid_utils.compat as uuid
from sqlalchemy import Integer, case, cast, func, insert, select, update

from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.ml.runtime import LABELS, Assessments
from sentiment_app.tasks import totals
from sentiment_app.tasks.models import OPEN, Chunk, Task
from sentiment_app.usage import counters
from sentiment_app.usage import service as usage

LEASE_SECONDS = 8.0
# How many workers may crash while they score a chunk before the chunk is bisected.
MAX_ATTEMPTS = 3
POISON_TEXT = "The worker that scored this text crashed. Other texts are not affected."


class Claim(NamedTuple):
    """A chunk whose lease this worker holds."""

    id: UUID
    task_id: UUID
    token: UUID
    attempts: int
    model_version: str
    task_age: timedelta
    """Time since the first chunk of the task was claimed."""
    texts: list[str | None]
    found: Assessments
    """The assessments of the texts that were scored before. NaN for the other texts."""
    errors: dict[str, Any]
    scored_before: int
    """How many texts were scored before."""
    user_id: UUID
    key_id: UUID | None


def make_claim(task_id: UUID, model_version: str, texts: list[str | None], user_id: UUID, key_id: UUID | None) -> Claim:
    """The claim of a new chunk with these texts, which are the whole task. Its caller stores it with its lease."""
    found, is_new = read(None, None, {}, len(texts)), timedelta(0)
    return Claim(uuid.uuid7(), task_id, uuid.uuid4(), 1, model_version, is_new, texts, found, {}, 0, user_id, key_id)


def lease(token: UUID) -> dict[str, Any]:
    """The columns of a chunk that give its lease to the process with this token."""
    return {"state": "running", "token": token, "lease_until": func.now() + timedelta(seconds=LEASE_SECONDS)}


@unit_of_work
def claim(chunk_id: UUID, token: UUID) -> Claim | None:
    """Take the lease of a chunk that is queued or whose lease has expired; None if another worker has it."""
    # This update comes first. If two workers held the shared lock below before it, their updates would deadlock.
    task_id = select(Chunk.task_id).where(Chunk.id == chunk_id).scalar_subquery()
    is_open = Task.status.in_(("uploading", *OPEN))
    first = update(Task).where(Task.id == task_id, is_open, (Task.status == "queued") | Task.started_at.is_(None))
    status = case((Task.status == "queued", "running"), else_=Task.status)
    values = {"status": status, "started_at": func.coalesce(Task.started_at, func.now())}
    db.session.execute(first.values(values), execution_options=UNSYNCHRONIZED)
    # The shared lock makes a concurrent cancel wait for this claim, and then it sees the running chunk.
    task = (
        select(Task.id, Task.model_version, Task.started_at, Task.user_id, Task.key_id)
        .where(Task.id == task_id, is_open, Task.deleted_at.is_(None))
        .with_for_update(read=True)
        .cte("task")
    )
    has_no_lease = (Chunk.state == "running") & ((Chunk.lease_until < func.now()) | (Chunk.token == token))
    claimed = (
        update(Chunk)
        .where(Chunk.id == chunk_id, Chunk.task_id == task.c.id, (Chunk.state == "queued") | has_no_lease)
        .values(
            **lease(token),
            # If this unit of work runs again, it finds its own token, and does not count another attempt.
            attempts=Chunk.attempts + cast(Chunk.token.is_distinct_from(token), Integer),
        )
        .returning(
            *(Chunk.task_id, Chunk.size, Chunk.attempts, Chunk.texts, Chunk.errors),
            *(Chunk.results, Chunk.coverage, Chunk.languages),
            *(task.c.model_version, task.c.user_id, task.c.key_id),
            (func.now() - func.coalesce(task.c.started_at, func.now())).label("task_age"),
        )
    )
    row = db.session.execute(claimed, execution_options=UNSYNCHRONIZED).one_or_none()
    if row is None:
        return None
    found = read(row.results, row.coverage, row.languages, row.size)
    return Claim(
        chunk_id,
        row.task_id,
        token,
        row.attempts,
        row.model_version,
        row.task_age,
        unpack(row.texts),
        found,
        row.errors,
        _count_scored(found),
        row.user_id,
        row.key_id,
    )


@unit_of_work
def renew_lease(chunk_id: UUID, token: UUID) -> bool:
    """Extend a lease. Returns False if it was lost."""
    held = update(Chunk).where(Chunk.id == chunk_id, Chunk.token == token, Chunk.state == "running")
    renewed = held.values(lease_until=func.now() + timedelta(seconds=LEASE_SECONDS)).returning(Chunk.id)
    return db.session.execute(renewed).first() is not None


@unit_of_work
def store(claim: Claim, found: Assessments, errors: dict[str, Any]) -> bool:
    """Write results and state in one statement, and count the rows for usage. Returns False if the lease was lost."""
    values = {
        "state": "done",
        **write(found),
        "errors": errors,
        "failed": len(errors),
        "lease_until": None,
        **totals.of_assessments(found),
    }
    is_mine = Chunk.id == claim.id, Chunk.token == claim.token
    stored = update(Chunk).where(*is_mine, Chunk.state == "running").values(values).returning(Chunk.id)
    if db.session.execute(stored).scalar_one_or_none() is None:
        # The token stays: if this runs again after a lost answer, it finds that it has stored the results.
        return db.session.scalar(select(Chunk.id).where(*is_mine, Chunk.state == "done")) is not None
    if (scored := _count_scored(found) - claim.scored_before) > 0:
        usage.record(claim.token, claim.user_id, claim.key_id, claim.model_version, scored)
        counters.increase(claim.user_id, claim.key_id, scored)
    return True


def _count_scored(found: Assessments) -> int:
    return int(np.count_nonzero(~np.isnan(found.scores[:, 0])))


@unit_of_work
def release_lease(chunk_id: UUID, token: UUID) -> None:
    """Give a chunk back without results. The attempt does not count."""
    held = update(Chunk).where(Chunk.id == chunk_id, Chunk.token == token, Chunk.state == "running")
    released = held.values(state="waiting", token=None, lease_until=None, attempts=Chunk.attempts - 1)
    db.session.execute(released)


@unit_of_work
def bisect(claim: Claim) -> None:
    """Divide a chunk that crashes its workers into halves, until the text that causes it is alone and is marked."""
    # The task is locked before its chunk, in the same order as a deletion locks them.
    db.session.execute(select(Task.id).where(Task.id == claim.task_id).with_for_update(read=True, key_share=True))
    chunk = db.session.get(Chunk, claim.id, with_for_update=True, populate_existing=True)
    if chunk is None or chunk.token != claim.token:
        return  # another worker has the chunk, or it was bisected before
    if chunk.size == 1:
        chunk.state, chunk.failed = "done", 1
        chunk.errors, chunk.results = {"0": {"detail": POISON_TEXT, "retryable": True}}, None
        return
    middle = chunk.size // 2
    keys, columns = unpack(chunk.keys), None if chunk.columns is None else unpack(chunk.columns)
    # Both halves get new ids. This chunk's job is still running, and its end would remove a new job with the same id.
    db.session.delete(chunk)
    db.session.flush()
    for start, end in ((0, middle), (middle, chunk.size)):
        errors = claim.errors.items()
        languages = {i - start: code for i, code in claim.found.languages.items() if start <= i < end}
        scored = Assessments(claim.found.scores[start:end], claim.found.coverage[start:end], languages)
        half = {
            "id": uuid.uuid7(),
            "task_id": claim.task_id,
            "first": chunk.first + start,
            "size": end - start,
            "texts": pack(claim.texts[start:end]),
            "keys": pack(keys[start:end]),
            "columns": None if columns is None else pack(columns[start:end]),
            **write(scored),
            **totals.of_assessments(scored),  # rows that have scores do not wait any more
            "errors": {str(int(index) - start): error for index, error in errors if start <= int(index) < end},
            # After one more crash the half is bisected again. A text that stands alone gets all attempts.
            "attempts": MAX_ATTEMPTS - 1 if end - start > 1 else 0,
        }
        db.session.execute(insert(Chunk).values(half))


def pack(value: Any) -> bytes:
    """A list as compressed JSON. Its strings may contain any character except lone surrogates."""
    return zlib.compress(orjson.dumps(value), 1)


def unpack(content: bytes) -> Any:
    """The list that `pack` compressed."""
    return orjson.loads(zlib.decompress(content))


def write(found: Assessments) -> dict[str, Any]:
    """The columns of a chunk that store assessments: little-endian float64, and float32 for the coverage."""
    return {
        "results": found.scores.astype("<f8").tobytes(),
        "coverage": found.coverage.astype("<f4").tobytes(),
        "languages": {str(index): code for index, code in found.languages.items()},
    }


def read(results: bytes | None, coverage: bytes | None, languages: dict[str, str], size: int) -> Assessments:
    """Stored assessments. Rows without scores are NaN, and so is a coverage that is not known."""
    scores = np.full((size, len(LABELS)), np.nan)
    shares = np.full(size, np.nan)
    if results is not None:
        scores[:] = np.frombuffer(results, dtype="<f8").reshape(size, len(LABELS))
    if coverage is not None:  # the previous release did not store it
        shares[:] = np.frombuffer(coverage, dtype="<f4")
    return Assessments(scores, shares, {int(index): code for index, code in languages.items()})
