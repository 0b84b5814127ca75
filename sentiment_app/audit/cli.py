"""`sentiment audit`: the audit log for operators."""

from datetime import datetime
from uuid import UUID

import click
from rich.console import Console
from rich.table import Column, Table

from sentiment_app.audit import service
from sentiment_app.audit.schemas import EVENTS, AuditEventSchema
from sentiment_app.cli import Time, as_json, command, print_json, show_time


@command("list")
@click.option("--account", "account_id", type=click.UUID, help="Only events about the account with this id.")
@click.option("--event", type=click.Choice(EVENTS), help="Only this event.")
@click.option("--since", type=Time(), help="Only events at this time (UTC) or later.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="The most entries.")
@as_json
def index(account_id: UUID | None, event: str | None, since: datetime | None, limit: int, as_json: bool) -> None:
    """List the audit log, newest first.

    Example: sentiment audit list --event authn_login_fail --since 2026-11-01
    """
    found = service.page(limit, None, account_id=account_id, event=event, since=since)
    if as_json:
        print_json(AuditEventSchema(many=True).dump(found))
        return
    whole = [Column(name, no_wrap=True) for name in ("at (UTC)", "event")]
    table = Table(*whole, *(Column(name, overflow="fold") for name in ("account", "by", "network", "detail")), box=None)
    for entry in found:
        by = entry.operator or str(entry.actor_id or "")
        account = str(entry.account_id or "")
        table.add_row(show_time(entry.at), entry.event, account, by, entry.network, entry.detail)
    Console().print(table)
