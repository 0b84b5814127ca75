"""Gauges of batch scoring, which are read from PostgreSQL when Prometheus scrapes."""

import time
from collections.abc import Sequence
from typing import Any

from flask import Flask
from sqlalchemy import Select, func, select
from sqlalchemy.exc import SQLAlchemyError

from sentiment_app.infrastructure.app_state import AppKey
from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import TASKS_QUEUE, WEBHOOKS_QUEUE
from sentiment_app.ml.runtime import LABELS
from sentiment_app.tasks.models import OPEN, SETTLED, Chunk, Task
from sentiment_app.webhooks.models import Delivery

PAUSE_SECONDS = 30.0


class ScrapeReader:
    """Reads from PostgreSQL at a scrape. It pauses after a failure, because a scrape times out after ten seconds."""

    def __init__(self) -> None:
        self.paused_until = 0.0

    def read(self, statement: Select[*tuple[Any, ...]]) -> Sequence[Any] | None:
        """The rows of a statement; None while PostgreSQL does not answer."""
        if time.monotonic() < self.paused_until:
            return None
        try:
            return db.session.execute(statement).all()
        except SQLAlchemyError:
            self.paused_until = time.monotonic() + PAUSE_SECONDS
            db.session.rollback()
            return None


SCRAPE_READER = AppKey[ScrapeReader]("scrape_reader")


def init_app(app: Flask) -> None:
    """Give the application its reader."""
    SCRAPE_READER.set(app, ScrapeReader())


def count_rows() -> dict[tuple[str, ...], float] | None:
    """Rows of tasks that have ended, by sentiment and model version; None while PostgreSQL does not answer."""
    sums = [func.sum(Task.counts[index + 1]) for index in range(len(LABELS))]  # arrays begin at 1 in PostgreSQL
    by_version = select(Task.model_version, *sums).where(Task.status.in_(SETTLED)).group_by(Task.model_version)
    rows = SCRAPE_READER.get().read(by_version)
    if rows is None:
        return None
    return {
        (label, version): float(count) for version, *counts in rows for label, count in zip(LABELS, counts, strict=True)
    }


def oldest_waits() -> dict[tuple[str, ...], float] | None:
    """How long the oldest work of each queue has waited, in seconds; None while PostgreSQL does not answer.

    The number of jobs in Redis does not show this, because only a few chunks of a task are queued at a time.
    """
    oldest = {
        TASKS_QUEUE: select(func.min(Chunk.queued_at))
        .join(Task, Task.id == Chunk.task_id)
        .where(Chunk.state == "queued", Task.status.in_(("uploading", *OPEN)), Task.deleted_at.is_(None)),
        WEBHOOKS_QUEUE: select(func.min(Delivery.next_at)).where(Delivery.state == "pending"),
    }
    waits = [func.extract("epoch", func.now() - time_.scalar_subquery()) for time_ in oldest.values()]
    rows = SCRAPE_READER.get().read(select(*waits))
    if rows is None:
        return None
    return {(name,): max(0.0, float(seconds or 0)) for name, seconds in zip(oldest, rows[0], strict=True)}
