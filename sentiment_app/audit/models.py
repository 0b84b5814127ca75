"""The table of the audit log."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, func
from sqlalchemy.orm import Mapped, mapped_column

from sentiment_app.infrastructure.database import UTC, Base


class AuditEvent(Base):
    """An entry of the audit log. It can only be added: a trigger refuses changes and early deletions.

    Its ids are not foreign keys, because entries stay when an account is deleted.
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("ix_audit_events_account_id_id", "account_id", "id"),
        Index("ix_audit_events_event_id", "event", "id"),
        Index("ix_audit_events_at", "at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    event: Mapped[str]
    """One of Event."""
    account_id: Mapped[UUID | None]
    """The account that the event is about."""
    actor_id: Mapped[UUID | None]
    """The user who sent the request. None if nobody had signed in, or for a command."""
    operator: Mapped[str | None]
    """The operating system's user who ran the command. None for a request."""
    network: Mapped[str | None]
    """The IPv4 address or the IPv6 network that the request came from."""
    detail: Mapped[str | None]
