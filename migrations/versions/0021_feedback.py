"""Feedback: the right labels that users give to texts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, TIMESTAMP

revision = "0021"
down_revision = "0020"

UTC = TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "feedback",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("text_sha256", BYTEA, nullable=False),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("created_at", UTC, server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", UTC, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
        sa.CheckConstraint("label IN ('negative', 'neutral', 'positive')", name="ck_feedback_label"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_feedback_user_id_users", ondelete="CASCADE"),
        sa.UniqueConstraint("user_id", "text_sha256", name="uq_feedback_user_id_text_sha256"),
    )
    op.create_index("ix_feedback_user_id_id", "feedback", ["user_id", "id"])
    op.create_index("ix_feedback_updated_at_id", "feedback", ["updated_at", "id"])


def downgrade() -> None:
    op.drop_table("feedback")
