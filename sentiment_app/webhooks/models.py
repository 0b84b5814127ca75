"""Tables of deliveries, and of the secrets that sign them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, func
from sqlalchemy.dialects.postgresql import BYTEA
from sqlalchemy.orm import Mapped, mapped_column

from sentiment_app.infrastructure.database import UTC, Base


class Delivery(Base):
    """An event that is sent to a URL, and the outcome. It has everything that its attempts need."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state"),
        Index("ix_webhook_deliveries_task_id", "task_id"),
        Index("ix_webhook_deliveries_due", "next_at", postgresql_where="state = 'pending'"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    """The task that the event is about."""
    # The owner, the URL and the payload are null in rows from before migration 0008. The reconciler fills them in while
    # the delivery is pending. The owner is not a foreign key, because deliveries are deleted with the user's tasks.
    user_id: Mapped[UUID | None]
    url: Mapped[str | None]
    payload: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """The type of the event and its data, as they are sent: JSON keeps the order of the keys, and JSONB does not."""
    event: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="pending")
    attempts: Mapped[int] = mapped_column(server_default="0")
    attempt_id: Mapped[UUID | None]
    """The current attempt, or the last attempt. Only this attempt may store an outcome."""
    next_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    answer: Mapped[str | None]
    """The HTTP status of the last attempt, or the reason why there was no response."""
    created_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    delivered_at: Mapped[datetime | None] = mapped_column(UTC)


class WebhookSecret(Base):
    """A secret that signs the webhooks of a user. It is stored as it is, because each signature needs it."""

    __tablename__ = "webhook_secrets"
    __table_args__ = (
        Index("uq_webhook_secrets_current", "user_id", unique=True, postgresql_where="expires_at IS NULL"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    key: Mapped[bytes] = mapped_column(BYTEA)
    created_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    expires_at: Mapped[datetime | None] = mapped_column(UTC)
    """None for the current secret. A secret that was replaced also signs until then."""
