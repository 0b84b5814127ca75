"""The table of scored texts."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from sentiment_app.infrastructure.database import UTC, Base


class SentimentRequest(Base):
    """A scored text. Its id is a UUIDv7 (RFC 9562), so the ids sort by time."""

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
        """The probability of the sentiment."""
        return self.scores[self.sentiment]
