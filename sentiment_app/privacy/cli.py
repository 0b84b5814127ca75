"""`flask user delete`: delete an account for operators."""

import click
from flask.cli import with_appcontext

from sentiment_app.cli import Command
from sentiment_app.privacy import service
from sentiment_app.users import administration
from sentiment_app.users import service as users


@click.command("delete", cls=Command)
@click.argument("username")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@with_appcontext
def delete(username: str, yes: bool) -> None:
    """Delete an account, and erase everything that belongs to it: texts, tasks, results, sessions and keys.

    Example: flask user delete ada
    """
    account = users.get_by_username(username)
    if not yes:
        click.confirm(f"Erase everything that belongs to {account.username} ({account.email})?", abort=True)
    administration.delete(account.id)
    service.erase(account.id, float("inf"))
    click.echo(f"Deleted {username}.")
