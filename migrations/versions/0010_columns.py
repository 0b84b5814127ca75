"""Chunks keep the columns of an uploaded file that its owner wants back with the results."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("task_chunks", sa.Column("columns", BYTEA, nullable=True))


def downgrade() -> None:
    op.drop_column("task_chunks", "columns")
