"""Tables of usage and quotas."""

import datetime as dt
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from sentiment_app.infrastructure.database import UTC, Base


class UsageRecord(Base):
    """How many rows were scored for a user, with an API key or without, by a version of the model, on a day in UTC.

    A transaction that stores scores adds a record of its own, so that transactions do not wait for each other. Records
    are added up a few minutes later; then there is one total for each user, day, key and version.
    """

    __tablename__ = "usage_records"
    __table_args__ = (
        Index("ix_usage_records_user_id_day", "user_id", "day"),
        Index("ix_usage_records_created_at", "created_at", postgresql_where="NOT is_total"),
        Index(
            "uq_usage_records_total",
            *("user_id", "day", "key_id", "model_version"),
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where="is_total",
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    key_id: Mapped[UUID | None]
    model_version: Mapped[str]
    day: Mapped[dt.date]
    rows: Mapped[int] = mapped_column(BigInteger)
    is_total: Mapped[bool] = mapped_column(server_default="false")
    created_at: Mapped[dt.datetime] = mapped_column(UTC, server_default=func.now())


class QuotaCounter(Base):
    """The rows that an account, or an API key, has used of its quota. It exists only if there is a quota."""

    __tablename__ = "quota_counters"
    __table_args__ = (
        CheckConstraint("period IN ('day', 'month')", name="period"),
        Index("ix_quota_counters_user_id", "user_id"),
        Index("ix_quota_counters_corrected_at", "corrected_at"),
    )

    subject_id: Mapped[UUID] = mapped_column(primary_key=True)
    """The account or the API key."""
    period: Mapped[str] = mapped_column(primary_key=True)
    starts_on: Mapped[dt.date] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    rows: Mapped[int] = mapped_column(BigInteger)
    corrected_at: Mapped[dt.datetime] = mapped_column(UTC, server_default=func.now())
