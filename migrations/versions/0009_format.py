"""Tasks record the format that their file was read in, and the coverage of each text."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, JSONB

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("format", JSONB, nullable=True))
    op.add_column("tasks", sa.Column("warned", sa.Integer, server_default="0", nullable=False))
    op.add_column("task_chunks", sa.Column("coverage", BYTEA, nullable=True))
    op.add_column("task_chunks", sa.Column("warned", sa.Integer, server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("task_chunks", "warned")
    op.drop_column("task_chunks", "coverage")
    op.drop_column("tasks", "warned")
    op.drop_column("tasks", "format")
