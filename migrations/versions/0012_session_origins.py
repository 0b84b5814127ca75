"""Sessions remember where they began and when they were last used."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("sessions", sa.Column("network", sa.String, nullable=True))
    op.add_column("sessions", sa.Column("agent", sa.String, nullable=True))
    op.add_column("sessions", sa.Column("last_used_at", TIMESTAMP(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("sessions", "last_used_at")
    op.drop_column("sessions", "agent")
    op.drop_column("sessions", "network")
