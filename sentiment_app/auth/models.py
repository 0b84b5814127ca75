"""The table of keys that sign tokens."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import BYTEA
from sqlalchemy.orm import Mapped, mapped_column

from sentiment_app.infrastructure.database import UTC, Base


class TokenKey(Base):
    """A key that signs tokens. The key itself is derived from JWT_SECRET_KEY and this salt."""

    __tablename__ = "token_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    salt: Mapped[bytes] = mapped_column(BYTEA)
    created_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
