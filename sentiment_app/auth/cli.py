"""`sentiment auth`: the keys that sign tokens."""

import click
from rich.console import Console
from rich.table import Table

from sentiment_app.auth import token_keys
from sentiment_app.auth.token_keys import REFRESH_SECONDS
from sentiment_app.cli import as_json, command, print_json, show_time


@command("rotate-key")
@click.option("--revoke-old", is_flag=True, help="Delete all other keys, which ends all sessions: a key has leaked.")
@click.option("--force", is_flag=True, help="Delete the previous key even if sessions still use it.")
@as_json
def rotate_key(revoke_old: bool, force: bool, as_json: bool) -> None:
    """Sign tokens with a new key.

    No process restarts, and nobody is signed out: the previous key still verifies the tokens that it signed. The next
    rotation deletes it. API keys are not affected.

    Example: sentiment auth rotate-key
    """
    id_ = token_keys.rotate(revoke_old=revoke_old, force=force)
    if as_json:
        print_json({"id": str(id_), "revoked_old": revoke_old})
    elif revoke_old:
        click.echo(f"Created key {id_}. All other tokens stop working within {REFRESH_SECONDS:.0f} seconds.")
    else:
        click.echo(f"Created key {id_}. It signs all new tokens within {token_keys.TAKES_OVER_SECONDS:.0f} seconds.")


@command("list-keys")
@as_json
def list_keys(as_json: bool) -> None:
    """List the keys that sign or verify tokens, the newest first.

    Example: sentiment auth list-keys
    """
    found = token_keys.list_keys()
    if as_json:
        print_json([{"id": str(key.id), "created_at": key.created_at} for key in found])
        return
    table = Table("id", "created (UTC)", "use", box=None)
    for index, key in enumerate(found):
        use = "verifies" if index else "signs" if key.age > token_keys.TAKES_OVER_SECONDS else "will sign"
        table.add_row(str(key.id), show_time(key.created_at), use)
    Console().print(table)
