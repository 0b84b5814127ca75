"""Alembic's environment, as `flask db` runs it."""

from alembic import context
from flask import current_app

db = current_app.extensions["migrate"].db
# Two deploys at once must not migrate together: the second waits here (PostgreSQL manual, advisory locks).
MIGRATION_LOCK = 5_355_141


def run() -> None:
    """Run the migrations in one transaction, under a lock, without waiting long for busy tables."""
    with db.engine.begin() as connection:
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            compare_server_default=True,
        )
        with context.begin_transaction():
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # the next deploy may wait for this one
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
            connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
            context.run_migrations()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=db.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    run()
