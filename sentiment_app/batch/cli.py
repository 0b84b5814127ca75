"""`flask tasks`: batch scoring for operators."""

import signal
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from sentiment_app.batch import intake, render, service, uploads
from sentiment_app.batch import reconcile as reconciling
from sentiment_app.batch.models import UNFINISHED, VISIBLE
from sentiment_app.cli import Group, as_json, print_json
from sentiment_app.extensions import db, settings
from sentiment_app.logs import tell_systemd_ready
from sentiment_app.users import service as users

tasks = Group("tasks", help="Score files of texts, and look after the tasks of all users.")

out = Console()
LOOK_SECONDS = 0.5


@tasks.command("submit")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--user", "username", required=True, help="Whose task it is.")
@click.option("--column", help="Of the texts, in CSV; otherwise the one named text.")
@click.option("--id-column", help="Of the names of rows, in CSV; otherwise custom_id, if there is one.")
@click.option("--delimiter", help="Of CSV; otherwise found out.")
@click.option("--encoding", help="Such as cp1252; otherwise found out.")
@click.option("--model", help="A released version; otherwise the active one.")
@click.option("--follow", is_flag=True, help="Show how far it is until it has ended.")
def submit(file: Path, username: str, model: str | None, follow: bool, **form: Any) -> None:
    """Submit a file as a task: .csv, .ndjson or .jsonl, also with .gz.

    Example: flask tasks submit reviews.csv --user ada --column review --follow
    """
    kind = {".csv": intake.CSV, ".ndjson": intake.NDJSON, ".jsonl": intake.NDJSON}.get(
        file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
    )
    if kind is None:
        raise click.ClickException(f"{file} must end in .csv, .ndjson or .jsonl, or one of these and .gz.")
    submission = uploads.Submission(users.named(username).id, model)
    limits = intake.Limits(settings().max_upload_rows, settings().max_upload_bytes)
    with file.open("rb") as stream:
        items = intake.read(stream, intake.Format(kind, **form, is_gzip=file.suffix == ".gz"), limits)
        task = uploads.submit(submission, items, lambda: "")
    click.echo(f"{task.id}: {task.total:,} rows queued")
    if follow:
        _follow(task.id)


@tasks.command("list")
@click.option("--user", "username", help="Of one user only.")
@click.option("--status", type=click.Choice(VISIBLE), help="Of one status only.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="As many at most.")
@as_json
def index(username: str | None, status: str | None, limit: int, as_json: bool) -> None:
    """List tasks, the newest first.

    Example: flask tasks list --status running
    """
    user_id = users.named(username).id if username else None
    rows = [service.describe(one) for one in service.page(user_id, limit, None, status=status)]
    if as_json:
        print_json(rows)
        return
    table = Table(Column("task", no_wrap=True, min_width=36), "status", "rows", "done", "failed", box=None)
    for row in rows:
        counts = row["request_counts"]
        table.add_row(
            str(row["task_id"]),
            row["status"],
            f"{counts['total']:,}",
            f"{row['percent']:.1f}%",
            f"{counts['failed']:,}",
        )
    out.print(table)


@tasks.command("show")
@click.argument("task_id", type=click.UUID)
@click.option("--follow", is_flag=True, help="Show how far it is until it has ended.")
@as_json
def show(task_id: UUID, follow: bool, as_json: bool) -> None:
    """Show a task.

    Example: flask tasks show 01a20810-6c0c-7378-b5fe-cfc50592fba5 --follow
    """
    if follow:
        _follow(task_id)
    described = service.describe(service.get(None, task_id))
    if as_json:
        print_json(described)
        return
    for name, value in described.items():
        parts = value if isinstance(value, dict) else {"": value}
        for part, one in parts.items():
            label = f"{name} {part}".replace("_", " ")
            click.echo(f"{label:24} {'-' if one is None else one}")


@tasks.command("results")
@click.argument("task_id", type=click.UUID)
@click.option("--format", "form", type=click.Choice(["ndjson", "csv"]), default="ndjson", show_default=True)
def results(task_id: UUID, form: str) -> None:
    """Print a task's results.

    Example: flask tasks results 01a20810-6c0c-7378-b5fe-cfc50592fba5 --format csv > results.csv
    """
    rows = service.results(None, task_id).rows
    for piece in render.ndjson(rows) if form == "ndjson" else render.table(rows, with_header=True):
        click.echo(piece, nl=False)


@tasks.command("cancel")
@click.argument("task_id", type=click.UUID)
def cancel(task_id: UUID) -> None:
    """Stop a task; what is scored by then stays.

    Example: flask tasks cancel 01a20810-6c0c-7378-b5fe-cfc50592fba5
    """
    click.echo(f"{task_id} is {service.cancel(None, task_id).status}")


@tasks.command("retry")
@click.argument("task_id", type=click.UUID)
def retry(task_id: UUID) -> None:
    """Score again what failed to be scored.

    Example: flask tasks retry 01a20810-6c0c-7378-b5fe-cfc50592fba5
    """
    click.echo(f"{task_id} is {service.retry(None, task_id).status}")


@tasks.command("reconcile")
@click.option("--every", type=click.FloatRange(0.1, 3600), metavar="SECONDS", help="Go on until SIGTERM.")
@as_json
def reconcile(every: float | None, as_json: bool) -> None:
    """Put back what was lost with a worker or with Redis, and send webhooks that are due.

    Example: flask tasks reconcile --every 5
    """
    stop = threading.Event()
    if every:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        tell_systemd_ready()
    while True:
        if not every:
            done = reconciling.reconcile()
            break
        reconciling.try_to_reconcile()
        db.session.remove()
        if stop.wait(every):
            return
    if as_json:
        print_json(done)
    else:
        click.echo(", ".join(f"{name}: {number}" for name, number in done.items()))


@tasks.command("purge")
@as_json
def purge(as_json: bool) -> None:
    """Delete the texts and results of tasks that were kept long enough (TASK_DAYS), or whose owner deleted them.

    Example: flask tasks purge
    """
    done = reconciling.purge()
    if as_json:
        print_json(done)
    else:
        click.echo(", ".join(f"{name}: {number}" for name, number in done.items()))


def _follow(task_id: UUID) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        shown = bar.add_task("queued", total=None)
        while True:
            task = service.get(None, task_id)
            at = service.progress(task)
            bar.update(shown, description=task.status, total=task.total, completed=at.completed + at.failed)
            if task.status not in UNFINISHED:
                return
            db.session.remove()
            time.sleep(LOOK_SECONDS)
