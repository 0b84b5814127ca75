"""Write and read the audit log. The names of events follow OWASP's Application Logging Vocabulary."""

import enum
import getpass
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import structlog
import uuid_utils.compat as uuid
from sqlalchemy import func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from sentiment_app.audit.models import AuditEvent
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import db, unit_of_work


class Event(enum.StrEnum):
    """What happened."""

    SIGNED_IN = "authn_login_success"
    SIGN_IN_FAILED = "authn_login_fail"
    PASSWORD_CHANGED = "authn_password_change"  # noqa: S105  # a name, not a password
    KEY_CREATED = "authn_token_created"
    KEY_REVOKED = "authn_token_revoked"
    TOKEN_REUSED = "authn_token_reuse"  # noqa: S105  # the same
    SESSION_ENDED = "session_ended"
    RIGHTS_CHANGED = "privilege_permissions_changed"
    USER_CREATED = "user_created"
    USER_UPDATED = "user_updated"
    USER_DELETED = "user_deleted"
    DATA_EXPORTED = "sensitive_read"
    DATA_ERASED = "sensitive_delete"
    MODEL_CHANGED = "model_changed"
    SIGNING_KEY_ROTATED = "signing_key_rotated"


class Actor(NamedTuple):
    """Who acts: a user who sent a request from a network, or an operator who runs a command."""

    user_id: UUID | None = None
    operator: str | None = None
    network: str | None = None


# Set for each request. Commands and workers act as the operating system's user.
ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)

log = structlog.get_logger("audit")


def record(event: Event, account_id: UUID | None = None, detail: str | None = None) -> None:
    """Add an entry, within the caller's unit of work: it is stored together with what it describes, or not at all.

    If the unit of work runs again after a lost answer, there may be two entries.
    """
    actor = _actor()
    values = {
        "id": uuid.uuid7(),
        "event": event,
        "account_id": account_id,
        "actor_id": actor.user_id,
        "operator": actor.operator,
        "network": actor.network,
        "detail": detail,
    }
    db.session.execute(insert(AuditEvent).values(values))
    ids = {name: str(id_) for name, id_ in (("account_id", account_id), ("actor_id", actor.user_id)) if id_}
    log.info(event, **ids, network=actor.network, detail=detail)


def record_failed_sign_in(account_id: UUID | None) -> None:
    """Add an entry about a failed sign-in, in a unit of work of its own. If it cannot be stored, it is only logged.

    An unknown account takes the same work, but its entry is only logged: anybody could fill the disk with such entries.
    """
    try:
        _record_failed_sign_in(account_id)
    except SQLAlchemyError as error:
        log.error("audit_entry_lost", entry=Event.SIGN_IN_FAILED, reason=type(error).__name__)  # noqa: TRY400  # a traceback could quote values


@unit_of_work
def _record_failed_sign_in(account_id: UUID | None) -> None:
    # Known and unknown accounts must take the same time, so neither waits for the disk.
    db.session.execute(select(func.set_config("synchronous_commit", "off", True)))  # until the commit
    with db.session.begin_nested() as savepoint:
        record(Event.SIGN_IN_FAILED, account_id, None if account_id else "unknown account")
        if account_id is None:
            savepoint.rollback()


@unit_of_work
def record_alone(event: Event, account_id: UUID | None = None, detail: str | None = None) -> None:
    """Add an entry in a unit of work of its own."""
    record(event, account_id, detail)


def _actor() -> Actor:
    return ACTOR.get() or Actor(operator=getpass.getuser())


@unit_of_work
def page(
    limit: int,
    before: UUID | None,
    *,
    account_id: UUID | None = None,
    event: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Sequence[AuditEvent]:
    """A page of the audit log, newest first, beginning after a cursor."""
    entries = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)
    if before:
        entries = entries.where(AuditEvent.id < before)
    if account_id:
        entries = entries.where(AuditEvent.account_id == account_id)
    if event:
        entries = entries.where(AuditEvent.event == event)
    if since:
        entries = entries.where(AuditEvent.at >= since)
    if until:
        entries = entries.where(AuditEvent.at < until)
    return db.session.scalars(entries).all()


def delete_expired() -> int:
    """Delete entries that are older than AUDIT_DAYS; returns their number.

    The application may not delete entries. A function of the database does, and it refuses entries of the last 90 days.
    """
    before = datetime.now(UTC) - timedelta(days=settings().audit_days)
    total = 0
    while deleted := _delete_batch(before):
        total += deleted
    return total


@unit_of_work
def _delete_batch(before: datetime) -> int:
    deleted: int = db.session.scalars(select(func.delete_audit_events(before))).one()
    return deleted
