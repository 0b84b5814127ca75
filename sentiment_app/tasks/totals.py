"""The totals of the results of a chunk or of a task."""

from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from sqlalchemy import func, select

from sentiment_app.infrastructure.database import db
from sentiment_app.ml.runtime import LABELS, Assessments
from sentiment_app.sentiment.warnings import MIN_COVERAGE
from sentiment_app.tasks.models import HISTOGRAM_BINS, Chunk


class Totals(NamedTuple):
    """The totals of the chunks of a task that are done."""

    completed: int
    failed: int
    counts: list[int]
    """Rows by label, in the order of LABELS."""
    confidence_sum: float
    histogram: list[int]
    """Rows by confidence, in bins of a tenth."""
    warned: int
    """Rows whose coverage is low."""
    other_language: int
    """Rows in another language than the model's."""


def of_assessments(found: Assessments) -> dict[str, Any]:
    """The columns of a chunk that summarise its assessments, which are NaN where a row failed."""
    scores = found.scores
    scored = scores[~np.isnan(scores[:, 0])]
    confidence = scored.max(axis=1) if len(scored) else np.zeros(0)
    labels = scored.argmax(axis=1) if len(scored) else np.zeros(0, dtype=int)
    bins = np.minimum((confidence * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
    return {
        "completed": len(scored),
        "counts": np.bincount(labels, minlength=len(LABELS)).tolist(),
        "confidence_sum": float(confidence.sum()),
        "histogram": np.bincount(bins, minlength=HISTOGRAM_BINS).tolist(),
        "warned": int((found.coverage < MIN_COVERAGE).sum()),  # false for NaN
        "other_language": len(found.languages),
    }


def of_task(task_id: UUID) -> Totals:
    """Add up the chunks of a task, within the caller's unit of work."""
    counts, histogram = (
        [func.coalesce(func.sum(column[index + 1]), 0) for index in range(length)]  # arrays begin at 1 in PostgreSQL
        for column, length in ((Chunk.counts, len(LABELS)), (Chunk.histogram, HISTOGRAM_BINS))
    )
    columns = Chunk.completed, Chunk.failed, Chunk.warned, Chunk.other_language
    rows = (func.coalesce(func.sum(column), 0) for column in columns)
    confidence = func.coalesce(func.sum(Chunk.confidence_sum), 0.0)
    done = select(*rows, confidence, *counts, *histogram).where(Chunk.task_id == task_id, Chunk.state == "done")
    found: list[Any] = list(db.session.execute(done).one())
    labels, bins = found[5 : 5 + len(LABELS)], found[5 + len(LABELS) :]
    return Totals(found[0], found[1], labels, found[4], bins, found[2], found[3])
