"""Languages: which rows of a task are in another language than the texts that the model was trained on."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.add_column("task_chunks", sa.Column("languages", JSONB, server_default="{}", nullable=False))
    for table in ("task_chunks", "tasks"):
        op.add_column(table, sa.Column("other_language", sa.Integer, server_default="0", nullable=False))


def downgrade() -> None:
    for table in ("task_chunks", "tasks"):
        op.drop_column(table, "other_language")
    op.drop_column("task_chunks", "languages")
