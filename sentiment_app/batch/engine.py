"""The engine: chunks are claimed with a lease, scored, and stored by whoever still holds the lease.

    waiting ──dispatch──► queued ──claim──► running ──store──► done
                             ▲                 │ lease ran out (reconcile), or handed back
                             └─────────────────┘

PostgreSQL is the truth and Redis only transport. Delivery is at least once; the token of a lease and the single
statement that writes results and state make the effect exactly once. Few chunks of a task are queued at a time, and
each that is done queues the next: so tasks take turns, and a small one is not stuck behind a large one.
"""

import time
import zlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import numpy.typing as npt
import orjson
import structlog
import uuid_utils.compat as uuid
from sqlalchemy import Integer, bindparam, case, cast, func, insert, select, update

from sentiment_app.batch import webhooks
from sentiment_app.batch.models import BINS, OPEN, Chunk, Delivery, Task
from sentiment_app.extensions import db, enqueue, settings, unit_of_work
from sentiment_app.ml.runtime import LABELS, ScoringError, TextScorer, find_probabilities
from sentiment_app.sentiment.serving import NoModelError, UnknownModelError, UnusableModelError, serving

SCORE = "sentiment_app.batch.jobs.score_chunk"
# Chunks of a user's tasks that are queued at a time: enough that no worker waits, few enough that users take turns.
WINDOW = 8
LEASE_SECONDS = 8.0
# The most texts that are scored between two looks at the clock. The first slice is a single text, and each slice has at
# most twice the characters of the slice before it: a model that takes seconds for a text, or long texts after short
# texts, must not cost the lease before the next look.
SLICE = 256
# Workers that died over a chunk before it is split.
MAX_ATTEMPTS = 3
# How long a task goes on with a model that does not load.
PATIENCE = timedelta(hours=1)
LETHAL = "Scoring this text ended the worker that tried it."

Floats = npt.NDArray[np.float64]

log = structlog.get_logger()


class Claim(NamedTuple):
    """A chunk that this worker holds."""

    id: UUID
    task_id: UUID
    token: UUID
    attempts: int
    model_version: str
    task_age: timedelta
    """Since the first of the task's chunks was claimed."""
    texts: list[str | None]
    scores: Floats
    errors: dict[str, Any]


def score_chunk(chunk_id: UUID) -> None:
    """Score one chunk and store its results, if nobody else has it."""
    claim = _claim(chunk_id, uuid.uuid4())
    if claim is None:
        return
    if claim.attempts > MAX_ATTEMPTS:
        _isolate(claim)
    else:
        _score(claim)
    dispatch(claim.task_id)
    finish(claim.task_id)


def _score(claim: Claim) -> None:
    try:
        scorer = serving().pinned(claim.model_version).scorer
        scores, errors = _judge(scorer, claim)
    except LeaseLostError:
        log.info("chunk_lost", chunk=str(claim.id))
        return
    except UnknownModelError as error:
        fail(claim.task_id, error.detail)
        return
    except (NoModelError, UnusableModelError) as error:  # it may load elsewhere, or later; but no task waits for ever
        hand_back(claim.id, claim.token)
        if claim.task_age < PATIENCE:
            raise
        fail(claim.task_id, error.detail)
        return
    except BaseException:
        hand_back(claim.id, claim.token)  # at once, not when the lease has run out
        raise
    if not _store(claim, scores, errors):
        log.info("chunk_lost", chunk=str(claim.id))


class LeaseLostError(Exception):
    """Another worker has the chunk by now."""


def _judge(scorer: TextScorer, claim: Claim) -> tuple[Floats, dict[str, Any]]:
    """Score what is not scored yet; a text that the model cannot score fails alone.

    Raises:
        LeaseLostError: nobody waits for the rest.
    """
    scores, errors = claim.scores, {place: one for place, one in claim.errors.items() if not one.get("retryable")}
    places = [place for place, one in enumerate(claim.texts) if one is not None and np.isnan(scores[place, 0])]
    lease = _Lease(claim)
    start, characters = 0, 1
    while part := _slice(claim.texts, places[start : start + SLICE], characters):
        try:
            scores[part] = find_probabilities(scorer, [claim.texts[index] or "" for index in part])
        except ScoringError:  # whichever text it was, the others are scored
            for index in part:
                try:
                    scores[index] = find_probabilities(scorer, [claim.texts[index] or ""])[0]
                except ScoringError as error:
                    errors[str(index)] = {"detail": str(error), "retryable": True}
                lease.keep()
        start += len(part)
        scored = sum(len(claim.texts[index] or "") for index in part)
        characters = scored // 2 if lease.keep() else 2 * max(characters, scored)
    return scores, errors


def _slice(texts: Sequence[str | None], indexes: Sequence[int], characters: int) -> Sequence[int]:
    """The first of these texts that have so many characters together, and one text at least."""
    total = 0
    for number, index in enumerate(indexes):
        total += len(texts[index] or "")
        if total > characters:
            return indexes[: max(1, number)]
    return indexes


class _Lease:
    """A claim that is renewed while its texts are scored."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._renewed = time.monotonic()

    def keep(self) -> bool:
        """Renew it when a quarter is over, and say whether it was.

        Raises:
            LeaseLostError: it was over before.
        """
        if time.monotonic() - self._renewed < LEASE_SECONDS / 4:
            return False
        if not _renew(self._claim.id, self._claim.token):
            raise LeaseLostError
        self._renewed = time.monotonic()
        return True


@unit_of_work
def _claim(chunk_id: UUID, token: UUID) -> Claim | None:
    # The task first, and for this: two workers that held its row together could not both go on to change it.
    of_chunk = select(Chunk.task_id).where(Chunk.id == chunk_id).scalar_subquery()
    begun = update(Task).where(Task.id == of_chunk, Task.status.in_(("uploading", *OPEN)))
    begun = begun.where((Task.status == "queued") | Task.started_at.is_(None))
    status = case((Task.status == "queued", "running"), else_=Task.status)
    values = {"status": status, "started_at": func.coalesce(Task.started_at, func.now())}
    db.session.execute(begun.values(values), execution_options={"synchronize_session": False})
    # Locked, so that a cancel at the same time waits for this claim, and then sees the running chunk.
    task = (
        select(Task.id, Task.model_version, Task.started_at)
        .where(Task.id == of_chunk, Task.status.in_(("uploading", *OPEN)), Task.deleted_at.is_(None))
        .with_for_update(read=True)
        .cte("task")
    )
    has_no_lease = (Chunk.state == "running") & ((Chunk.lease_until < func.now()) | (Chunk.token == token))
    claimed = (
        update(Chunk)
        .where(Chunk.id == chunk_id, Chunk.task_id == task.c.id, (Chunk.state == "queued") | has_no_lease)
        .values(
            state="running",
            token=token,
            lease_until=func.now() + timedelta(seconds=LEASE_SECONDS),
            # A second run of this unit of work finds its own token, and counts no second attempt.
            attempts=Chunk.attempts + cast(Chunk.token.is_distinct_from(token), Integer),
        )
        .returning(
            *(Chunk.task_id, Chunk.size, Chunk.attempts, Chunk.texts, Chunk.results, Chunk.errors),
            task.c.model_version,
            (func.now() - func.coalesce(task.c.started_at, func.now())).label("task_age"),
        )
    )
    row = db.session.execute(claimed, execution_options={"synchronize_session": False}).one_or_none()
    if row is None:
        return None
    return Claim(
        chunk_id,
        row.task_id,
        token,
        row.attempts,
        row.model_version,
        row.task_age,
        unpack(row.texts),
        read_scores(row.results, row.size),
        row.errors,
    )


@unit_of_work
def _renew(chunk_id: UUID, token: UUID) -> bool:
    held = update(Chunk).where(Chunk.id == chunk_id, Chunk.token == token, Chunk.state == "running")
    renewed = held.values(lease_until=func.now() + timedelta(seconds=LEASE_SECONDS)).returning(Chunk.id)
    return db.session.execute(renewed).first() is not None


@unit_of_work
def _store(claim: Claim, scores: Floats, errors: dict[str, Any]) -> bool:
    """Write results and state in one statement; False if the lease is somebody else's by now."""
    values = {
        "state": "done",
        "results": write_scores(scores),
        "errors": errors,
        "failed": len(errors),
        "lease_until": None,
        **summarise(scores),
    }
    # The token stays: this may run again after a lost answer, and finds that it has been done.
    held = update(Chunk).where(Chunk.id == claim.id, Chunk.token == claim.token)
    stored = db.session.execute(held.values(values).returning(Chunk.id)).scalar_one_or_none()
    return stored is not None


def summarise(scores: Floats) -> dict[str, Any]:
    """What a chunk adds to its task's summary."""
    good = scores[~np.isnan(scores[:, 0])]
    confidence = good.max(axis=1) if len(good) else np.zeros(0)
    labels = good.argmax(axis=1) if len(good) else np.zeros(0, dtype=int)
    return {
        "completed": len(good),
        "counts": np.bincount(labels, minlength=len(LABELS)).tolist(),
        "confidence_sum": float(confidence.sum()),
        "histogram": np.bincount(np.minimum((confidence * BINS).astype(int), BINS - 1), minlength=BINS).tolist(),
    }


@unit_of_work
def hand_back(chunk_id: UUID, token: UUID) -> None:
    """Give a chunk up, unfinished; the attempt does not count."""
    held = update(Chunk).where(Chunk.id == chunk_id, Chunk.token == token, Chunk.state == "running")
    given_back = held.values(state="waiting", token=None, lease_until=None, attempts=Chunk.attempts - 1)
    db.session.execute(given_back)


def fail(task_id: UUID, error: str) -> None:
    """End a task that cannot be scored at all."""
    if _fail(task_id, error):
        webhooks.enqueue_deliveries(task_id)


@unit_of_work
def _fail(task_id: UUID, error: str) -> bool:
    # A task that is still being uploaded only keeps the error: its owner has not seen it yet, and the upload must be
    # given up, replayed or closed like any other. The end of the upload makes it a failed task.
    is_open = Task.status.in_(OPEN)
    ended = update(Task).where(Task.id == task_id, is_open | (Task.status == "uploading"))
    values = {
        "status": case((is_open, "failed"), else_=Task.status),
        "error": error,
        "finished_at": case((is_open, func.now())),
        "expires_at": case((is_open, func.now() + settings().task_life)),
    }
    statement = ended.values(values).returning(Task.status)
    status = db.session.execute(statement, execution_options={"synchronize_session": False}).scalar_one_or_none()
    if status != "failed":
        return False
    announce(task_id)
    return True


def dispatch(task_id: UUID) -> None:
    """Queue the next chunks of a task, as many as it is allowed at a time."""
    for chunk_id in _take(task_id):
        enqueue_chunk(chunk_id)


def enqueue_chunk(chunk_id: UUID) -> None:
    """Send a chunk's job; where Redis is away, the reconciler sends it later."""
    enqueue(SCORE, str(chunk_id), job_id=str(chunk_id))


@unit_of_work
def _take(task_id: UUID) -> Sequence[UUID]:
    outstanding = select(func.count()).where(Chunk.task_id == task_id, Chunk.state.in_(("queued", "running")))
    owner = select(Task.user_id).where(Task.id == task_id).scalar_subquery()
    of_owner = Task.user_id == owner, Task.status.in_(("uploading", *OPEN)), Task.deleted_at.is_(None)
    window = select(func.greatest(1, WINDOW // func.greatest(1, func.count()))).where(*of_owner)
    chosen = (
        select(Chunk.id)
        .join(Task, Task.id == Chunk.task_id)
        .where(
            Chunk.task_id == task_id,
            Chunk.state == "waiting",
            Task.status.in_(("uploading", *OPEN)),
            Task.deleted_at.is_(None),
        )
        .order_by(Chunk.first)
        .limit(func.greatest(0, window.scalar_subquery() - outstanding.scalar_subquery()))
        .with_for_update(skip_locked=True, of=Chunk)
    )
    queued = update(Chunk).where(Chunk.id.in_(chosen.scalar_subquery()))
    statement = queued.values(state="queued", queued_at=func.now()).returning(Chunk.first, Chunk.id)
    taken = db.session.execute(statement, execution_options={"synchronize_session": False})
    return [row.id for row in sorted(taken, key=lambda row: int(row.first))]


def finish(task_id: UUID) -> bool:
    """End a task that has nothing left to do. Called after each chunk's commit: the last of them sees all done."""
    has_ended = _finish(task_id)
    if has_ended:
        webhooks.enqueue_deliveries(task_id)
    return has_ended


@unit_of_work
def _finish(task_id: UUID) -> bool:
    if not _has_nothing_left(task_id):  # nearly always, and it takes no lock
        return False
    # Lock the task, then look again. A single UPDATE with both conditions is wrong: if it waits for another finish and
    # a retry, PostgreSQL rereads the task's row but not the chunks, and the update ends a task that was just reopened
    # (PostgreSQL manual, section 13.2.1).
    db.session.execute(select(Task.id).where(Task.id == task_id).with_for_update())
    if not _has_nothing_left(task_id):
        return False
    ended = update(Task).where(Task.id == task_id)
    values = {
        "status": case((Task.status == "cancelling", "cancelled"), else_="completed"),
        "finished_at": func.now(),
        "expires_at": func.now() + settings().task_life,
        **sums(task_id)._asdict(),
    }
    db.session.execute(ended.values(values), execution_options={"synchronize_session": False})
    announce(task_id)
    return True


def _has_nothing_left(task_id: UUID) -> bool:
    chunks = select(Chunk.id).where(Chunk.task_id == task_id)
    is_scored = Task.status.in_(OPEN) & ~chunks.where(Chunk.state != "done").exists()
    is_stopped = (Task.status == "cancelling") & ~chunks.where(Chunk.state == "running").exists()
    is_kept = Task.id == task_id, Task.deleted_at.is_(None)
    return db.session.scalar(select(Task.id).where(*is_kept, is_scored | is_stopped)) is not None


class Sums(NamedTuple):
    """What the chunks of a task that are done add up to."""

    completed: int
    failed: int
    counts: list[int]
    confidence_sum: float
    histogram: list[int]


def sums(task_id: UUID) -> Sums:
    """Add up a task's chunks, within the caller's unit of work."""
    counts, histogram = (
        [func.coalesce(func.sum(column[place + 1]), 0) for place in range(number)]  # arrays begin at 1 there
        for column, number in ((Chunk.counts, len(LABELS)), (Chunk.histogram, BINS))
    )
    rows = (func.coalesce(func.sum(one), 0) for one in (Chunk.completed, Chunk.failed))
    confidence = func.coalesce(func.sum(Chunk.confidence_sum), 0.0)
    of_task = select(*rows, confidence, *counts, *histogram).where(Chunk.task_id == task_id, Chunk.state == "done")
    found: list[Any] = list(db.session.execute(of_task).one())
    labels, bins = found[3 : 3 + len(LABELS)], found[3 + len(LABELS) :]
    return Sums(found[0], found[1], labels, found[2], bins)


def announce(task_id: UUID) -> None:
    """Note, in the transaction that ends a task, that its webhook is to be told."""
    wanted = Task.id == task_id, Task.webhook_url.is_not(None)
    told: Any = select(bindparam("id", uuid.uuid7()), Task.id, Task.status).where(*wanted)
    db.session.execute(insert(Delivery).from_select(["id", "task_id", "event"], told))


@unit_of_work
def _isolate(claim: Claim) -> None:
    """Halve a chunk that keeps killing its workers, until the guilty row stands alone and is marked failed."""
    # The task before its chunk, in the order in which a deletion locks them.
    db.session.execute(select(Task.id).where(Task.id == claim.task_id).with_for_update(read=True, key_share=True))
    chunk = db.session.get(Chunk, claim.id, with_for_update=True, populate_existing=True)
    if chunk is None or chunk.token != claim.token:
        return  # somebody else has it, or this has been done
    if chunk.size == 1:
        chunk.state, chunk.failed = "done", 1
        chunk.errors, chunk.results = {"0": {"detail": LETHAL, "retryable": True}}, write_scores(claim.scores)
        return
    half = chunk.size // 2
    keys = unpack(chunk.keys)
    # Both get new ids: the job of this one's id is running, and its end would take a new one of that name with it.
    db.session.delete(chunk)
    db.session.flush()
    for start, end in ((0, half), (half, chunk.size)):
        part = {
            "id": uuid.uuid7(),
            "task_id": claim.task_id,
            "first": chunk.first + start,
            "size": end - start,
            "texts": pack(claim.texts[start:end]),
            "keys": pack(keys[start:end]),
            "results": write_scores(claim.scores[start:end]),
            "errors": {
                str(int(place) - start): one for place, one in claim.errors.items() if start <= int(place) < end
            },
            # One more death is enough to halve it again; a row that stands alone is given every chance.
            "attempts": MAX_ATTEMPTS - 1 if end - start > 1 else 0,
        }
        db.session.execute(insert(Chunk).values(part))


def pack(value: Any) -> bytes:
    """A list as compressed JSON; strings may hold any character, lone surrogates excepted."""
    return zlib.compress(orjson.dumps(value), 1)


def unpack(content: bytes) -> Any:
    """What `pack` packed."""
    return orjson.loads(zlib.decompress(content))


def write_scores(scores: Floats) -> bytes:
    """Scores as they are stored."""
    return scores.astype("<f8").tobytes()


def read_scores(content: bytes | None, size: int) -> Floats:
    """Stored scores, `size` by 3; NaN where there are none yet."""
    if content is None:
        return np.full((size, len(LABELS)), np.nan)
    return np.frombuffer(content, dtype="<f8").reshape(size, len(LABELS)).copy()
