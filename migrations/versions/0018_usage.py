"""Usage: how many rows were scored; and quotas."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0018"
down_revision = "0017"

OVERRIDDEN = "rows_per_day IS NOT NULL OR rows_per_month IS NOT NULL"


def upgrade() -> None:
    op.create_table(
        "usage_records",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("key_id", sa.Uuid),
        sa.Column("model_version", sa.String, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("is_total", sa.Boolean, server_default="false", nullable=False),
        sa.Column("created_at", TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_usage_records"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_usage_records_user_id_users", ondelete="CASCADE"),
    )
    op.create_index("ix_usage_records_user_id_day", "usage_records", ["user_id", "day"])
    op.create_index(
        "ix_usage_records_created_at", "usage_records", ["created_at"], postgresql_where=sa.text("NOT is_total")
    )
    op.create_index(
        "uq_usage_records_total",
        "usage_records",
        ["user_id", "day", "key_id", "model_version"],
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where=sa.text("is_total"),
    )
    op.create_table(
        "quota_counters",
        sa.Column("subject_id", sa.Uuid, nullable=False),
        sa.Column("period", sa.String, nullable=False),
        sa.Column("starts_on", sa.Date, nullable=False),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("corrected_at", TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("subject_id", "period", "starts_on", name="pk_quota_counters"),
        sa.CheckConstraint("period IN ('day', 'month')", name="ck_quota_counters_period"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_quota_counters_user_id_users", ondelete="CASCADE"),
    )
    op.create_index("ix_quota_counters_user_id", "quota_counters", ["user_id"])
    op.create_index("ix_quota_counters_corrected_at", "quota_counters", ["corrected_at"])
    for table in ("users", "api_keys"):
        op.add_column(table, sa.Column("rows_per_day", sa.BigInteger))
        op.add_column(table, sa.Column("rows_per_month", sa.BigInteger))
        op.create_index(f"ix_{table}_quota", table, ["id"], postgresql_where=sa.text(OVERRIDDEN))
    op.add_column("tasks", sa.Column("key_id", sa.Uuid))


def downgrade() -> None:
    op.drop_column("tasks", "key_id")
    for table in ("users", "api_keys"):
        op.drop_index(f"ix_{table}_quota", table)
        op.drop_column(table, "rows_per_day")
        op.drop_column(table, "rows_per_month")
    op.drop_table("quota_counters")
    op.drop_table("usage_records")
