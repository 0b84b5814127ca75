"""The audit log of the model registry."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0004"
down_revision = "0003"

ACTIONS = "'released', 'activated', 'rolled back', 'retired', 'reinstated', 'refused', 'not loaded'"


def upgrade() -> None:
    op.create_table(
        "model_events",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("at", TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("detail", sa.String),
        sa.PrimaryKeyConstraint("id", name="pk_model_events"),
        sa.CheckConstraint(f"action IN ({ACTIONS})", name="ck_model_events_action"),
        sa.ForeignKeyConstraint(["version"], ["model_releases.version"], name="fk_model_events_version_model_releases"),
    )
    op.create_index("ix_model_events_version_id", "model_events", ["version", "id"])
    # A rollback activates the previous model, so only the model that was active last keeps the state "previous".
    op.execute(
        """
        UPDATE model_releases SET state = 'candidate' WHERE state = 'previous' AND version <> (
            SELECT version FROM model_releases WHERE state = 'previous' ORDER BY activated_at DESC LIMIT 1)
        """
    )
    op.create_index(
        "uq_model_releases_previous",
        "model_releases",
        ["state"],
        unique=True,
        postgresql_where="state = 'previous'",
    )


def downgrade() -> None:
    op.drop_index("uq_model_releases_previous", "model_releases")
    op.drop_table("model_events")
