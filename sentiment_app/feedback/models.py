"""The table of feedback."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, Uuid, func
from sqlalchemy.orm import Mapped, mapped_column

from sentiment_app.infrastructure.database import UTC, Base


class Feedback(Base):
    """The right label of a text, as a user gave it. Its id is a UUIDv7, so the ids sort by time."""

    __tablename__ = "feedback"
    __table_args__ = (
        CheckConstraint("label IN ('negative', 'neutral', 'positive')", name="label"),
        UniqueConstraint("user_id", "text_sha256"),
        Index("ix_feedback_user_id_id", "user_id", "id"),
        Index("ix_feedback_updated_at_id", "updated_at", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(Uuid, ForeignKey("users.id", ondelete="CASCADE"))
    text: Mapped[str]
    text_sha256: Mapped[bytes]
    """Identifies the text in the unique constraint: an index cannot contain texts of any length."""
    label: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    """When the label was given or changed last."""
