"""Alembic's environment, as `sentiment db` runs it."""

import logging

from alembic import context
from alembic.util import CommandError
from flask import current_app
from sqlalchemy.exc import OperationalError

from sentiment_app.infrastructure.database import disable_wait_timeout, is_disconnect

db = current_app.extensions["migrate"].db
# Two deploys at once must not migrate together: the second waits here (PostgreSQL manual, advisory locks).
MIGRATION_LOCK = 5_355_141

log = logging.getLogger("alembic.env")


def is_ahead() -> bool:
    """Whether a newer release has migrated the database."""
    known = {script.revision for script in context.script.walk_revisions()}
    return not known.issuperset(context.get_context().get_current_heads())


def run() -> None:
    """Run the migrations in one transaction under a lock. Give up soon if a table is locked."""
    with db.engine.begin() as connection:
        disable_wait_timeout()  # the next deploy may wait for this one
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            compare_server_default=True,
        )
        with context.begin_transaction():
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
            connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
            if is_ahead():
                log.warning("A newer release has already migrated this database. Nothing to do.")
            else:
                context.run_migrations()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=db.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    try:
        run()
    except OperationalError as error:
        if not is_disconnect(error):
            raise
        raise CommandError("The database does not answer. Check DATABASE_URL, and that PostgreSQL runs.") from None
