"""Accounts can be erased and have their own retention; tokens that can be used once."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, TIMESTAMP

revision = "0015"
down_revision = "0014"

UTC = TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.add_column("users", sa.Column("deleted_at", UTC))
    op.add_column("users", sa.Column("history_days", sa.Integer))
    op.create_index("ix_users_deleted_at", "users", ["deleted_at"], postgresql_where=sa.text("deleted_at IS NOT NULL"))
    op.create_table(
        "one_time_tokens",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("user_id", sa.Uuid),
        sa.Column("token_hash", BYTEA, nullable=False),
        sa.Column("created_at", UTC, server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", UTC, nullable=False),
        sa.Column("used_at", UTC),
        sa.Column("use_id", sa.Uuid),
        sa.PrimaryKeyConstraint("id", name="pk_one_time_tokens"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_one_time_tokens_user_id_users", ondelete="CASCADE"),
    )
    op.create_index("uq_one_time_tokens_token_hash", "one_time_tokens", ["token_hash"], unique=True)
    op.create_index("ix_one_time_tokens_user_id", "one_time_tokens", ["user_id"])


def downgrade() -> None:
    op.drop_table("one_time_tokens")
    op.drop_index("ix_users_deleted_at", "users")
    op.drop_column("users", "history_days")
    op.drop_column("users", "deleted_at")
