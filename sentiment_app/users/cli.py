"""`flask user`: account management for operators."""

import sys

import click
from rich.console import Console
from rich.table import Table

from sentiment_app.cli import Group, as_json, print_json
from sentiment_app.users import service
from sentiment_app.users.models import User
from sentiment_app.users.schemas import PasswordSchema, RegisterSchema, UserSchema
from sentiment_app.web.schemas import load

PAGE_ROWS = 500

user = Group("user", help="Manage accounts.")

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
    _print(service.set_superuser(username, not undo), "Demoted" if undo else "Promoted", as_json)


@user.command("deactivate")
@click.argument("username")
@click.option("--undo", is_flag=True, help="Activate the account again.")
@as_json
def deactivate(username: str, undo: bool, as_json: bool) -> None:
    """Deactivate an account. Its sessions end at once.

    Example: flask user deactivate ada
    """
    account = service.get_by_username(username)
    _print(service.set_active(account.id, undo), "Activated" if undo else "Deactivated", as_json)


@user.command("reset-password")
@click.argument("username")
@password_stdin
@as_json
def reset_password(username: str, password_stdin: bool, as_json: bool) -> None:
    """Set a new password. All sessions of the account end at once.

    Example: flask user reset-password ada
    """
    service.get_by_username(username)  # before the command asks for a password
    given = load(PasswordSchema(), {"password": _password(password_stdin)}, "body")
    _print(service.reset_password(username, given["password"]), "Reset the password of", as_json)


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
