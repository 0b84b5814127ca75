"""`sentiment user usage` and `sentiment user set-quota`."""

import datetime as dt
import re
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from sentiment_app.cli import as_json, command, print_json
from sentiment_app.config import MAX_ROWS
from sentiment_app.usage import quotas, service
from sentiment_app.usage.schemas import DailyUsageSchema, UsageQuerySchema
from sentiment_app.users import administration
from sentiment_app.users import service as users
from sentiment_app.users.cli import complete_user
from sentiment_app.users.schemas import UserSchema
from sentiment_app.web.schemas import load

day = click.DateTime(["%Y-%m-%d"])


@command("usage")
@click.argument("username", shell_complete=complete_user())
@click.option("--since", type=day, help="The first day in UTC. Default: 30 days ago.")
@click.option("--until", type=day, help="The last day in UTC. Default: today.")
@as_json
def usage(username: str, since: dt.datetime | None, until: dt.datetime | None, as_json: bool) -> None:
    """Show how many rows a user has scored, by day, API key and model, and the user's quotas.

    Example: sentiment user usage ada --since 2026-11-01
    """
    user = users.get_by_username(username)
    given = {name: f"{value.date()}" for name, value in (("since", since), ("until", until)) if value}
    found = service.list_daily(user.id, **load(UsageQuerySchema(), given, "query"))
    if as_json:
        print_json(DailyUsageSchema(many=True).dump(found))
        return
    table = Table("day", "API key", "model", "rows", box=None)
    for item in found:
        table.add_row(f"{item.day}", str(item.api_key_id or "-"), item.model_version, f"{item.rows:,}")
    Console().print(table)
    for use in quotas.list_used(user.id):
        click.echo(f"{use.used:,} of {use.quota.limit:,} rows of this {use.quota.period} are used.")


@command("set-quota")
@click.argument("username", shell_complete=complete_user())
@click.option("--rows-per-day", metavar="ROWS", help="A number, 0 for no limit, or 'default' for the setting.")
@click.option("--rows-per-month", metavar="ROWS", help="The same, for a month.")
@as_json
def set_quota(username: str, as_json: bool, **options: str | None) -> None:
    """Limit how many rows a user may score in a day or a month (UTC).

    Example: sentiment user set-quota ada --rows-per-day 100000
    """
    given = {name: _limit(value) for name, value in options.items() if value is not None}
    if not given:
        raise click.UsageError("Give --rows-per-day, --rows-per-month or both.")
    changed = administration.administer(users.get_by_username(username).id, given)
    if as_json:
        print_json(UserSchema().dump(changed))
        return
    limits = ", ".join(f"{name.replace('_', ' ')}: {_describe(value)}" for name, value in given.items())
    click.echo(f"{changed.username}: {limits}")


def _limit(text: str) -> int | None:
    if text == "default":
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > MAX_ROWS:
        raise click.UsageError(f"{text!r} is neither a number of rows up to {MAX_ROWS:,} nor 'default'.")
    return int(text)


def _describe(limit: Any) -> str:
    return "the setting" if limit is None else f"{limit:,}" if limit else "no limit"
