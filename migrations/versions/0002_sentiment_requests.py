"""Scored texts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "sentiment_requests",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("created_at", TIMESTAMP(timezone=True), nullable=False),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("sentiment", sa.String, nullable=False),
        sa.Column("negative", sa.Double, nullable=False),
        sa.Column("neutral", sa.Double, nullable=False),
        sa.Column("positive", sa.Double, nullable=False),
        sa.Column("model_version", sa.String, nullable=False),
        sa.Column("processing_time", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sentiment_requests"),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
            name="fk_sentiment_requests_user_id_users",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "sentiment IN ('negative', 'neutral', 'positive')",
            name="ck_sentiment_requests_sentiment",
        ),
    )
    op.create_index("ix_sentiment_requests_user_id_id", "sentiment_requests", ["user_id", "id"])
    op.create_index(
        "ix_sentiment_requests_user_id_sentiment_id",
        "sentiment_requests",
        ["user_id", "sentiment", "id"],
    )


def downgrade() -> None:
    op.drop_table("sentiment_requests")
