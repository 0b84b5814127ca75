"""The totals of the results of a chunk or of a task."""

from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy import func, select

from sentiment_app.infrastructure.database import db
from sentiment_app.ml.runtime import LABELS
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


def of_scores(scores: npt.NDArray[np.float64]) -> dict[str, Any]:
    """The columns of a chunk that summarise its scores: an array of rows by 3, NaN where a row failed."""
    scored = scores[~np.isnan(scores[:, 0])]
    confidence = scored.max(axis=1) if len(scored) else np.zeros(0)
    labels = scored.argmax(axis=1) if len(scored) else np.zeros(0, dtype=int)
    bins = np.minimum((confidence * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
    return {
        "completed": len(scored),
        "counts": np.bincount(labels, minlength=len(LABELS)).tolist(),
        "confidence_sum": float(confidence.sum()),
        "histogram": np.bincount(bins, minlength=HISTOGRAM_BINS).tolist(),
    }


def of_task(task_id: UUID) -> Totals:
    """Add up the chunks of a task, within the caller's unit of work."""
    counts, histogram = (
        [func.coalesce(func.sum(column[index + 1]), 0) for index in range(length)]  # arrays begin at 1 in PostgreSQL
        for column, length in ((Chunk.counts, len(LABELS)), (Chunk.histogram, HISTOGRAM_BINS))
    )
    rows = (func.coalesce(func.sum(column), 0) for column in (Chunk.completed, Chunk.failed))
    confidence = func.coalesce(func.sum(Chunk.confidence_sum), 0.0)
    done = select(*rows, confidence, *counts, *histogram).where(Chunk.task_id == task_id, Chunk.state == "done")
    found: list[Any] = list(db.session.execute(done).one())
    labels, bins = found[3 : 3 + len(LABELS)], found[3 + len(LABELS) :]
    return Totals(found[0], found[1], labels, found[2], bins)
