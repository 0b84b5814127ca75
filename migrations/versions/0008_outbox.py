"""Deliveries have their own snapshot of the owner, the URL and the payload.

The columns may be null, and the migration does not fill them in, so that it locks the table only for a moment. The
reconciler fills in pending deliveries, including deliveries that the previous release still inserts.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("webhook_deliveries", sa.Column("user_id", sa.Uuid, nullable=True))
    op.add_column("webhook_deliveries", sa.Column("url", sa.String, nullable=True))
    op.add_column("webhook_deliveries", sa.Column("payload", sa.JSON, nullable=True))


def downgrade() -> None:
    op.drop_column("webhook_deliveries", "payload")
    op.drop_column("webhook_deliveries", "url")
    op.drop_column("webhook_deliveries", "user_id")
