"""Tables of the model registry."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, func
from sqlalchemy.dialects.postgresql import BYTEA
from sqlalchemy.orm import Mapped, mapped_column

from sentiment_app.infrastructure.database import UTC, Base


class ModelRelease(Base):
    """A released model: its signed manifest, and the artifact that every host loads.

    At most one release is active, and at most one is previous: a rollback activates it. A retired release is never
    served.
    """

    __tablename__ = "model_releases"
    __table_args__ = (
        CheckConstraint("state IN ('candidate', 'active', 'previous', 'retired')", name="state"),
        Index("uq_model_releases_active", "state", unique=True, postgresql_where="state = 'active'"),
        Index("uq_model_releases_previous", "state", unique=True, postgresql_where="state = 'previous'"),
    )

    version: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(server_default="candidate")
    manifest: Mapped[bytes] = mapped_column(BYTEA, deferred=True)
    signature: Mapped[str] = mapped_column(deferred=True)
    artifact: Mapped[bytes] = mapped_column(BYTEA, deferred=True)
    released_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    released_by: Mapped[str]
    activated_at: Mapped[datetime | None] = mapped_column(UTC)
    activated_by: Mapped[str | None]


class ModelEvent(Base):
    """An entry of the audit log: what was done with a model, or was refused."""

    __tablename__ = "model_events"
    __table_args__ = (
        CheckConstraint(
            "action IN ('released', 'activated', 'rolled back', 'retired', 'reinstated', 'refused', 'not loaded')",
            name="action",
        ),
        Index("ix_model_events_version_id", "version", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    version: Mapped[str] = mapped_column(ForeignKey("model_releases.version"))
    action: Mapped[str]
    by: Mapped[str]
    detail: Mapped[str | None]
