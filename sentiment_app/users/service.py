"""Accounts: register, look up and change them. Administrators do more in `administration`."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from sentiment_app.audit import service as audit
from sentiment_app.audit.service import Event
from sentiment_app.errors import ConflictError, ForbiddenError, NotFoundError
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import db, unit_of_work
from sentiment_app.users import api_keys, one_time_tokens, passwords, sessions
from sentiment_app.users.models import FormerUsername, User
from sentiment_app.users.one_time_tokens import Purpose
from sentiment_app.web.admission import admission

# An advisory lock of PostgreSQL.
ADMINISTRATORS_LOCK = 7_305_214_661
# More usernames than this are not completed at once.
MAX_COMPLETIONS = 100


class TakenError(ConflictError):
    """Another account has this username or email address."""

    kind = "taken"

    def __init__(self, field: str) -> None:
        super().__init__(f"Another account has this {field}. Choose another {field}, or sign in.", field=field)


class WrongPasswordError(ForbiddenError):
    """The current password is wrong. It is required to change the password, and to create API keys."""

    def __init__(self) -> None:
        super().__init__("This is not your current password.", field="current_password")


class LastAdministratorError(ConflictError):
    """Without this account, there would be no active administrator."""

    kind = "last-administrator"
    detail = "This is the last active administrator. Make another account an administrator first."


class RegistrationClosedError(ForbiddenError):
    """The operator does not allow everybody to register."""

    kind = "registration-closed"

    def __init__(self, mode: str) -> None:
        how = "with an invitation of an administrator" if mode == "invitation" else "by an administrator"
        super().__init__(f"Accounts of this service are created {how}.")


def sign_up(username: str, email: str, password: str, invitation: str | None = None) -> User:
    """Create an account for somebody who has none, if REGISTRATION allows it.

    Raises:
        RegistrationClosedError, InvalidOneTimeTokenError, WeakPasswordError, TakenError
    """
    mode = settings().registration
    if mode == "closed" or (mode == "invitation" and invitation is None):
        raise RegistrationClosedError(mode)
    return register(username, email, password, invitation=invitation)


def register(
    username: str, email: str, password: str, *, is_superuser: bool = False, invitation: str | None = None
) -> User:
    """Create an account. An invitation is used up together with it.

    Raises:
        InvalidOneTimeTokenError, WeakPasswordError, TakenError
    """
    passwords.check(password, username=username, email=email)
    password_hash = passwords.hash_password(password)
    return _insert(
        invitation,
        id=uuid.uuid7(),
        username=username,
        email=email,
        password_hash=password_hash,
        is_superuser=is_superuser,
    )


def register_without_password(username: str, email: str, *, is_superuser: bool = False) -> User:
    """Create an account that cannot sign in before its password is reset.

    Raises:
        TakenError
    """
    values = {"username": username, "email": email, "password_hash": "", "is_superuser": is_superuser}
    return _insert(None, id=uuid.uuid7(), **values)


@unit_of_work
def _insert(invitation: str | None, **values: Any) -> User:
    if invitation is not None:
        one_time_tokens.use(Purpose.INVITATION, invitation, values["id"])
    try:
        # Only a conflict of the id is ignored: it means that the unit of work runs again.
        db.session.execute(insert(User).values(values).on_conflict_do_nothing(index_elements=[User.id]))
    except IntegrityError as error:
        raise _taken(error) from None
    _check_not_reserved(values["username"], values["id"])
    audit.record(Event.USER_CREATED, values["id"], "administrator" if values["is_superuser"] else None)
    return db.session.get_one(User, values["id"])


def authenticate(username: str, password: str) -> User | None:
    """The active user with this name and password. It takes the same time whatever is wrong."""
    user = find(username)
    if not passwords.verify(user.password_hash if user else None, password) or not (user and user.is_active):
        return None
    return user


def rehash_password(user: User, password: str) -> None:
    """Hash a verified password again if its hash was made with other settings."""
    if passwords.is_outdated(user.password_hash):
        _replace_hash(user.id, user.password_hash, passwords.hash_password(password))


@unit_of_work
def _replace_hash(user_id: UUID, old: str, new: str) -> None:
    # Only if the hash is still the same: a password that was changed meanwhile must not come back.
    same = update(User).where(User.id == user_id, User.password_hash == old)
    db.session.execute(same.values(password_hash=new))


@unit_of_work
def find(username: str) -> User | None:
    """The user with this name, regardless of case; None if there is no such user."""
    return db.session.scalar(select(User).where(func.lower(User.username) == username.lower()))


def get_by_username(username: str) -> User:
    """The user with this name.

    Raises:
        NotFoundError
    """
    user = find(username)
    if user is None:
        raise NotFoundError(f"There is no user named {username!r}. List all users with: sentiment user list")
    return user


@unit_of_work
def get(user_id: UUID) -> User:
    """The user with this id.

    Raises:
        NotFoundError
    """
    user = load(user_id)
    if user.deleted_at:
        raise NotFoundError
    return user


@unit_of_work
def page(limit: int, after: UUID | None) -> Sequence[User]:
    """A page of users in the order of their registration, beginning after a cursor."""
    users = select(User).where(User.deleted_at.is_(None)).order_by(User.id).limit(limit)
    return db.session.scalars(users.where(User.id > after) if after else users).all()


@unit_of_work
def find_usernames(prefix: str, **values: bool) -> Sequence[str]:
    """The first usernames, in alphabetical order, that begin with a text; only of users with these values."""
    found = select(User.username).filter_by(deleted_at=None, **values)
    begin = User.username.startswith(prefix, autoescape=True)
    return db.session.scalars(found.where(begin).order_by(User.username).limit(MAX_COMPLETIONS)).all()


@unit_of_work
def find_former_usernames(user_id: UUID) -> Sequence[str]:
    """The usernames that a user has given up."""
    return db.session.scalars(select(FormerUsername.username).where(FormerUsername.user_id == user_id)).all()


@unit_of_work
def is_administrator(user_id: UUID) -> bool:
    """Whether this user is an active administrator."""
    found = select(User.id).where(User.id == user_id, User.is_active, User.is_superuser)
    return db.session.scalar(found) is not None


def change_profile(user_id: UUID, session_id: UUID, changes: dict[str, Any]) -> User:
    """Change a user's own username, email address or password: all of them, or nothing.

    Every change requires the current password, so that a stolen access token cannot take the account over. A new
    password ends the user's other sessions. A former username stays reserved for the user.

    Raises:
        WrongPasswordError, WeakPasswordError, TakenError
    """
    changes = dict(changes)
    new = changes.pop("password", None)
    user = verify_password(user_id, changes.pop("current_password"))
    verified = user.password_hash
    if new is None:
        return change(user_id, changes, verified=verified)
    changes["password_hash"] = hash_if_acceptable(new, user, changes)
    return change(user_id, changes, verified=verified, ends=sessions.Reason.PASSWORD, keep=session_id)


def create_api_key(user_id: UUID, current_password: str, grant: api_keys.Grant) -> api_keys.NewKey:
    """Create an API key of a user who sends the current password.

    Raises:
        WrongPasswordError, TooManyKeysError, InvalidError
    """
    return api_keys.create(verify_password(user_id, current_password), grant)


def rotate_api_key(user_id: UUID, key_id: UUID, current_password: str, overlap_seconds: int) -> api_keys.NewKey:
    """Replace an API key of a user who sends the current password. The old key stays valid for some time.

    Raises:
        WrongPasswordError, TooManyKeysError, NotFoundError
    """
    return api_keys.rotate(verify_password(user_id, current_password), key_id, timedelta(seconds=overlap_seconds))


def verify_password(user_id: UUID, password: str) -> User:
    """The user with this current password.

    Raises:
        WrongPasswordError
    """
    user = get(user_id)
    if not passwords.verify(user.password_hash, password):
        audit.record_alone(Event.SIGN_IN_FAILED, user_id, "wrong current password")
        raise WrongPasswordError
    return user


def hash_if_acceptable(new: str, user: User, changes: dict[str, Any] | None = None) -> str:
    """The hash of a new password, which must differ from the names of the user, as they are after the changes.

    Raises:
        WeakPasswordError
    """
    names = {"username": user.username, "email": user.email, **(changes or {})}
    passwords.check(new, username=names["username"], email=names["email"])
    return passwords.hash_password(new)


def change(
    user_id: UUID,
    changes: dict[str, Any],
    *,
    verified: str | None = None,
    ends: sessions.Reason | None = None,
    keep: UUID | None = None,
) -> User:
    """Change an account: all of `changes`, or nothing. `ends` ends its sessions, except `keep`.

    With `verified`, the hash of the password that the user has sent, nothing changes if another request was faster.

    Raises:
        NotFoundError, TakenError, WrongPasswordError, LastAdministratorError
    """
    user, ended = _store(user_id, changes, verified, ends, keep)
    admission().end(ended)
    return user


@unit_of_work
def _store(
    user_id: UUID, changes: dict[str, Any], verified: str | None, ends: sessions.Reason | None, keep: UUID | None
) -> tuple[User, list[UUID]]:
    # With this lock, a concurrent sign-in either sees the change, or has committed before. Then its session ends below.
    user = load(user_id, with_for_update=True)
    if verified and user.password_hash not in (verified, changes.get("password_hash")):
        raise WrongPasswordError  # another request changed it first. A repeated run finds the new hash
    if user.deleted_at:
        raise NotFoundError
    former = user.username
    changed = {name: value for name, value in changes.items() if getattr(user, name) != value}
    if False in (changed.get("is_active"), changed.get("is_superuser")):
        keep_an_administrator(user)
    for name, value in changed.items():
        setattr(user, name, value)
    try:
        db.session.flush()
    except IntegrityError as error:
        raise _taken(error) from None
    if user.username.lower() != former.lower():
        _check_not_reserved(user.username, user_id)
        released = insert(FormerUsername).values(username=former.lower(), user_id=user_id)
        db.session.execute(released.on_conflict_do_nothing(index_elements=[FormerUsername.username]))
    _record(user_id, changed)
    db.session.refresh(user)
    return user, sessions.mark_all_ended(user_id, ends, keep=keep) if ends else []


def _record(user_id: UUID, changed: dict[str, Any]) -> None:
    if "password_hash" in changed:
        one_time_tokens.cancel(user_id)
        audit.record(Event.PASSWORD_CHANGED, user_id)
    if "is_superuser" in changed:
        audit.record(Event.RIGHTS_CHANGED, user_id, "administrator" if changed["is_superuser"] else "no administrator")
    if "is_active" in changed:
        audit.record(Event.USER_UPDATED, user_id, "activated" if changed["is_active"] else "deactivated")
    if names := sorted({"username", "email", "history_days", "rows_per_day", "rows_per_month"} & changed.keys()):
        audit.record(Event.USER_UPDATED, user_id, ", ".join(names))


def keep_an_administrator(user: User) -> None:
    """Refuse to take the rights of the last administrator. Two such changes at the same time wait for each other."""
    if not (user.is_superuser and user.is_active):
        return
    db.session.execute(select(func.pg_advisory_xact_lock(ADMINISTRATORS_LOCK)))
    others = User.id != user.id, User.is_active, User.is_superuser
    if db.session.scalar(select(User.id).where(*others).limit(1)) is None:
        raise LastAdministratorError


def _check_not_reserved(username: str, user_id: UUID) -> None:
    """Check a username after it was stored, because a concurrent change that releases it has then committed."""
    reserved = select(FormerUsername.username).where(
        FormerUsername.username == username.lower(), FormerUsername.user_id.is_distinct_from(user_id)
    )
    if db.session.scalar(reserved) is not None:
        raise TakenError("username")


def load(user_id: UUID, *, with_for_update: bool = False) -> User:
    """A user, even if the account was deleted, within the caller's unit of work.

    Raises:
        NotFoundError
    """
    # Inserts of this user's rows lock the user with KEY SHARE. They must not wait, as other users share their commit.
    lock = {"key_share": True} if with_for_update else None
    user = db.session.get(User, user_id, populate_existing=True, with_for_update=lock)
    if user is None:
        raise NotFoundError
    return user


def _taken(error: IntegrityError) -> TakenError:
    constraint = error.orig.diag.constraint_name  # type: ignore[union-attr]  # psycopg2's own error
    return TakenError(constraint.removeprefix("uq_users_"))
