"""Tables of what was scored."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Uuid, func
from sqlalchemy.dialects.postgresql import BYTEA
from sqlalchemy.orm import Mapped, mapped_column

from sentiment_app.extensions import UTC, Base


class SentimentRequest(Base):
    """One scored text. Its id is a UUIDv7 (RFC 9562): in the order of time, and so is its user's history."""

    __tablename__ = "sentiment_requests"
    __table_args__ = (
        CheckConstraint("sentiment IN ('negative', 'neutral', 'positive')", name="sentiment"),
        Index("ix_sentiment_requests_user_id_id", "user_id", "id"),
        Index("ix_sentiment_requests_user_id_sentiment_id", "user_id", "sentiment", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(Uuid, ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(UTC)
    text: Mapped[str]
    sentiment: Mapped[str]
    negative: Mapped[float]
    neutral: Mapped[float]
    positive: Mapped[float]
    model_version: Mapped[str]
    processing_time: Mapped[float]

    @property
    def scores(self) -> dict[str, float]:
        """The probability of each label."""
        return {"negative": self.negative, "neutral": self.neutral, "positive": self.positive}

    @property
    def confidence(self) -> float:
        """The probability of the label that was given."""
        return self.scores[self.sentiment]


class ModelRelease(Base):
    """A released model: the manifest as it was signed, and the serving form, for every host to load.

    One is active; the one before it is previous, and a rollback goes back to it. A retired one is not served at all.
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
    """What was done with a model, or could not be done: the audit."""

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
