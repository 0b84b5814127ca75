"""Sessions of the console: their cookies."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.add_column("sessions", sa.Column("cookie_hash", BYTEA))
    op.create_index(
        "uq_sessions_cookie_hash",
        "sessions",
        ["cookie_hash"],
        unique=True,
        postgresql_where=sa.text("cookie_hash IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("uq_sessions_cookie_hash", "sessions")
    op.drop_column("sessions", "cookie_hash")
