"""The registry of models."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, TIMESTAMP

revision = "0003"
down_revision = "0002"

UTC = TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "model_releases",
        sa.Column("version", sa.String, nullable=False),
        sa.Column("state", sa.String, server_default="candidate", nullable=False),
        sa.Column("manifest", BYTEA, nullable=False),
        sa.Column("signature", sa.String, nullable=False),
        sa.Column("artifact", BYTEA, nullable=False),
        sa.Column("released_at", UTC, server_default=sa.func.now(), nullable=False),
        sa.Column("released_by", sa.String, nullable=False),
        sa.Column("activated_at", UTC),
        sa.Column("activated_by", sa.String),
        sa.PrimaryKeyConstraint("version", name="pk_model_releases"),
        sa.CheckConstraint(
            "state IN ('candidate', 'active', 'previous', 'retired')",
            name="ck_model_releases_state",
        ),
    )
    op.create_index(
        "uq_model_releases_active",
        "model_releases",
        ["state"],
        unique=True,
        postgresql_where="state = 'active'",
    )


def downgrade() -> None:
    op.drop_table("model_releases")
