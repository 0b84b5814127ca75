"""Store the totals of a task's chunks in its row when it has ended, and add indexes for the deletion of old rows."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0006"
down_revision = "0005"

INDEXES = (
    ("ix_tasks_expires_at", "expires_at", "status <> 'expired'"),
    ("ix_tasks_expired", "expires_at", "status = 'expired'"),
    ("ix_tasks_deleted_at", "deleted_at", "deleted_at IS NOT NULL"),
)


def upgrade() -> None:
    op.add_column("tasks", sa.Column("counts", ARRAY(sa.Integer), server_default="{0,0,0}", nullable=False))
    op.add_column("tasks", sa.Column("confidence_sum", sa.Float, server_default="0", nullable=False))
    tenths = "{0,0,0,0,0,0,0,0,0,0}"
    op.add_column("tasks", sa.Column("histogram", ARRAY(sa.Integer), server_default=tenths, nullable=False))
    op.execute(
        """
        UPDATE tasks SET completed = chunks.completed, failed = chunks.failed, counts = chunks.counts,
            confidence_sum = chunks.confidence_sum, histogram = chunks.histogram
        FROM (
            SELECT task_id, sum(completed) AS completed, sum(failed) AS failed,
                ARRAY[sum(counts[1]), sum(counts[2]), sum(counts[3])] AS counts,
                sum(confidence_sum) AS confidence_sum,
                ARRAY[sum(histogram[1]), sum(histogram[2]), sum(histogram[3]), sum(histogram[4]), sum(histogram[5]),
                    sum(histogram[6]), sum(histogram[7]), sum(histogram[8]), sum(histogram[9]), sum(histogram[10])]
                    AS histogram
            FROM task_chunks WHERE state = 'done' GROUP BY task_id
        ) AS chunks
        WHERE tasks.id = chunks.task_id AND tasks.status IN ('completed', 'failed', 'cancelled')
        """
    )
    for name, column, which in INDEXES:
        op.create_index(name, "tasks", [column], postgresql_where=sa.text(which))
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])


def downgrade() -> None:
    op.drop_index("ix_sessions_expires_at")
    for name, _, _ in INDEXES:
        op.drop_index(name)
    for column in ("counts", "confidence_sum", "histogram"):
        op.drop_column("tasks", column)
