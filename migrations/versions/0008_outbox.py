"""Deliveries have their own snapshot of the owner, the URL and the payload.

The columns may be null: the release before this one still inserts rows without them, and the reconciler fills them in.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("webhook_deliveries", sa.Column("user_id", sa.Uuid, nullable=True))
    op.add_column("webhook_deliveries", sa.Column("url", sa.String, nullable=True))
    op.add_column("webhook_deliveries", sa.Column("payload", JSONB, nullable=True))
    op.execute("""
        UPDATE webhook_deliveries SET user_id = tasks.user_id, url = tasks.webhook_url, payload = jsonb_build_object(
            'type', 'task.' || webhook_deliveries.event,
            'data', jsonb_build_object(
                'task_id', tasks.id, 'status', webhook_deliveries.event, 'model_version', tasks.model_version))
        FROM tasks WHERE tasks.id = webhook_deliveries.task_id
    """)
    op.create_foreign_key(
        "fk_webhook_deliveries_user_id_users", "webhook_deliveries", "users", ["user_id"], ["id"], ondelete="CASCADE"
    )
    op.create_index("ix_webhook_deliveries_user_id", "webhook_deliveries", ["user_id"])


def downgrade() -> None:
    op.drop_index("ix_webhook_deliveries_user_id", "webhook_deliveries")
    op.drop_constraint("fk_webhook_deliveries_user_id_users", "webhook_deliveries")
    op.drop_column("webhook_deliveries", "payload")
    op.drop_column("webhook_deliveries", "url")
    op.drop_column("webhook_deliveries", "user_id")
