"""Store the current attempt of a delivery, and the number of rows that were done before a task was retried."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("webhook_deliveries", sa.Column("attempt_id", sa.Uuid, nullable=True))
    op.add_column("tasks", sa.Column("rows_before_run", sa.Integer, server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("tasks", "rows_before_run")
    op.drop_column("webhook_deliveries", "attempt_id")
