"""Keys that sign tokens, which can be rotated."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, TIMESTAMP

revision = "0017"
down_revision = "0016"

# gen_random_uuid has 122 random bits.
FIRST_KEY = """
INSERT INTO token_keys (id, salt)
VALUES (gen_random_uuid(), uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
"""


def upgrade() -> None:
    op.create_table(
        "token_keys",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("salt", BYTEA, nullable=False),
        sa.Column("created_at", TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_token_keys"),
    )
    op.execute(FIRST_KEY)


def downgrade() -> None:
    op.drop_table("token_keys")
