"""Tables of batch scoring: tasks, and the chunks that they are divided into."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, func
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from sentiment_app.infrastructure.database import UTC, Base

STATUSES = ("uploading", "queued", "running", "cancelling", "completed", "failed", "cancelled", "expired")
OPEN = ("queued", "running")
UNFINISHED = ("uploading", *OPEN, "cancelling")
SETTLED = ("completed", "cancelled", "expired")
"""In these statuses, no chunk is scored any more. (A worker may still score a chunk of a failed task.)"""
VISIBLE = tuple(status for status in STATUSES if status != "uploading")
HISTOGRAM_BINS = 10


class Task(Base):
    """Many texts that are scored with the same version of the model."""

    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint(f"status IN {STATUSES}", name="status"),
        Index("ix_tasks_user_id_id", "user_id", "id"),
        Index("ix_tasks_unfinished", "id", postgresql_where=f"status IN {UNFINISHED}"),
        Index("ix_tasks_expires_at", "expires_at", postgresql_where="status <> 'expired'"),
        Index("ix_tasks_expired", "expires_at", postgresql_where="status = 'expired'"),
        Index("ix_tasks_deleted_at", "deleted_at", postgresql_where="deleted_at IS NOT NULL"),
        Index(
            "uq_tasks_idempotency_key",
            "user_id",
            "idempotency_key",
            unique=True,
            postgresql_where="idempotency_key IS NOT NULL",
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    status: Mapped[str] = mapped_column(server_default="uploading")
    model_version: Mapped[str]
    total: Mapped[int] = mapped_column(server_default="0")
    completed: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    counts: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default="{0,0,0}")
    confidence_sum: Mapped[float] = mapped_column(server_default="0")
    histogram: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default="{0,0,0,0,0,0,0,0,0,0}")
    warned: Mapped[int] = mapped_column(server_default="0")
    other_language: Mapped[int] = mapped_column(server_default="0")
    """The totals of these seven columns over all chunks, when the task has ended."""
    rows_before_run: Mapped[int] = mapped_column(server_default="0")
    """Rows that were done when the task was last retried. `rows_per_second` counts only rows that were done since."""
    key_id: Mapped[UUID | None]
    """The API key with which the task was sent."""
    error: Mapped[str | None]
    format: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    """How the file was read: see FormatSchema. None if the texts were sent as JSON."""
    webhook_url: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    touched_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    started_at: Mapped[datetime | None] = mapped_column(UTC)
    finished_at: Mapped[datetime | None] = mapped_column(UTC)
    expires_at: Mapped[datetime | None] = mapped_column(UTC)
    deleted_at: Mapped[datetime | None] = mapped_column(UTC)


class Chunk(Base):
    """A part of a task, with up to several thousand texts. One job scores one chunk.

    Results and state are columns of the same row, so that one statement writes both. A chunk is done if and only if its
    results are stored, and no text can have two results.
    """

    __tablename__ = "task_chunks"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'queued', 'running', 'done')", name="state"),
        Index("uq_task_chunks_task_id_first", "task_id", "first", unique=True),
        Index("ix_task_chunks_task_id_waiting", "task_id", "first", postgresql_where="state = 'waiting'"),
        Index("ix_task_chunks_outstanding", "id", postgresql_where="state IN ('queued', 'running')"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    first: Mapped[int]
    """Index of its first row in the task."""
    size: Mapped[int]
    state: Mapped[str] = mapped_column(server_default="waiting")
    queued_at: Mapped[datetime | None] = mapped_column(UTC)
    lease_until: Mapped[datetime | None] = mapped_column(UTC)
    token: Mapped[UUID | None]
    """Identifies the lease. A worker whose lease was lost cannot write."""
    attempts: Mapped[int] = mapped_column(server_default="0")
    texts: Mapped[bytes] = mapped_column(BYTEA, deferred=True)
    keys: Mapped[bytes] = mapped_column(BYTEA, deferred=True)
    results: Mapped[bytes | None] = mapped_column(BYTEA, deferred=True)
    """Probabilities, `size` by 3 little-endian float64 in the order of LABELS; NaN where a row failed."""
    coverage: Mapped[bytes | None] = mapped_column(BYTEA, deferred=True)
    """The coverage of each row, `size` little-endian float32; NaN if it is not known."""
    columns: Mapped[bytes | None] = mapped_column(BYTEA, deferred=True)
    """The columns of each row that are kept: `size` objects, packed like texts and keys. None if they are not kept."""
    errors: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}", deferred=True)
    """By index in the chunk: why the row failed, and whether a retry may help."""
    completed: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    counts: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default="{0,0,0}")
    """Rows of each label."""
    confidence_sum: Mapped[float] = mapped_column(server_default="0")
    histogram: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default="{0,0,0,0,0,0,0,0,0,0}")
    """Rows by confidence, in bins of a tenth."""
    warned: Mapped[int] = mapped_column(server_default="0")
    """Rows whose coverage is low."""
    languages: Mapped[dict[str, str]] = mapped_column(JSONB, server_default="{}", deferred=True)
    """By index in the chunk: the codes of languages other than the model's."""
    other_language: Mapped[int] = mapped_column(server_default="0")
    """Rows in another language."""
