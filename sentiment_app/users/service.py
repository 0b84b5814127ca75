"""Accounts: registered, looked up, changed, closed."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from sentiment_app.admission import admission
from sentiment_app.errors import ConflictError, ForbiddenError, NotFoundError
from sentiment_app.extensions import db, unit_of_work
from sentiment_app.users import passwords, sessions
from sentiment_app.users.models import User


class TakenError(ConflictError):
    """Somebody has this username or email address already."""

    kind = "taken"

    def __init__(self, field: str) -> None:
        detail = f"This {field} is taken."
        super().__init__(detail, [{"in": "body", "pointer": f"/{field}", "detail": detail}])


class WrongPasswordError(ForbiddenError):
    """The current password, asked for before it is changed, is not right."""

    def __init__(self) -> None:
        detail = "This is not your current password."
        super().__init__(detail, [{"in": "body", "pointer": "/current_password", "detail": detail}])


class OwnAccountError(ConflictError):
    """Administrators cannot shut themselves out."""

    kind = "own-account"
    detail = "You cannot deactivate your own account."


def register(username: str, email: str, password: str, *, is_superuser: bool = False) -> User:
    """Make an account.

    Raises:
        WeakPasswordError, TakenError: with a pointer to the field.
    """
    passwords.check(password, username=username, email=email)
    password_hash = passwords.hash_password(password)
    return _insert(
        id=uuid.uuid7(),
        username=username,
        email=email,
        password_hash=password_hash,
        is_superuser=is_superuser,
    )


@unit_of_work
def _insert(**values: Any) -> User:
    try:
        # Not "on any conflict": only its own row, when the unit of work runs again, is no conflict.
        db.session.execute(insert(User).values(values).on_conflict_do_nothing(index_elements=[User.id]))
    except IntegrityError as error:
        raise _taken(error) from None
    return db.session.get_one(User, values["id"])


def authenticate(username: str, password: str) -> User | None:
    """The active user with this name and password. Takes as long, and says as little, whatever is wrong."""
    user = find(username)
    if not passwords.is_right(user.password_hash if user else None, password) or not (user and user.is_active):
        return None
    return user


def renew_hash(user: User, password: str) -> None:
    """Hash a verified password anew if the settings have changed since it was hashed."""
    if passwords.is_outdated(user.password_hash):
        _replace_hash(user.id, user.password_hash, passwords.hash_password(password))


@unit_of_work
def _replace_hash(user_id: UUID, old: str, new: str) -> None:
    # Where the old one still stands: a password that was changed meanwhile shall not come back.
    same = update(User).where(User.id == user_id, User.password_hash == old)
    db.session.execute(same.values(password_hash=new))


@unit_of_work
def find(username: str) -> User | None:
    """The user of that name, in any case of its letters."""
    return db.session.scalar(select(User).where(func.lower(User.username) == username.lower()))


def named(username: str) -> User:
    """The same, where there must be one.

    Raises:
        NotFoundError: there is none.
    """
    user = find(username)
    if user is None:
        raise NotFoundError(f"There is no user {username!r}.")
    return user


@unit_of_work
def get(user_id: UUID) -> User:
    """One user.

    Raises:
        NotFoundError: there is none.
    """
    return _get(user_id)


@unit_of_work
def page(limit: int, after: UUID | None) -> Sequence[User]:
    """Users in the order in which they registered, `limit` at most, beginning after a cursor."""
    users = select(User).order_by(User.id).limit(limit)
    return db.session.scalars(users.where(User.id > after) if after else users).all()


@unit_of_work
def is_administrator(user_id: UUID) -> bool:
    """Whether this user is an active administrator."""
    found = select(User.id).where(User.id == user_id, User.is_active, User.is_superuser)
    return db.session.scalar(found) is not None


def change_profile(user_id: UUID, session_id: UUID, changes: dict[str, Any]) -> User:
    """Change one's own username, email address or password; all of it or nothing.

    A new password comes with the current one, and ends one's other sessions.

    Raises:
        WrongPasswordError, WeakPasswordError, TakenError: with a pointer to the field.
    """
    changes = dict(changes)
    current, new = changes.pop("current_password", None), changes.pop("password", None)
    if new is None:
        return _change(user_id, changes)
    user = get(user_id)
    if not passwords.is_right(user.password_hash, current):
        raise WrongPasswordError
    verified = user.password_hash
    changes["password_hash"] = _accepted(new, user, changes)
    return _change(user_id, changes, verified=verified, ends=sessions.Reason.PASSWORD, keep=session_id)


def reset_password(username: str, new: str) -> User:
    """Give an account a new password, and end all its sessions.

    Raises:
        NotFoundError, WeakPasswordError
    """
    user = named(username)
    changes = {"password_hash": _accepted(new, user)}
    return _change(user.id, changes, ends=sessions.Reason.PASSWORD)


def set_superuser(username: str, is_superuser: bool) -> User:
    """Make a user an administrator, or no longer one.

    Raises:
        NotFoundError: there is no such user.
    """
    return _change(named(username).id, {"is_superuser": is_superuser})


def set_active(user_id: UUID, active: bool, *, by: UUID | None = None) -> User:
    """Open or close an account; closing ends its sessions at once.

    Raises:
        NotFoundError: there is no such user.
        OwnAccountError: one's own account is not to be closed.
    """
    if user_id == by and not active:
        raise OwnAccountError
    return _change(user_id, {"is_active": active}, ends=None if active else sessions.Reason.DEACTIVATED)


def _accepted(new: str, user: User, changes: dict[str, Any] | None = None) -> str:
    named = {"username": user.username, "email": user.email, **(changes or {})}
    passwords.check(new, username=named["username"], email=named["email"])
    return passwords.hash_password(new)


def _change(
    user_id: UUID,
    changes: dict[str, Any],
    *,
    verified: str | None = None,
    ends: sessions.Reason | None = None,
    keep: UUID | None = None,
) -> User:
    user, ended = _store(user_id, changes, verified, ends, keep)
    admission().end(ended)
    return user


@unit_of_work
def _store(
    user_id: UUID, changes: dict[str, Any], verified: str | None, ends: sessions.Reason | None, keep: UUID | None
) -> tuple[User, list[UUID]]:
    # The lock: a sign-in under way has either come before, and is ended below, or sees the change.
    user = _get(user_id, with_for_update=True)
    if verified and user.password_hash not in (verified, changes["password_hash"]):
        raise WrongPasswordError  # somebody else changed it first; the new one is there when this runs again
    for name, value in changes.items():
        setattr(user, name, value)
    try:
        db.session.flush()
    except IntegrityError as error:
        raise _taken(error) from None
    db.session.refresh(user)
    return user, sessions.mark_all_ended(user_id, ends, keep=keep) if ends else []


def _get(user_id: UUID, *, with_for_update: bool = False) -> User:
    # Others' rows may be stored in one commit with this user's, which looks whether the user is there (KEY SHARE).
    lock = {"key_share": True} if with_for_update else None
    user = db.session.get(User, user_id, populate_existing=True, with_for_update=lock)
    if user is None:
        raise NotFoundError
    return user


def _taken(error: IntegrityError) -> TakenError:
    constraint = error.orig.diag.constraint_name  # type: ignore[union-attr]  # psycopg2's own error
    return TakenError(constraint.removeprefix("uq_users_"))
