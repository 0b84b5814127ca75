"""Batch scoring: tasks, their chunks, and the deliveries of webhooks."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, TIMESTAMP

revision = "0005"
down_revision = "0004"

UTC = TIMESTAMP(timezone=True)
STATUSES = "'uploading', 'queued', 'running', 'cancelling', 'completed', 'failed', 'cancelled', 'expired'"
NOW = sa.func.now()


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("status", sa.String, server_default="uploading", nullable=False),
        sa.Column("model_version", sa.String, nullable=False),
        sa.Column("total", sa.Integer, server_default="0", nullable=False),
        sa.Column("completed", sa.Integer, server_default="0", nullable=False),
        sa.Column("failed", sa.Integer, server_default="0", nullable=False),
        sa.Column("error", sa.String),
        sa.Column("webhook_url", sa.String),
        sa.Column("idempotency_key", sa.String),
        sa.Column("fingerprint", sa.String),
        sa.Column("created_at", UTC, server_default=NOW, nullable=False),
        sa.Column("touched_at", UTC, server_default=NOW, nullable=False),
        sa.Column("started_at", UTC),
        sa.Column("finished_at", UTC),
        sa.Column("expires_at", UTC),
        sa.Column("deleted_at", UTC),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_tasks_user_id_users", ondelete="CASCADE"),
        sa.CheckConstraint(f"status IN ({STATUSES})", name="ck_tasks_status"),
    )
    op.create_index("ix_tasks_user_id_id", "tasks", ["user_id", "id"])
    op.create_index(
        "ix_tasks_unfinished",
        "tasks",
        ["id"],
        postgresql_where=sa.text("status IN ('uploading', 'queued', 'running', 'cancelling')"),
    )
    op.create_index(
        "uq_tasks_idempotency_key",
        "tasks",
        ["user_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "task_chunks",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("task_id", sa.Uuid, nullable=False),
        sa.Column("first", sa.Integer, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("state", sa.String, server_default="waiting", nullable=False),
        sa.Column("queued_at", UTC),
        sa.Column("lease_until", UTC),
        sa.Column("token", sa.Uuid),
        sa.Column("attempts", sa.Integer, server_default="0", nullable=False),
        sa.Column("texts", BYTEA, nullable=False),
        sa.Column("keys", BYTEA, nullable=False),
        sa.Column("results", BYTEA),
        sa.Column("errors", JSONB, server_default="{}", nullable=False),
        sa.Column("completed", sa.Integer, server_default="0", nullable=False),
        sa.Column("failed", sa.Integer, server_default="0", nullable=False),
        sa.Column("counts", ARRAY(sa.Integer), server_default="{0,0,0}", nullable=False),
        sa.Column("confidence_sum", sa.Float, server_default="0", nullable=False),
        sa.Column("histogram", ARRAY(sa.Integer), server_default="{0,0,0,0,0,0,0,0,0,0}", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_task_chunks"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_task_chunks_task_id_tasks", ondelete="CASCADE"),
        sa.CheckConstraint("state IN ('waiting', 'queued', 'running', 'done')", name="ck_task_chunks_state"),
    )
    # The service compresses these columns, so PostgreSQL must not try to compress them again.
    for column in ("texts", "keys", "results"):
        op.execute(f"ALTER TABLE task_chunks ALTER COLUMN {column} SET STORAGE EXTERNAL")
    op.create_index("uq_task_chunks_task_id_first", "task_chunks", ["task_id", "first"], unique=True)
    op.create_index(
        "ix_task_chunks_task_id_waiting",
        "task_chunks",
        ["task_id", "first"],
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index(
        "ix_task_chunks_outstanding",
        "task_chunks",
        ["id"],
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("task_id", sa.Uuid, nullable=False),
        sa.Column("event", sa.String, nullable=False),
        sa.Column("state", sa.String, server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer, server_default="0", nullable=False),
        sa.Column("next_at", UTC, server_default=NOW, nullable=False),
        sa.Column("answer", sa.String),
        sa.Column("created_at", UTC, server_default=NOW, nullable=False),
        sa.Column("delivered_at", UTC),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name="fk_webhook_deliveries_task_id_tasks", ondelete="CASCADE"
        ),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="ck_webhook_deliveries_state"),
    )
    op.create_index("ix_webhook_deliveries_task_id", "webhook_deliveries", ["task_id"])
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["next_at"],
        postgresql_where=sa.text("state = 'pending'"),
    )


def downgrade() -> None:
    for table in ("webhook_deliveries", "task_chunks", "tasks"):
        op.drop_table(table)
