"""`sentiment user`: account management for operators."""

import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table

from sentiment_app.cli import Completer, as_json, command, complete, print_json, show_time
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


def complete_user(accepts: Callable[[click.Context], dict[str, bool]] = lambda _: {}) -> Completer:
    """Complete the names of the accounts that a command accepts."""
    return complete(lambda ctx, prefix: service.find_usernames(prefix, **accepts(ctx)))


@complete
def complete_key(_ctx: click.Context, prefix: str) -> Iterable[str]:
    return map(str, api_keys.find_valid())


url = click.option("--url", required=True, help="The address of the service, such as https://sentiment.example.org")
password_stdin = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of standard input."
)


@command("create")
@click.argument("username")
@click.argument("email")
@click.option("--admin", is_flag=True, help="Make the account an administrator.")
@password_stdin
@as_json
def create(username: str, email: str, admin: bool, password_stdin: bool, as_json: bool) -> None:
    """Create an account. The command asks for its password.

    Example: sentiment user create ada ada@example.org --admin
    """
    given = {"username": username, "email": email, "password": _password(password_stdin)}
    account = service.register(**load(RegisterSchema(), given, "body"), is_superuser=admin)
    _print(account, "Created", as_json)


@command("list")
@as_json
def index(as_json: bool) -> None:
    """List all accounts in the order of their registration.

    Example: sentiment user list --json
    """
    users: list[User] = []
    while rows := service.page(PAGE_ROWS, users[-1].id if users else None):
        users += rows
    if as_json:
        print_json(UserSchema(many=True).dump(users))
        return
    table = Table("username", "email", "active", "administrator", "created (UTC)")
    for account in users:
        flags = ["yes" if flag else "no" for flag in (account.is_active, account.is_superuser)]
        table.add_row(account.username, account.email, *flags, show_time(account.created_at))
    Console().print(table)


@command("promote")
@click.argument("username", shell_complete=complete_user(lambda _: {"is_superuser": False}))
@as_json
def promote(username: str, as_json: bool) -> None:
    """Make an account an administrator.

    Example: sentiment user promote ada
    """
    _set_administrator(username, True, as_json)


@command("demote")
@click.argument("username", shell_complete=complete_user(lambda _: {"is_superuser": True}))
@as_json
def demote(username: str, as_json: bool) -> None:
    """Make an administrator an ordinary user.

    The last active administrator cannot be demoted.

    Example: sentiment user demote ada
    """
    _set_administrator(username, False, as_json)


@command("deactivate")
@click.argument("username", shell_complete=complete_user(lambda ctx: {"is_active": not ctx.params.get("undo")}))
@click.option("--undo", is_flag=True, help="Activate the account again.")
@as_json
def deactivate(username: str, undo: bool, as_json: bool) -> None:
    """Deactivate an account. Its sessions end at once. --undo activates it again.

    Example: sentiment user deactivate ada
    """
    changed = administration.administer(service.get_by_username(username).id, {"is_active": undo})
    _print(changed, "Activated" if undo else "Deactivated", as_json)


@command("reset-password")
@click.argument("username", shell_complete=complete_user())
@password_stdin
@click.option("--revoke-keys", is_flag=True, help="Also revoke the account's API keys, which otherwise stay valid.")
@as_json
def reset_password(username: str, password_stdin: bool, revoke_keys: bool, as_json: bool) -> None:
    """Set a new password. All sessions of the account end at once.

    Example: sentiment user reset-password ada --revoke-keys
    """
    service.get_by_username(username)  # before the command asks for a password
    given = load(PasswordSchema(), {"password": _password(password_stdin)}, "body")
    changed = administration.reset_password(username, given["password"], revoke_keys=revoke_keys)
    _print(changed, "Reset the password of", as_json)


@command("welcome")
@url
@click.option("--expires-in-hours", type=click.IntRange(1, 24 * 7), default=24, show_default=True)
@as_json
def welcome(url: str, expires_in_hours: int, as_json: bool) -> None:
    """Print a link with which the first administrator chooses a password in the console.

    If there is no administrator, the command creates the account `admin`. After an administrator has signed in, it
    prints nothing, and null with --json.

    Example: sentiment user welcome --url https://sentiment.example.org
    """
    made = administration.welcome(timedelta(hours=expires_in_hours))
    if made:
        _print_link(url, made, as_json)
    elif as_json:
        print_json(None)


@command("password-link")
@click.argument("username", shell_complete=complete_user())
@url
@click.option("--expires-in-hours", type=click.IntRange(1, 24 * 7), default=24, show_default=True)
@as_json
def password_link(username: str, url: str, expires_in_hours: int, as_json: bool) -> None:
    """Print a link with which a user chooses a new password once, in the console.

    Example: sentiment user password-link ada --url https://sentiment.example.org
    """
    made = administration.start_password_reset(service.get_by_username(username).id, timedelta(hours=expires_in_hours))
    _print_link(url, made, as_json)


@command("invite")
@click.option("--expires-in-days", type=click.IntRange(1, 365), default=7, show_default=True)
@as_json
def invite(expires_in_days: int, as_json: bool) -> None:
    """Print an invitation, with which somebody can register once.

    Example: sentiment user invite
    """
    made = one_time_tokens.create(Purpose.INVITATION, None, timedelta(days=expires_in_days))
    if as_json:
        print_json({"token": made.token, "expires_at": made.record.expires_at})
    else:
        click.echo(made.token)


@command("create-key")
@click.argument("username", shell_complete=complete_user())
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

    Example: sentiment user create-key ada --name import --scope score --scope tasks
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


@command("keys")
@click.argument("username", shell_complete=complete_user())
@as_json
def keys(username: str, as_json: bool) -> None:
    """List the API keys of a user, newest first.

    Example: sentiment user keys ada
    """
    found = api_keys.list_keys(service.get_by_username(username).id)
    if as_json:
        print_json(ApiKeySchema(many=True).dump(found))
        return
    times_of_key = ("last used (UTC)", "expires (UTC)", "revoked (UTC)")
    table = Table("id", "name", "begins", "scopes", *times_of_key, box=None)
    for key in found:
        times = [show_time(time) for time in (key.last_used_at, key.expires_at, key.revoked_at)]
        table.add_row(str(key.id), key.name, key.hint, " ".join(key.scopes), *times)
    Console().print(table)


@command("revoke-key")
@click.argument("key_id", type=click.UUID, shell_complete=complete_key)
@as_json
def revoke_key(key_id: UUID, as_json: bool) -> None:
    """Revoke an API key. It is refused from the next request on.

    Example: sentiment user revoke-key 01a20810-6c0c-7378-b5fe-cfc50592fba5
    """
    api_keys.revoke(None, key_id)
    if as_json:
        print_json({"id": key_id, "revoked": True})
    else:
        click.echo(f"Revoked {key_id}.")


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return typed


def _set_administrator(username: str, is_superuser: bool, as_json: bool) -> None:
    changed = administration.administer(service.get_by_username(username).id, {"is_superuser": is_superuser})
    _print(changed, "Promoted" if is_superuser else "Demoted", as_json)


def _print_link(url: str, made: one_time_tokens.NewToken, as_json: bool) -> None:
    link = f"{url.rstrip('/')}/console/password?token={made.token}"
    if as_json:
        print_json({"url": link, "expires_at": made.record.expires_at})
    else:
        click.echo(link)


def _print(account: User, action: str, as_json: bool) -> None:
    if as_json:
        print_json(UserSchema().dump(account))
    else:
        click.echo(f"{action} {account.username} ({account.email}).")
