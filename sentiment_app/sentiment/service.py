"""Score a text and store the result."""

import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy.exc import IntegrityError

from sentiment_app.errors import InvalidError, InvalidTokenError
from sentiment_app.infrastructure import metrics
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.ml import language as languages
from sentiment_app.ml.runtime import ScoringError, find_assessment
from sentiment_app.registry.serving import Served, serving
from sentiment_app.sentiment import warnings
from sentiment_app.sentiment.history import time_of_id
from sentiment_app.sentiment.writer import writer
from sentiment_app.usage.quotas import Quota, QuotaUse


class UnscorableTextError(InvalidError):
    """The model cannot score this text. Another model may; the same request will fail again."""

    kind = "unscorable-text"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, field="text")


class OtherLanguageError(InvalidError):
    """The text is in another language than the model, and the operator refuses such texts."""

    kind = "other-language"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, field="text")


def find_other_language(served: Served, text: str, coverage: float | None) -> str | None:
    """The language of a text, if it is another language than the model's, and the operator wants to know."""
    expected = served.manifest.get("language")
    return None if settings().other_languages == "score" else languages.find_other(text, coverage, expected)


def analyze(
    user_id: UUID,
    row_id: UUID | None,
    text: str,
    *,
    key_id: UUID | None = None,
    quotas: Sequence[Quota] = (),
    explain: bool = False,
    store: bool = True,
    model: str | None = None,
) -> dict[str, Any]:
    """Score a text for a user, and store it in the user's history.

    Args:
        user_id: whose text it is.
        row_id: the id of the stored row. Requests with the same id are stored once; without an id, each is stored.
        text: in Unicode normalisation form C.
        key_id: the API key that the request was sent with.
        quotas: the quotas of the request.
        explain: whether the answer has the contribution of each term.
        store: whether the text and its scores are stored.
        model: a released version; by default the active model.

    Returns the fields of AnalysisSchema, the other columns of the stored row, and what is used of the `quotas`.

    Raises:
        NoModelError: no model is active.
        UnknownModelError: the named version is not released, or is retired.
        OtherLanguageError: the text is in another language, and the operator refuses such texts.
        UnscorableTextError: the model raised an error, or returned no probabilities. Nothing is stored.
        QuotaExceededError: a quota is used up. Nothing is stored.
        InvalidTokenError: the user was deleted.
    """
    served = serving().pinned(model) if model else serving().current()
    started = time.perf_counter()
    try:
        scores, coverage = find_assessment(served.scorer, text)
    except ScoringError as error:
        raise UnscorableTextError(str(error)) from None
    language = find_other_language(served, text, coverage)
    if language and settings().other_languages == "refuse":
        raise OtherLanguageError(warnings.describe(language))
    id_ = row_id or uuid.uuid7()
    row = {
        "id": str(id_),
        "user_id": str(user_id),
        "created_at": time_of_id(id_),
        "text": text,
        "sentiment": scores.label,
        **scores._asdict(),
        "model_version": served.version,
        "processing_time": time.perf_counter() - started,
        "key_id": str(key_id) if key_id else None,
        "is_stored": store,
        "quotas": quotas,
    }
    analysis = {**row, "confidence": max(scores), "scores": scores._asdict()}
    if coverage is not None:
        analysis["coverage"] = coverage
    if found := warnings.find(coverage, language):
        analysis["warnings"] = found
    if explain and (explanation := served.scorer.explain(text)):
        analysis["explanation"] = explanation
    analysis["quotas"] = _write(row)
    if not store:
        analysis["id"] = None
    metrics.scoring_duration.observe(row["processing_time"])
    metrics.scored_rows.labels(scores.label, served.version).inc()
    return analysis


def _write(row: dict[str, Any]) -> Sequence[QuotaUse]:
    try:
        return writer().write(row)
    except IntegrityError:  # the foreign key: the account was deleted while its token is still valid
        raise InvalidTokenError from None
