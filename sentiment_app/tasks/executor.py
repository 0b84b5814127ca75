"""The executor: what a worker does with a chunk."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import structlog
import uuid_utils.compat as uuid

from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.logs import bind_task
from sentiment_app.ml.runtime import Assessments, ScoringError, TextScorer, find_assessments
from sentiment_app.registry.serving import NoModelError, Served, UnknownModelError, UnusableModelError, serving
from sentiment_app.sentiment import warnings
from sentiment_app.sentiment.service import find_other_language
from sentiment_app.tasks import chunks, lifecycle
from sentiment_app.tasks.chunks import Claim
from sentiment_app.usage import quotas

# The limit on the texts that are scored before the lease is renewed. The first slice is a single text, and each slice
# has at most twice the characters of the slice before it. So the lease does not expire, even if the model takes seconds
# for a text, or if long texts follow short texts.
MAX_SLICE_ROWS = 256
# How long a task waits for a model that does not load.
MODEL_PATIENCE = timedelta(hours=1)

log = structlog.get_logger()


class LeaseLostError(Exception):
    """Another worker has the chunk now."""


def score_chunk(chunk_id: UUID) -> None:
    """Score a chunk and store its results, unless another worker has it."""
    claim = chunks.claim(chunk_id, uuid.uuid4())
    if claim is None:
        return
    bind_task(claim.task_id)
    if claim.attempts > chunks.MAX_ATTEMPTS:
        log.warning("chunk_bisected", chunk_id=str(chunk_id), rows=len(claim.texts))
        chunks.bisect(claim)
    else:
        score(claim)
    lifecycle.dispatch(claim.task_id)
    lifecycle.finish(claim.task_id)


def score(claim: Claim) -> None:
    """Score a claimed chunk. On any failure its lease is released, so that another worker can claim it at once."""
    started = time.monotonic()
    try:
        served = serving().pinned(claim.model_version)
        scored_before = ~np.isnan(claim.found.scores[:, 0])
        found, errors = _score_texts(served.scorer, claim)
        _find_languages(served, claim, found, errors, scored_before)
        _store(claim, found, errors)
    except LeaseLostError:
        log.info("lease_lost", chunk_id=str(claim.id))
        return
    except UnknownModelError as error:
        lifecycle.fail(claim.task_id, error.detail)
        return
    except (NoModelError, UnusableModelError) as error:  # it may load later, or on another host
        log.warning("chunk_released", chunk_id=str(claim.id), reason=type(error).__name__)
        chunks.release_lease(claim.id, claim.token)
        if claim.task_age < MODEL_PATIENCE:
            raise
        lifecycle.fail(claim.task_id, error.detail)
        return
    except BaseException as error:
        log.warning("chunk_released", chunk_id=str(claim.id), reason=type(error).__name__)
        chunks.release_lease(claim.id, claim.token)
        raise
    duration_ms = round((time.monotonic() - started) * 1000, 3)
    ids = {"chunk_id": str(claim.id), "user_id": str(claim.user_id)}
    log.info("chunk_scored", **ids, rows=len(claim.texts), failed=len(errors), duration_ms=duration_ms)


def _store(claim: Claim, found: Assessments, errors: dict[str, Any]) -> None:
    quotas.prepare(claim.user_id, claim.key_id)
    if not chunks.store(claim, found, errors):
        raise LeaseLostError


def _score_texts(scorer: TextScorer, claim: Claim) -> tuple[Assessments, dict[str, Any]]:
    """Score the texts that have no scores yet. If the model cannot score a text, only this text fails.

    Raises:
        LeaseLostError: another worker has the chunk.
    """
    scores, coverage, languages = claim.found
    errors = {index: error for index, error in claim.errors.items() if not error.get("retryable")}
    missing = np.flatnonzero(np.isnan(scores[:, 0])).tolist()
    indexes = [index for index in missing if claim.texts[index] is not None and str(index) not in errors]
    lease = _Lease(claim)
    start, characters = 0, 1
    while part := slice_indexes(claim.texts, indexes[start : start + MAX_SLICE_ROWS], characters):
        try:
            assessed = find_assessments(scorer, [claim.texts[index] or "" for index in part])
            scores[part], coverage[part] = assessed.scores, assessed.coverage
        except ScoringError:  # score each text alone, so that only the text that causes it fails
            for index in part:
                try:
                    found = find_assessments(scorer, [claim.texts[index] or ""])
                    scores[index], coverage[index] = found.scores[0], found.coverage[0]
                except ScoringError as error:
                    errors[str(index)] = {"detail": str(error), "retryable": True}
                lease.renew_if_due()
        start += len(part)
        scored = sum(len(claim.texts[index] or "") for index in part)
        characters = scored // 2 if lease.renew_if_due() else 2 * max(characters, scored)
    return Assessments(scores, coverage, languages), errors


def _find_languages(
    served: Served, claim: Claim, found: Assessments, errors: dict[str, Any], scored_before: npt.NDArray[np.bool_]
) -> None:
    """Find the texts in another language than the model's, among those that were scored now.

    They fail if the operator refuses them. Rows that were scored before were counted, and keep their scores.
    """
    is_refused = settings().other_languages == "refuse"
    for index in np.flatnonzero(~np.isnan(found.scores[:, 0]) & ~scored_before).tolist():
        coverage = found.coverage[index]
        known = None if np.isnan(coverage) else float(coverage)
        language = find_other_language(served, claim.texts[index] or "", known)
        if language and is_refused:
            errors[str(index)] = {"detail": warnings.describe(language)}
            found.scores[index], found.coverage[index] = np.nan, np.nan
        elif language:
            found.languages[index] = language


def slice_indexes(texts: Sequence[str | None], indexes: Sequence[int], max_characters: int) -> Sequence[int]:
    """The first indexes whose texts have at most `max_characters` together; at least one."""
    total = 0
    for number, index in enumerate(indexes):
        total += len(texts[index] or "")
        if total > max_characters:
            return indexes[: max(1, number)]
    return indexes


class _Lease:
    """The lease of a claim, which is renewed while its texts are scored."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._renewed_at = time.monotonic()

    def renew_if_due(self) -> bool:
        """Renew the lease when a quarter of its time is over. Returns whether it was renewed.

        Raises:
            LeaseLostError: it had expired, and another worker has the chunk.
        """
        if time.monotonic() - self._renewed_at < chunks.LEASE_SECONDS / 4:
            return False
        if not chunks.renew_lease(self._claim.id, self._claim.token):
            raise LeaseLostError
        self._renewed_at = time.monotonic()
        return True
