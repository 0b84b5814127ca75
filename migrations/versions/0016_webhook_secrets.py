"""Random secrets of webhooks."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, TIMESTAMP

revision = "0016"
down_revision = "0015"

UTC = TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "webhook_secrets",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("key", BYTEA, nullable=False),
        sa.Column("created_at", UTC, server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", UTC),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_secrets"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_webhook_secrets_user_id_users", ondelete="CASCADE"),
    )
    op.create_index("ix_webhook_secrets_user_id", "webhook_secrets", ["user_id"])
    op.create_index(
        "uq_webhook_secrets_current",
        "webhook_secrets",
        ["user_id"],
        unique=True,
        postgresql_where=sa.text("expires_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("webhook_secrets")
