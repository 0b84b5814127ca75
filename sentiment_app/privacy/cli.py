"""`sentiment user delete`: delete an account for operators."""

import click

from sentiment_app.cli import as_json, command, print_json
from sentiment_app.privacy import service
from sentiment_app.users import administration
from sentiment_app.users import service as users
from sentiment_app.users.cli import complete_user


@command("delete")
@click.argument("username", shell_complete=complete_user())
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@as_json
def delete(username: str, yes: bool, as_json: bool) -> None:
    """Delete an account, and erase everything that belongs to it: texts, tasks, results, sessions and keys.

    Example: sentiment user delete ada
    """
    account = users.get_by_username(username)
    if not yes:
        click.confirm(f"Erase everything that belongs to {account.username} ({account.email})?", abort=True, err=True)
    deleted = {"id": account.id, "username": account.username, "deleted": True}
    administration.delete(account.id)
    service.erase(account.id, float("inf"))
    if as_json:
        print_json(deleted)
    else:
        click.echo(f"Deleted {username}.")
