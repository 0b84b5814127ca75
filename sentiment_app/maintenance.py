"""Maintenance: `sentiment purge` deletes expired data. Each feature has its own retention steps."""

import click
import structlog
from sqlalchemy.exc import SQLAlchemyError

from sentiment_app.audit import service as audit
from sentiment_app.cli import as_json, command, print_json
from sentiment_app.errors import UnavailableError
from sentiment_app.privacy.service import erase_deleted_accounts
from sentiment_app.sentiment import history
from sentiment_app.tasks.retention import RETENTION_STEPS
from sentiment_app.usage import counters
from sentiment_app.users import api_keys, one_time_tokens, sessions

STEPS = {
    **RETENTION_STEPS,
    "history": history.delete_expired,
    "sessions": sessions.delete_expired,
    "api_keys": api_keys.delete_ended,
    "tokens": one_time_tokens.delete_expired,
    "accounts": erase_deleted_accounts,
    "audit": audit.delete_expired,
    "quotas": counters.delete_expired,
}

log = structlog.get_logger()


class PurgeError(UnavailableError):
    """Some retention steps failed."""

    kind = "purge-incomplete"


def purge() -> dict[str, int]:
    """Run all retention steps, each in small transactions. Returns how many items each step deleted.

    Raises:
        PurgeError: a step failed. The other steps have run.
    """
    done, failed = {}, []
    for name, step in STEPS.items():
        try:
            done[name] = step()
        except SQLAlchemyError as error:
            log.error("purge_step_failed", step=name, reason=type(error).__name__)  # noqa: TRY400  # a traceback could quote a row
            failed.append(name)
    if failed:
        deleted = ", ".join(f"{name}: {number}" for name, number in done.items())
        raise PurgeError(f"These steps failed: {', '.join(failed)}. The other steps deleted: {deleted}.")
    return done


@command("purge")
@as_json
def purge_command(as_json: bool) -> None:
    """Delete what has expired: results, history, sessions, API keys, deleted tasks and accounts, and the audit log.

    TASK_DAYS, HISTORY_DAYS and AUDIT_DAYS say how long they are kept.

    Example: sentiment purge
    """
    done = purge()
    if as_json:
        print_json(done)
    else:
        click.echo(", ".join(f"{name}: {number}" for name, number in done.items()))
