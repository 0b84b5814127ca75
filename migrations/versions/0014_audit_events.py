"""The audit log, which can only be added to."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0014"
down_revision = "0013"

# The role of the service may add and read entries. In a database with a single role, the triggers still protect them.
PROTECT = """
CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' AND OLD.at < now() - interval '2160 hours' THEN
    RETURN OLD;
  END IF;
  RAISE EXCEPTION 'the audit log can only be added to' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON audit_events
  FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON audit_events
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();
CREATE FUNCTION delete_audit_events(before timestamptz) RETURNS bigint
  LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  WITH deleted AS (
    DELETE FROM audit_events WHERE id IN (
      SELECT id FROM audit_events WHERE at < least(before, now() - interval '2160 hours') ORDER BY at LIMIT 10000
    )
    RETURNING 1
  )
  SELECT count(*) FROM deleted
$$;
REVOKE EXECUTE ON FUNCTION delete_audit_events(timestamptz) FROM PUBLIC;
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'sentiment') AND current_user <> 'sentiment' THEN
    REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON audit_events FROM sentiment;
    GRANT INSERT (id, event, account_id, actor_id, operator, network, detail) ON audit_events TO sentiment;
    GRANT EXECUTE ON FUNCTION delete_audit_events(timestamptz) TO sentiment;
    REVOKE UPDATE, DELETE, TRUNCATE ON model_events FROM sentiment;
    REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON alembic_version FROM sentiment;
  END IF;
END $$;
"""


def upgrade() -> None:
    op.create_table(
        "audit_events",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("at", TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("event", sa.String, nullable=False),
        sa.Column("account_id", sa.Uuid),
        sa.Column("actor_id", sa.Uuid),
        sa.Column("operator", sa.String),
        sa.Column("network", sa.String),
        sa.Column("detail", sa.String),
        sa.PrimaryKeyConstraint("id", name="pk_audit_events"),
    )
    op.create_index("ix_audit_events_account_id_id", "audit_events", ["account_id", "id"])
    op.create_index("ix_audit_events_event_id", "audit_events", ["event", "id"])
    op.create_index("ix_audit_events_at", "audit_events", ["at"])
    op.execute(PROTECT)


def downgrade() -> None:
    op.drop_table("audit_events")
    op.execute("DROP FUNCTION delete_audit_events(timestamptz)")
    op.execute("DROP FUNCTION refuse_audit_change()")
