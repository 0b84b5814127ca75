"""Sessions: they start with a sign-in, last while their refresh tokens are renewed, and store why they ended."""

import enum
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import ColumnElement, CursorResult, Select, delete, func, select, update

from sentiment_app.audit import service as audit
from sentiment_app.audit.service import Event
from sentiment_app.errors import InvalidTokenError, NotFoundError
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.users.models import Session, User
from sentiment_app.web.admission import admission

BATCH_ROWS = 1000
MAX_AGENT_CHARACTERS = 300
MAX_LISTED, MAX_NAMED = 200, 10


class Reason(enum.StrEnum):
    """Why a session ended."""

    LOGOUT = "logout"
    REUSE = "refresh token used twice"
    DEACTIVATED = "account deactivated"
    DELETED = "account deleted"
    ADMINISTRATOR = "ended by an administrator"
    PASSWORD = "password changed"  # noqa: S105  # a reason, not a password


class Origin(NamedTuple):
    """Where a sign-in comes from: its network (see web/rate_limits.py), and the client's description of itself."""

    network: str
    agent: str


class AccountChangedError(Exception):
    """The account was deactivated, or its password changed, during a sign-in."""


def start(user_id: UUID, verified_hash: str, origin: Origin, cookie: str | None = None) -> Session:
    """Start a session of a user whose password was verified against `verified_hash`; in the console, with a cookie.

    Raises:
        AccountChangedError: the user was deactivated or deleted meanwhile, or has another password.
    """
    return _start(uuid.uuid7(), uuid.uuid4(), user_id, verified_hash, origin, cookie)


@unit_of_work
def _start(
    session_id: UUID, jti: UUID, user_id: UUID, verified_hash: str, origin: Origin, cookie: str | None
) -> Session:
    user = db.session.get(User, user_id, with_for_update={"read": True}, populate_existing=True)
    if user is None or not user.is_active or user.password_hash != verified_hash:
        raise AccountChangedError
    audit.record(Event.SIGNED_IN, user_id)
    now = datetime.now(UTC)
    agent = origin.agent.replace("\0", "")[:MAX_AGENT_CHARACTERS]
    return db.session.merge(
        Session(
            id=session_id,
            user_id=user_id,
            refresh_jti=jti,
            created_at=now,
            expires_at=_new_expiry(now),
            network=origin.network,
            agent=agent,
            cookie_hash=_hash(cookie) if cookie else None,
        )
    )


def end_of_cookie(cookie: str) -> None:
    """End the session of a cookie, if there is one."""
    session_id = _find_by_cookie(cookie)
    if session_id:
        end(session_id, Reason.LOGOUT)


@unit_of_work
def _find_by_cookie(cookie: str) -> UUID | None:
    live = Session.cookie_hash == _hash(cookie), Session.ended_at.is_(None)
    return db.session.scalar(select(Session.id).where(*live))


@unit_of_work
def use_cookie(cookie: str) -> Session:
    """The session of a cookie, whose idle life begins anew.

    Raises:
        InvalidTokenError: there is no such session, or it has ended.
    """
    live = Session.cookie_hash == _hash(cookie), Session.ended_at.is_(None), Session.expires_at > func.now()
    session = db.session.scalar(select(Session).where(*live).with_for_update())
    if session is None:
        raise InvalidTokenError
    session.last_used_at, session.expires_at = datetime.now(UTC), _new_expiry(session.created_at)
    return session


def refresh(session_id: UUID, presented_jti: UUID) -> Session:
    """Replace the refresh token of a session with a new token.

    Raises:
        InvalidTokenError: the session has ended; or the token was used before, which ends the session.
    """
    session = _rotate(session_id, presented_jti, uuid.uuid4())
    if session.ended_at:
        admission().end([session.id])
        raise InvalidTokenError
    return session


@unit_of_work
def _rotate(session_id: UUID, presented_jti: UUID, next_jti: UUID) -> Session:
    session = db.session.get(Session, session_id, with_for_update=True)
    if session is None or session.expires_at <= datetime.now(UTC):
        raise InvalidTokenError
    if session.ended_at is None and session.refresh_jti == presented_jti:
        session.refresh_jti, session.expires_at = next_jti, _new_expiry(session.created_at)
        session.last_used_at = datetime.now(UTC)
    elif session.ended_at is None and session.refresh_jti != next_jti:
        # If this runs again after a lost answer, refresh_jti is already next_jti, and the session goes on.
        session.ended_at, session.end_reason = datetime.now(UTC), Reason.REUSE
        audit.record(Event.TOKEN_REUSED, session.user_id, str(session_id))
    return session


def end(session_id: UUID, reason: Reason) -> None:
    """End a session."""
    _end(session_id, reason)
    admission().end([session_id])


def end_own(user_id: UUID, session_id: UUID) -> None:
    """End a session of a user. A second time changes nothing.

    Raises:
        NotFoundError: it does not exist, or belongs to another user.
    """
    _check_owner(user_id, session_id)
    end(session_id, Reason.LOGOUT)


def end_all(user_id: UUID) -> None:
    """End all sessions of a user, for an administrator."""
    admission().end(_end_all(user_id))


@unit_of_work
def _end_all(user_id: UUID) -> list[UUID]:
    return mark_all_ended(user_id, Reason.ADMINISTRATOR)


def end_others(user_id: UUID, session_id: UUID) -> None:
    """End all sessions of a user except this session."""
    admission().end(_end_others(user_id, session_id))


@unit_of_work
def _end_others(user_id: UUID, session_id: UUID) -> list[UUID]:
    return [entry for entry in mark_all_ended(user_id, Reason.LOGOUT, keep=session_id) if entry != session_id]


@unit_of_work
def _check_owner(user_id: UUID, session_id: UUID) -> None:
    session = db.session.get(Session, session_id)
    if session is None or session.user_id != user_id:
        raise NotFoundError


@unit_of_work
def list_live(user_id: UUID) -> Sequence[Session]:
    """The newest sessions of a user that have not ended, newest first."""
    live = Session.user_id == user_id, Session.ended_at.is_(None), Session.expires_at > func.now()
    return db.session.scalars(select(Session).where(*live).order_by(Session.id.desc()).limit(MAX_LISTED)).all()


@unit_of_work
def page(user_id: UUID, limit: int, before: UUID | None) -> Sequence[Session]:
    """A page of all sessions of a user, newest first, beginning after a cursor."""
    found = select(Session).where(Session.user_id == user_id).order_by(Session.id.desc()).limit(limit)
    return db.session.scalars(found.where(Session.id < before) if before else found).all()


@unit_of_work
def is_known_network(username: str, network: str) -> bool:
    """Whether this user has signed in from this network. Sessions are stored for some time after they have ended."""
    known = select(Session.id).join(User).where(func.lower(User.username) == username.lower())
    return db.session.scalar(known.where(Session.network == network).limit(1)) is not None


@unit_of_work
def _end(session_id: UUID, reason: Reason) -> None:
    _mark_ended(reason, Session.id == session_id)


def mark_all_ended(user_id: UUID, reason: Reason, *, keep: UUID | None = None) -> list[UUID]:
    """End all sessions of a user, except `keep`, within the caller's unit of work.

    Returns the sessions that the caller passes to `admission().end` after the commit.
    """
    others = [Session.id != keep] if keep else []
    _mark_ended(reason, Session.user_id == user_id, *others)
    # Queried again, not returned by the update: if the unit of work runs again, they have ended already.
    return list(db.session.scalars(_recently_ended().where(Session.user_id == user_id)))


@unit_of_work
def find_recently_ended() -> list[UUID]:
    """Ended sessions whose access tokens may still be valid."""
    return list(db.session.scalars(_recently_ended()))


@unit_of_work
def is_live(session_id: UUID) -> bool:
    """Whether a session has not ended."""
    live = select(Session.id).where(Session.id == session_id, Session.ended_at.is_(None))
    return db.session.scalar(live) is not None


def delete_expired() -> int:
    """Delete sessions that no token can renew, in batches; returns their number."""
    total = 0
    while deleted := _delete_batch():
        total += deleted
    return total


@unit_of_work
def _delete_batch() -> int:
    batch = select(Session.id).where(Session.expires_at < func.now() - settings().ended_session_life).limit(BATCH_ROWS)
    expired = delete(Session).where(Session.id.in_(batch.scalar_subquery()))
    return cast(CursorResult[Any], db.session.execute(expired)).rowcount


def _mark_ended(reason: Reason, *conditions: ColumnElement[bool]) -> None:
    live = update(Session).where(Session.ended_at.is_(None), *conditions)
    ended = live.values(ended_at=func.now(), end_reason=reason).returning(Session.id, Session.user_id)
    found = db.session.execute(ended, execution_options=UNSYNCHRONIZED).all()
    if found:  # all of one user
        audit.record(Event.SESSION_ENDED, found[0].user_id, f"{reason}: {_list_ids([row.id for row in found])}")


def _hash(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode(errors="surrogatepass")).digest()


def _list_ids(ids: Sequence[UUID]) -> str:
    more = f" and {len(ids) - MAX_NAMED} more" if len(ids) > MAX_NAMED else ""
    return ", ".join(map(str, ids[:MAX_NAMED])) + more


def _recently_ended() -> Select[UUID]:
    return select(Session.id).where(Session.ended_at > func.now() - settings().ended_session_life)


def _new_expiry(created_at: datetime) -> datetime:
    return min(datetime.now(UTC) + settings().refresh_token_life, created_at + settings().session_life)
