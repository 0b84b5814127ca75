"""`flask user`: accounts, from the operator's side."""

import sys

import click
from rich.console import Console
from rich.table import Table

from sentiment_app.cli import Group, as_json, print_json
from sentiment_app.schema import load
from sentiment_app.users import service
from sentiment_app.users.models import User
from sentiment_app.users.schemas import PasswordSchema, RegisterSchema, UserSchema

PAGE = 500

user = Group("user", help="Accounts: make, list, promote, deactivate, reset.")

password_stdin = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of standard input."
)


@user.command("create")
@click.argument("username")
@click.argument("email")
@click.option("--admin", is_flag=True, help="Make it an administrator.")
@password_stdin
@as_json
def create(username: str, email: str, admin: bool, password_stdin: bool, as_json: bool) -> None:
    """Make an account. Asks for its password, which never stands in a command line.

    Example: flask user create ada ada@example.org --admin
    """
    account = {"username": username, "email": email, "password": _password(password_stdin)}
    made = service.register(**load(RegisterSchema(), account, "body"), is_superuser=admin)
    _tell(made, "Made", as_json)


@user.command("list")
@as_json
def index(as_json: bool) -> None:
    """List all accounts in the order in which they were made.

    Example: flask user list --json
    """
    users: list[User] = []
    while rows := service.page(PAGE, users[-1].id if users else None):
        users += rows
    if as_json:
        print_json(UserSchema(many=True).dump(users))
        return
    table = Table("username", "email", "active", "administrator", "made")
    for one in users:
        flags = ["yes" if flag else "no" for flag in (one.is_active, one.is_superuser)]
        table.add_row(one.username, one.email, *flags, f"{one.created_at:%Y-%m-%d %H:%M}")
    Console().print(table)


@user.command("promote")
@click.argument("username")
@click.option("--undo", is_flag=True, help="Make the account an ordinary one again.")
@as_json
def promote(username: str, undo: bool, as_json: bool) -> None:
    """Make an account an administrator.

    Example: flask user promote ada
    """
    _tell(service.set_superuser(username, not undo), "Demoted" if undo else "Promoted", as_json)


@user.command("deactivate")
@click.argument("username")
@click.option("--undo", is_flag=True, help="Open the account again.")
@as_json
def deactivate(username: str, undo: bool, as_json: bool) -> None:
    """Close an account; its sessions end at once.

    Example: flask user deactivate ada
    """
    account = service.named(username)
    _tell(service.set_active(account.id, undo), "Activated" if undo else "Deactivated", as_json)


@user.command("reset-password")
@click.argument("username")
@password_stdin
@as_json
def reset_password(username: str, password_stdin: bool, as_json: bool) -> None:
    """Give an account a new password; its sessions end at once.

    Example: flask user reset-password ada
    """
    service.named(username)  # before anybody types a password for nobody
    chosen = load(PasswordSchema(), {"password": _password(password_stdin)}, "body")
    _tell(service.reset_password(username, chosen["password"]), "Reset the password of", as_json)


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return typed


def _tell(account: User, what: str, as_json: bool) -> None:
    if as_json:
        print_json(UserSchema().dump(account))
    else:
        click.echo(f"{what} {account.username} ({account.email}).")
