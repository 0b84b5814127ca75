"""`flask user`: account management for operators."""

import sys
from datetime import timedelta
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table

from sentiment_app.cli import Group, as_json, print_json
from sentiment_app.users import administration, api_keys, one_time_tokens, service
from sentiment_app.users.models import User
from sentiment_app.users.one_time_tokens import Purpose
from sentiment_app.users.schemas import (
    ApiKeyGrantSchema,
    ApiKeySchema,
    PasswordSchema,
    RegisterSchema,
    UserSchema,
    to_grant,
)
from sentiment_app.web.operation import SCOPES
from sentiment_app.web.schemas import load

PAGE_ROWS = 500

LAZY = {
    "delete": "sentiment_app.privacy.cli:delete",
    "set-quota": "sentiment_app.usage.cli:set_quota",
    "usage": "sentiment_app.usage.cli:usage",
}

user = Group("user", help="Manage accounts.", lazy=LAZY)

password_stdin = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of standard input."
)


@user.command("create")
@click.argument("username")
@click.argument("email")
@click.option("--admin", is_flag=True, help="Make the account an administrator.")
@password_stdin
@as_json
def create(username: str, email: str, admin: bool, password_stdin: bool, as_json: bool) -> None:
    """Create an account. The command asks for its password.

    Example: flask user create ada ada@example.org --admin
    """
    given = {"username": username, "email": email, "password": _password(password_stdin)}
    account = service.register(**load(RegisterSchema(), given, "body"), is_superuser=admin)
    _print(account, "Created", as_json)


@user.command("list")
@as_json
def index(as_json: bool) -> None:
    """List all accounts in the order of their registration.

    Example: flask user list --json
    """
    users: list[User] = []
    while rows := service.page(PAGE_ROWS, users[-1].id if users else None):
        users += rows
    if as_json:
        print_json(UserSchema(many=True).dump(users))
        return
    table = Table("username", "email", "active", "administrator", "created")
    for account in users:
        flags = ["yes" if flag else "no" for flag in (account.is_active, account.is_superuser)]
        table.add_row(account.username, account.email, *flags, f"{account.created_at:%Y-%m-%d %H:%M}")
    Console().print(table)


@user.command("promote")
@click.argument("username")
@click.option("--undo", is_flag=True, help="Make the account an ordinary user again.")
@as_json
def promote(username: str, undo: bool, as_json: bool) -> None:
    """Make an account an administrator.

    Example: flask user promote ada
    """
    changed = administration.administer(service.get_by_username(username).id, {"is_superuser": not undo})
    _print(changed, "Demoted" if undo else "Promoted", as_json)


@user.command("deactivate")
@click.argument("username")
@click.option("--undo", is_flag=True, help="Activate the account again.")
@as_json
def deactivate(username: str, undo: bool, as_json: bool) -> None:
    """Deactivate an account. Its sessions end at once.

    Example: flask user deactivate ada
    """
    changed = administration.administer(service.get_by_username(username).id, {"is_active": undo})
    _print(changed, "Activated" if undo else "Deactivated", as_json)


@user.command("reset-password")
@click.argument("username")
@password_stdin
@click.option("--revoke-keys", is_flag=True, help="Also revoke the account's API keys, which otherwise stay valid.")
@as_json
def reset_password(username: str, password_stdin: bool, revoke_keys: bool, as_json: bool) -> None:
    """Set a new password. All sessions of the account end at once.

    Example: flask user reset-password ada --revoke-keys
    """
    service.get_by_username(username)  # before the command asks for a password
    given = load(PasswordSchema(), {"password": _password(password_stdin)}, "body")
    changed = administration.reset_password(username, given["password"], revoke_keys=revoke_keys)
    _print(changed, "Reset the password of", as_json)


@user.command("welcome")
@click.option("--url", required=True, help="The address of the service, such as https://sentiment.example.org")
@click.option("--expires-in-hours", type=click.IntRange(1, 24 * 7), default=24, show_default=True)
def welcome(url: str, expires_in_hours: int) -> None:
    """Print a link with which the first administrator chooses a password in the console.

    If there is no administrator, the command creates the account `admin`. After an administrator has signed in, it
    prints nothing.

    Example: flask user welcome --url https://sentiment.example.org
    """
    made = administration.welcome(timedelta(hours=expires_in_hours))
    if made:
        click.echo(f"{url.rstrip('/')}/console/password?token={made.token}")


@user.command("password-link")
@click.argument("username")
@click.option("--url", required=True, help="The address of the service, such as https://sentiment.example.org")
@click.option("--expires-in-hours", type=click.IntRange(1, 24 * 7), default=24, show_default=True)
def password_link(username: str, url: str, expires_in_hours: int) -> None:
    """Print a link with which a user chooses a new password once, in the console.

    Example: flask user password-link ada --url https://sentiment.example.org
    """
    made = administration.start_password_reset(service.get_by_username(username).id, timedelta(hours=expires_in_hours))
    click.echo(f"{url.rstrip('/')}/console/password?token={made.token}")


@user.command("invite")
@click.option("--expires-in-days", type=click.IntRange(1, 365), default=7, show_default=True)
def invite(expires_in_days: int) -> None:
    """Print an invitation, with which somebody can register once.

    Example: flask user invite
    """
    made = one_time_tokens.create(Purpose.INVITATION, None, timedelta(days=expires_in_days))
    click.echo(made.token)


@user.command("create-key")
@click.argument("username")
@click.option("--name", required=True, help="What the key is for, such as 'nightly import'.")
@click.option("--scope", "scopes", multiple=True, required=True, type=click.Choice(list(SCOPES)), help="Repeatable.")
@click.option("--network", "networks", multiple=True, help="A network that may use the key. Repeatable. Default: all.")
@click.option("--rate", help="A rate limit of the key, such as '100 per minute'.")
@click.option("--rows-per-day", type=int, help="How many rows may be scored with the key in a day (UTC).")
@click.option("--rows-per-month", type=int, help="How many rows may be scored with the key in a month (UTC).")
@click.option("--expires-in-days", type=int, default=365, show_default=True, help="0 makes a key that does not expire.")
@as_json
def create_key(username: str, as_json: bool, **options: Any) -> None:
    """Create an API key, and print it. It cannot be read again.

    Example: flask user create-key ada --name import --scope score --scope tasks
    """
    owner = service.get_by_username(username)
    options["expires_in_days"] = options["expires_in_days"] or None
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    grant = to_grant(load(ApiKeyGrantSchema(exclude=["current_password"]), given, "body"))
    made = api_keys.create(owner, grant)
    if as_json:
        print_json({**ApiKeySchema().dump(made.record), "key": made.key})
    else:
        click.echo(made.key)


@user.command("keys")
@click.argument("username")
@as_json
def keys(username: str, as_json: bool) -> None:
    """List the API keys of a user, newest first.

    Example: flask user keys ada
    """
    found = api_keys.list_keys(service.get_by_username(username).id)
    if as_json:
        print_json(ApiKeySchema(many=True).dump(found))
        return
    table = Table("id", "name", "begins", "scopes", "last used", "expires", "revoked", box=None)
    for key in found:
        times = [f"{time:%Y-%m-%d}" if time else "-" for time in (key.last_used_at, key.expires_at, key.revoked_at)]
        table.add_row(str(key.id), key.name, key.hint, " ".join(key.scopes), *times)
    Console().print(table)


@user.command("revoke-key")
@click.argument("key_id", type=click.UUID)
def revoke_key(key_id: UUID) -> None:
    """Revoke an API key. It is refused from the next request on.

    Example: flask user revoke-key 01a20810-6c0c-7378-b5fe-cfc50592fba5
    """
    api_keys.revoke(None, key_id)
    click.echo(f"Revoked {key_id}.")


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return typed


def _print(account: User, action: str, as_json: bool) -> None:
    if as_json:
        print_json(UserSchema().dump(account))
    else:
        click.echo(f"{action} {account.username} ({account.email}).")
