"""Usernames that an account has given up stay reserved."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "former_usernames",
        sa.Column("username", sa.String, nullable=False),
        sa.Column("user_id", sa.Uuid, nullable=True),
        sa.Column("released_at", TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("username", name="pk_former_usernames"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_former_usernames_user_id_users", ondelete="SET NULL"
        ),
    )


def downgrade() -> None:
    op.drop_table("former_usernames")
