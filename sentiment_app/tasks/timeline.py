"""The labels of a task in the order of its rows, for a chart."""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from sqlalchemy import select

from sentiment_app.infrastructure.database import db, unit_of_work
from sentiment_app.ml.runtime import LABELS, Floats
from sentiment_app.tasks import chunks
from sentiment_app.tasks.models import Chunk, Task

MAX_STEPS = 60
# A task of more chunks has a step for one or several chunks, so that their results need not be read.
MAX_CHUNKS_READ = 12


def count_labels(task: Task) -> list[list[int]]:
    """Numbers of rows of each label, in up to MAX_STEPS steps of about the same number of rows."""
    if not task.total:
        return []
    steps = min(MAX_STEPS, task.total)
    totals = np.zeros((steps, len(LABELS)), dtype=np.int64)
    outline = _find_chunks(task.id)
    if len(outline) > MAX_CHUNKS_READ:
        for first, counts in outline:
            totals[first * steps // task.total] += counts
    else:
        for first, scores in _find_scores(task.id):
            places = (first + np.arange(len(scores))) * steps // task.total
            is_scored = ~np.isnan(scores[:, 0])
            np.add.at(totals, (places[is_scored], scores[is_scored].argmax(axis=1)), 1)
    return [list(map(int, row)) for row in totals]


@unit_of_work
def _find_chunks(task_id: UUID) -> Sequence[tuple[int, list[int]]]:
    """The first row of each chunk that is done, with its numbers of labels."""
    done = Chunk.task_id == task_id, Chunk.state == "done"
    return [(row.first, row.counts) for row in db.session.execute(select(Chunk.first, Chunk.counts).where(*done))]


@unit_of_work
def _find_scores(task_id: UUID) -> Sequence[tuple[int, Floats]]:
    """The first row of each chunk that is done, with its scores."""
    done = Chunk.task_id == task_id, Chunk.state == "done"
    rows = db.session.execute(select(Chunk.first, Chunk.size, Chunk.results).where(*done))
    return [(row.first, chunks.read(row.results, None, {}, row.size).scores) for row in rows]
