"""Tables of accounts and sessions."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, column, func
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA
from sqlalchemy.orm import Mapped, mapped_column

from sentiment_app.infrastructure.database import UTC, Base

HAS_QUOTA = "rows_per_day IS NOT NULL OR rows_per_month IS NOT NULL"


class User(Base):
    """An account. Username and email address are unique regardless of case."""

    __tablename__ = "users"
    __table_args__ = (
        Index("uq_users_username", func.lower(column("username")), unique=True),
        Index("uq_users_email", func.lower(column("email")), unique=True),
        Index("ix_users_deleted_at", "deleted_at", postgresql_where="deleted_at IS NOT NULL"),
        Index("ix_users_quota", "id", postgresql_where=HAS_QUOTA),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    username: Mapped[str]
    email: Mapped[str]
    password_hash: Mapped[str]
    is_active: Mapped[bool] = mapped_column(server_default="true")
    is_superuser: Mapped[bool] = mapped_column(server_default="false")
    history_days: Mapped[int | None]
    """How long the user's history is kept. None stands for HISTORY_DAYS, which is also the maximum."""
    rows_per_day: Mapped[int | None] = mapped_column(BigInteger)
    rows_per_month: Mapped[int | None] = mapped_column(BigInteger)
    """How many rows the account may score. None stands for the setting, and 0 for no limit."""
    deleted_at: Mapped[datetime | None] = mapped_column(UTC)
    """When the account was deleted. It has no name any more, and its data is being erased."""
    created_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now(), onupdate=func.now())


class FormerUsername(Base):
    """A username that an account has given up. It stays reserved, so that nobody else is taken for its owner."""

    __tablename__ = "former_usernames"

    username: Mapped[str] = mapped_column(primary_key=True)
    """In lower case."""
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    released_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())


class OneTimeToken(Base):
    """A token that can be used once. Only its hash is stored."""

    __tablename__ = "one_time_tokens"
    __table_args__ = (Index("uq_one_time_tokens_token_hash", "token_hash", unique=True),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    purpose: Mapped[str]
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    token_hash: Mapped[bytes] = mapped_column(BYTEA)
    created_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(UTC)
    used_at: Mapped[datetime | None] = mapped_column(UTC)
    use_id: Mapped[UUID | None]
    """Identifies the use: for an invitation, the new account."""


class Session(Base):
    """A sign-in, and the family of refresh tokens that descends from it (RFC 9700, section 4.14.2).

    Only the newest token of the family, `refresh_jti`, is valid. The use of an older token ends the session.
    """

    __tablename__ = "sessions"
    __table_args__ = (
        CheckConstraint("(ended_at IS NULL) = (end_reason IS NULL)", name="ended_with_reason"),
        Index("ix_sessions_expires_at", "expires_at"),
        Index("ix_sessions_ended_at", "ended_at", postgresql_where="ended_at IS NOT NULL"),
        Index("uq_sessions_cookie_hash", "cookie_hash", unique=True, postgresql_where="cookie_hash IS NOT NULL"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    refresh_jti: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(UTC)
    ended_at: Mapped[datetime | None] = mapped_column(UTC)
    end_reason: Mapped[str | None]
    network: Mapped[str | None]
    """The IPv4 address or the IPv6 network from which the user signed in."""
    agent: Mapped[str | None]
    last_used_at: Mapped[datetime | None] = mapped_column(UTC)
    cookie_hash: Mapped[bytes | None] = mapped_column(BYTEA)
    """The SHA-256 digest of the console's cookie, if the user signed in there."""


class ApiKey(Base):
    """A key that programs of a user send instead of an access token. Only its hash is stored."""

    __tablename__ = "api_keys"
    __table_args__ = (
        Index("uq_api_keys_key_hash", "key_hash", unique=True),
        Index("ix_api_keys_quota", "id", postgresql_where=HAS_QUOTA),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    hint: Mapped[str]
    """The beginning of the key, so that people recognise it."""
    key_hash: Mapped[bytes] = mapped_column(BYTEA)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(String))
    networks: Mapped[list[str]] = mapped_column(ARRAY(String))
    """The networks that may use the key, in CIDR notation. Empty if all networks may."""
    rate: Mapped[str | None]
    """The key's own rate limit, in addition to the rate limits of its user."""
    rows_per_day: Mapped[int | None] = mapped_column(BigInteger)
    rows_per_month: Mapped[int | None] = mapped_column(BigInteger)
    """How many rows may be scored with the key, in addition to the limits of its user. None stands for no limit."""
    created_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    expires_at: Mapped[datetime | None] = mapped_column(UTC)
    last_used_at: Mapped[datetime | None] = mapped_column(UTC)
    revoked_at: Mapped[datetime | None] = mapped_column(UTC)
