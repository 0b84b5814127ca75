"""Scoring a text and keeping the answer; the history of answers."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NotRequired, TypedDict, cast
from uuid import UUID

import uuid_utils.compat as uuid
from flask import current_app
from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.exc import IntegrityError

from sentiment_app import metrics
from sentiment_app.errors import AppError, InvalidTokenError, NotFoundError
from sentiment_app.extensions import db, settings, unit_of_work
from sentiment_app.ml.runtime import Explanation, Scores, ScoringError, find_assessment
from sentiment_app.sentiment.models import SentimentRequest
from sentiment_app.sentiment.serving import serving
from sentiment_app.sentiment.writer import GroupWriter, Row

# Texts in other languages, random letters and bare numbers stay below it; see the model card.
ENOUGH_COVERAGE = 0.5
# Rows that are deleted at a time, so that nobody waits for it.
BATCH = 1000
UNSYNCHRONISED = {"synchronize_session": False}


class UnscorableTextError(AppError):
    """The model cannot score this text. Another model may; the same request will fail again."""

    status, kind = 422, "unscorable-text"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, [{"in": "body", "pointer": "/text", "detail": detail}])


class ScoreWarning(TypedDict):
    """What a caller should know before trusting an answer."""

    code: str
    detail: str


LOW_COVERAGE = ScoreWarning(
    code="low-coverage", detail="Fewer than half of this text's terms are common in English: its scores say little."
)


class Analysis(TypedDict):
    """The answer for one text."""

    id: UUID
    sentiment: str
    confidence: float
    scores: Scores
    model_version: str
    processing_time: float
    coverage: NotRequired[float]
    warnings: NotRequired[list[ScoreWarning]]
    explanation: NotRequired[Explanation]


def analyze(
    user_id: UUID, row_id: UUID | None, text: str, *, explain: bool = False, model: str | None = None
) -> Analysis:
    """Score a text, with the active model or the named one, and store the answer: when this returns, it is committed.

    Answers of the same `row_id` are stored once; without one, each is stored.

    Raises:
        NoModelError: no model is active.
        UnknownModelError: the named one is not released, or retired.
        UnscorableTextError: the model raised an error, or found no probabilities. Nothing is stored.
        InvalidTokenError: the user is gone.
    """
    served = serving().pinned(model) if model else serving().current()
    started = time.perf_counter()
    try:
        scores, coverage = find_assessment(served.scorer, text)
    except ScoringError as error:
        raise UnscorableTextError(str(error)) from None
    analysis = Analysis(
        id=row_id or uuid.uuid7(),
        sentiment=scores.label,
        confidence=max(scores),
        scores=scores,
        model_version=served.version,
        processing_time=time.perf_counter() - started,
    )
    if coverage is not None:
        analysis["coverage"] = coverage
        if coverage < ENOUGH_COVERAGE:
            analysis["warnings"] = [LOW_COVERAGE]
    if explain and (explanation := served.scorer.explain(text)):
        analysis["explanation"] = explanation
    _store(user_id, text, analysis)
    metrics.scoring_seconds.observe(analysis["processing_time"])
    metrics.scored_rows.labels(analysis["sentiment"], analysis["model_version"]).inc()
    return analysis


def _store(user_id: UUID, text: str, analysis: Analysis) -> None:
    row = Row(
        id=str(analysis["id"]),
        user_id=str(user_id),
        created_at=_made_at(analysis["id"]),
        text=text,
        sentiment=analysis["sentiment"],
        **analysis["scores"]._asdict(),
        model_version=analysis["model_version"],
        processing_time=analysis["processing_time"],
    )
    try:
        writer().write(row)
    except IntegrityError:  # the foreign key: the account was deleted under a living token
        raise InvalidTokenError from None


@unit_of_work
def history(
    user_id: UUID,
    limit: int,
    before: UUID | None,
    *,
    sentiment: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Sequence[SentimentRequest]:
    """A user's scored texts, newest first, `limit` at most, beginning after a cursor.

    The bounds in time are bounds on the id, which begins with the milliseconds (RFC 9562, section 5.7).
    """
    rows = select(SentimentRequest).where(SentimentRequest.user_id == user_id)
    if before:
        rows = rows.where(SentimentRequest.id < before)
    if sentiment:
        rows = rows.where(SentimentRequest.sentiment == sentiment)
    if since:
        rows = rows.where(SentimentRequest.id >= _first_id_at(since), SentimentRequest.created_at >= since)
    if until:
        after = _first_id_at(until, later=1)  # an id says no more than the millisecond
        rows = rows.where(SentimentRequest.id < after, SentimentRequest.created_at < until)
    return db.session.scalars(rows.order_by(SentimentRequest.id.desc()).limit(limit)).all()


@unit_of_work
def get(user_id: UUID, request_id: UUID) -> SentimentRequest:
    """One of a user's scored texts.

    Raises:
        NotFoundError: there is none of that id, or it is somebody else's.
    """
    found = db.session.scalar(select(SentimentRequest).where(*_own(user_id, request_id)))
    if found is None:
        raise NotFoundError
    return found


def forget(user_id: UUID, request_id: UUID) -> None:
    """Delete one of a user's scored texts.

    Raises:
        NotFoundError: there is none of that id, or it is somebody else's.
    """
    get(user_id, request_id)
    _delete(user_id, request_id)


@unit_of_work
def _delete(user_id: UUID, request_id: UUID) -> None:
    db.session.execute(delete(SentimentRequest).where(*_own(user_id, request_id)))


def forget_old() -> int:
    """Delete what has stood in histories for HISTORY_DAYS; returns how many rows."""
    before = _first_id_at(datetime.now(UTC) - timedelta(days=settings().history_days))
    number = 0
    while some := _delete_some(before):
        number += some
    return number


@unit_of_work
def _delete_some(before: UUID) -> int:
    some = select(SentimentRequest.id).where(SentimentRequest.id < before).order_by(SentimentRequest.id).limit(BATCH)
    old = delete(SentimentRequest).where(SentimentRequest.id.in_(some.scalar_subquery()))
    return len(db.session.scalars(old.returning(SentimentRequest.id), execution_options=UNSYNCHRONISED).all())


def _own(user_id: UUID, request_id: UUID) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return SentimentRequest.id == request_id, SentimentRequest.user_id == user_id


def id_made_of(milliseconds: int, random: int) -> UUID:
    """A UUIDv7 of a time, in milliseconds since 1970, and 74 or more random bits (RFC 9562, section 5.7)."""
    high, low = random >> 62 & 0xFFF, random & (1 << 62) - 1
    return UUID(int=(milliseconds & (1 << 48) - 1) << 80 | 7 << 76 | high << 64 | 2 << 62 | low)


def _made_at(id_: UUID) -> datetime:
    return datetime.fromtimestamp((id_.int >> 80) / 1000, UTC)


def _first_id_at(instant: datetime, later: int = 0) -> UUID:
    """The least id of an instant, or of so many milliseconds after it, which the last of years has not."""
    milliseconds = max(0, int(instant.timestamp() * 1000) + later)
    return UUID(int=milliseconds << 80)


def writer() -> GroupWriter:
    """The running application's writer."""
    return cast(GroupWriter, current_app.extensions["writer"])
