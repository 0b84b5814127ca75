"""Tasks record the format that their file was read in."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("format", JSONB, nullable=True))


def downgrade() -> None:
    op.drop_column("tasks", "format")
