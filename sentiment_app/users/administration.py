"""What administrators and operators do with accounts: rights, password resets and deletion."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import uuid_utils.compat as uuid
from sqlalchemy import select

from sentiment_app.audit import service as audit
from sentiment_app.audit.service import Event
from sentiment_app.errors import ConflictError
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.users import api_keys, one_time_tokens, service, sessions
from sentiment_app.users.models import FormerUsername, User
from sentiment_app.users.one_time_tokens import InvalidOneTimeTokenError, Purpose
from sentiment_app.web.admission import admission

FIRST_ADMINISTRATOR = "admin"


class OwnAccountError(ConflictError):
    """Administrators cannot deactivate, demote or delete themselves in this way."""

    kind = "own-account"
    detail = "You cannot do this to your own account. Ask another administrator."


def welcome(life: timedelta) -> one_time_tokens.NewToken | None:
    """A token with which the first administrator chooses a password; None if the administrators have passwords.

    If there is no administrator, the account FIRST_ADMINISTRATOR is created, without a password.

    Raises:
        TakenError: an ordinary user has this name.
    """
    administrators = _find_administrators()
    if not administrators:
        email = f"{FIRST_ADMINISTRATOR}@localhost.localdomain"
        administrators = [service.register_without_password(FIRST_ADMINISTRATOR, email, is_superuser=True)]
    waiting = next((user for user in administrators if not user.password_hash), None)
    return start_password_reset(waiting.id, life) if waiting else None


@unit_of_work
def _find_administrators() -> Sequence[User]:
    found = select(User).where(User.is_superuser, User.is_active).order_by(User.id)
    return db.session.scalars(found).all()


def reset_password(username: str, new: str, *, revoke_keys: bool = False) -> User:
    """Set a new password, and end all sessions of the account. With `revoke_keys`, also revoke its API keys.

    Raises:
        NotFoundError, WeakPasswordError
    """
    user = service.get_by_username(username)
    changes = {"password_hash": service.hash_if_acceptable(new, user)}
    changed = service.change(user.id, changes, ends=sessions.Reason.PASSWORD)
    if revoke_keys:
        api_keys.revoke_all(user.id)
    return changed


def start_password_reset(user_id: UUID, life: timedelta, *, by: UUID | None = None) -> one_time_tokens.NewToken:
    """Make a token with which a user sets a new password.

    Raises:
        NotFoundError
        OwnAccountError: `by` is the account itself. It changes its password with the current password.
    """
    if user_id == by:
        raise OwnAccountError
    service.get(user_id)
    return one_time_tokens.create(Purpose.PASSWORD_RESET, user_id, life)


def finish_password_reset(token: str, new: str) -> User:
    """Set a new password with a token, which is used up, and end all sessions of the account. Returns the account.

    Raises:
        InvalidOneTimeTokenError, WeakPasswordError
    """
    use_id, user = uuid.uuid4(), _find_reset(token)
    admission().end(_use_reset(user.id, token, use_id, service.hash_if_acceptable(new, user)))
    return user


@unit_of_work
def _find_reset(token: str) -> User:
    user = service.load(one_time_tokens.find_user(Purpose.PASSWORD_RESET, token))
    if not user.is_active:
        raise InvalidOneTimeTokenError
    return user


@unit_of_work
def _use_reset(user_id: UUID, token: str, use_id: UUID, password_hash: str) -> list[UUID]:
    user = service.load(user_id, with_for_update=True)
    if not user.is_active:
        raise InvalidOneTimeTokenError
    token_id = one_time_tokens.use(Purpose.PASSWORD_RESET, token, use_id)
    user.password_hash = password_hash
    one_time_tokens.cancel(user_id)
    audit.record(Event.PASSWORD_CHANGED, user.id, f"reset with {token_id}")
    return sessions.mark_all_ended(user.id, sessions.Reason.PASSWORD)


def administer(user_id: UUID, changes: dict[str, Any], *, by: UUID | None = None) -> User:
    """Change whether an account is active (`is_active`) and an administrator (`is_superuser`), and its quotas.

    Deactivation ends its sessions, and refuses its API keys, at once. After an account is activated again, it can take
    `ended_session_life` until its API keys work again.

    Raises:
        NotFoundError
        OwnAccountError: `by` is the account itself, and would lose a right.
        LastAdministratorError
    """
    if user_id == by and False in (changes.get("is_active"), changes.get("is_superuser")):
        raise OwnAccountError
    is_deactivated = changes.get("is_active") is False
    user = service.change(user_id, changes, ends=sessions.Reason.DEACTIVATED if is_deactivated else None)
    if is_deactivated:
        admission().end(key.id for key in api_keys.list_keys(user_id))
    return user


def delete(user_id: UUID, *, by: UUID | None = None) -> None:
    """Delete an account: its names and password are erased, and its sessions and API keys end, at once.

    Its name and its email address can be used for a new account. Its other data is erased by the caller.

    Raises:
        NotFoundError
        OwnAccountError: `by` is the account itself.
        LastAdministratorError
    """
    if user_id == by:
        raise OwnAccountError
    admission().end(_delete(user_id))


def delete_own(user_id: UUID, current_password: str) -> None:
    """Delete the account of a user who sends the current password. As `delete`.

    Raises:
        WrongPasswordError, LastAdministratorError
    """
    verified = service.get(user_id).password_hash
    service.verify_password(user_id, current_password)
    admission().end(_delete(user_id, verified))


@unit_of_work
def _delete(user_id: UUID, verified: str | None = None) -> list[UUID]:
    user = service.load(user_id, with_for_update=True)
    if user.deleted_at is None:
        if verified not in (None, user.password_hash):
            raise service.WrongPasswordError  # another request changed it first
        service.keep_an_administrator(user)
        user.username = user.email = f"deleted-{user_id}"  # nobody can register these names
        user.password_hash, user.is_active, user.is_superuser = "", False, False
        user.deleted_at = datetime.now(UTC)
        db.session.execute(sa.delete(FormerUsername).where(FormerUsername.user_id == user_id))
        one_time_tokens.cancel(user_id)
        audit.record(Event.USER_DELETED, user_id)
    return [*sessions.mark_all_ended(user_id, sessions.Reason.DELETED), *api_keys.mark_all_revoked(user_id)]


@unit_of_work
def find_deleted() -> Sequence[UUID]:
    """Deleted accounts whose data is not erased yet."""
    return db.session.scalars(select(User.id).where(User.deleted_at.is_not(None)).order_by(User.deleted_at)).all()


@unit_of_work
def erase(user_id: UUID) -> None:
    """Erase the last row of a deleted account, with all rows of the database that belong to it."""
    erased = sa.delete(User).where(User.id == user_id, User.deleted_at.is_not(None))
    if db.session.execute(erased.returning(User.id), execution_options=UNSYNCHRONIZED).first():
        audit.record(Event.DATA_ERASED, user_id)
