"""`sentiment tasks`: batch scoring for operators."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from sentiment_app.cli import Completer, as_json, command, complete, print_json
from sentiment_app.files.reader import SUFFIXES, Format, recognize
from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.systemd import notify_ready
from sentiment_app.registry.cli import complete_state
from sentiment_app.tasks import reconciler, render, service, submission
from sentiment_app.tasks.models import UNFINISHED, VISIBLE, Task
from sentiment_app.users import service as users
from sentiment_app.users.cli import complete_user

out = Console()
POLL_SECONDS = 0.5
MAX_COMPLETIONS = 50
WITH_RESULTS = tuple(status for status in VISIBLE if status != "expired")
FORMATS: dict[str, Callable[..., Iterator[Any]]] = {
    "ndjson": render.ndjson,
    "csv": render.csv_table,
    "xlsx": render.workbook,
    "parquet": render.parquet,
}


def complete_task(*statuses: str, accepts: Callable[[Task], bool] = lambda _: True) -> Completer:
    """Complete the newest tasks that have one of these statuses and are acceptable."""

    def find(_ctx: click.Context, _prefix: str) -> Iterable[str]:
        pages = (service.page(None, MAX_COMPLETIONS, None, status=status) for status in statuses)
        found = (task for page in pages for task in page)
        return sorted((str(task.id) for task in found if accepts(task)), reverse=True)

    return complete(find)


def _has_unscored_rows(task: Task) -> bool:
    return task.completed < task.total


complete_owner = complete_user()
complete_retry = complete_task("failed", "cancelled", "completed", accepts=_has_unscored_rows)


@command("submit")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--user", "username", required=True, help="The owner of the task.", shell_complete=complete_owner)
@click.option(
    "--column", help="The column with the texts: a name, or a number from 1. Default: text, or the only column."
)
@click.option("--id-column", help="The column with the custom_id. Default: custom_id, if it exists.")
@click.option("--delimiter", help="CSV: a character, or tab, comma, semicolon, pipe or space. Detected by default.")
@click.option("--no-header", "has_header", flag_value=False, default=True, help="CSV: the file has no header.")
@click.option("--encoding", help="The encoding, such as cp1252. Detected by default.")
@click.option("--sheet", help="Excel workbook: the name of the sheet. Default: the first sheet.")
@click.option("--keep-columns", "keeps_columns", is_flag=True, help="Keep the other columns for the results.")
@click.option(
    "--model",
    help="A released version. Default: the active model.",
    shell_complete=complete_state("active", "previous", "candidate"),
)
@click.option("--follow", is_flag=True, help="Show the progress until the task has ended.")
@as_json
def submit(file: Path, username: str, model: str | None, follow: bool, as_json: bool, **options: Any) -> None:
    """Submit a file as a task: .csv, .tsv, .txt, .ndjson, .jsonl, .json, .xlsx or .parquet.

    Any of them may be compressed as .gz or .zst. With --follow, the exit status is 1 if the task fails or is cancelled.

    Example: sentiment tasks submit reviews.csv --user ada --column review --follow
    """
    recognized = recognize(file.name)
    if recognized is None:
        names = ", ".join(SUFFIXES)
        raise click.ClickException(
            f"The type of {file} is not known. Its name must end in one of {names}, optionally with .gz or .zst."
        )
    media_type, compression = recognized
    to_submit = submission.Submission(users.get_by_username(username).id, model)
    with file.open("rb") as stream:
        format_ = Format(media_type, **options, compression=compression)
        task = submission.submit_file(to_submit, stream, format_, lambda: "")
    if not as_json:
        click.echo(f"{task.id}: {task.total:,} rows queued")
    if follow:
        task = _follow(task.id)
    if as_json:
        print_json(service.describe(task))
    if follow:
        _check_completed(task)


@command("list")
@click.option("--user", "username", help="Only tasks of this user.", shell_complete=complete_owner)
@click.option("--status", type=click.Choice(VISIBLE), help="Only tasks with this status.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Maximum number of tasks.")
@as_json
def index(username: str | None, status: str | None, limit: int, as_json: bool) -> None:
    """List tasks, newest first.

    Example: sentiment tasks list --status running
    """
    user_id = users.get_by_username(username).id if username else None
    rows = [service.describe(task) for task in service.page(user_id, limit, None, status=status)]
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


@command("show")
@click.argument("task_id", type=click.UUID, shell_complete=complete_task(*VISIBLE))
@click.option("--follow", is_flag=True, help="Show the progress until the task has ended.")
@as_json
def show(task_id: UUID, follow: bool, as_json: bool) -> None:
    """Show a task. With --follow, the exit status is 1 if it fails or is cancelled.

    Example: sentiment tasks show 01a20810-6c0c-7378-b5fe-cfc50592fba5 --follow
    """
    task = _follow(task_id) if follow else service.get(None, task_id)
    described = service.describe(task)
    if as_json:
        print_json(described)
    else:
        for label, value in _flatten(described):
            click.echo(f"{label:30} {'-' if value is None else value}")
    if follow:
        _check_completed(task)


@command("results")
@click.argument("task_id", type=click.UUID, shell_complete=complete_task(*WITH_RESULTS))
@click.option("--format", "format_", type=click.Choice(list(FORMATS)), default="ndjson", show_default=True)
@click.option("--json", "format_", flag_value="ndjson", help="The same as --format ndjson: JSON on each line.")
@click.option("--include", multiple=True, type=click.Choice(["text", "columns"]), help="Also print these. Repeatable.")
@click.option("--partial", is_flag=True, help="Print the finished results at once. Default: wait until it has ended.")
@click.option(
    "--formulas", type=click.Choice(["escaped", "raw"]), default="escaped", show_default=True, help="CSV only."
)
def results(task_id: UUID, format_: str, include: Sequence[Any], partial: bool, formulas: str) -> None:
    """Print the results of a task.

    Example: sentiment tasks results 01a20810-6c0c-7378-b5fe-cfc50592fba5 --format xlsx > results.xlsx
    """
    if not partial and service.get(None, task_id).status in UNFINISHED:
        _follow(task_id)
    opened = service.results(None, task_id, partial=partial, include=include)
    options = {"raw": formulas == "raw"} if format_ == "csv" else {}
    for piece in FORMATS[format_](opened.rows, opened.included, **options):
        click.echo(piece, nl=False)


@command("cancel")
@click.argument("task_id", type=click.UUID, shell_complete=complete_task(*UNFINISHED))
@as_json
def cancel(task_id: UUID, as_json: bool) -> None:
    """Cancel a task. Finished results stay.

    Example: sentiment tasks cancel 01a20810-6c0c-7378-b5fe-cfc50592fba5
    """
    _print_status(service.cancel(None, task_id), as_json)


@command("retry")
@click.argument("task_id", type=click.UUID, shell_complete=complete_retry)
@as_json
def retry(task_id: UUID, as_json: bool) -> None:
    """Score the failed and unscored rows of a task again.

    Example: sentiment tasks retry 01a20810-6c0c-7378-b5fe-cfc50592fba5
    """
    _print_status(service.retry(None, task_id), as_json)


@command("reconcile")
@click.option(
    "--every", type=click.FloatRange(0.1, 3600), metavar="SECONDS", help="Repeat after this time until SIGTERM."
)
@as_json
def reconcile(every: float | None, as_json: bool) -> None:
    """Requeue work that was lost when a worker or Redis failed, and send webhooks that are due.

    Example: sentiment tasks reconcile --every 5
    """
    stop = threading.Event()
    if every:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        notify_ready()
    while True:
        if not every:
            done = reconciler.reconcile()
            break
        reconciler.try_reconcile()
        db.session.remove()
        if stop.wait(every):
            return
    if as_json:
        print_json(done)
    else:
        click.echo(", ".join(f"{name}: {number}" for name, number in done.items()))


def _print_status(task: Task, as_json: bool) -> None:
    if as_json:
        print_json(service.describe(task))
    else:
        click.echo(f"{task.id} is {task.status}")


def _follow(task_id: UUID) -> Task:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        shown = bar.add_task("queued", total=None)
        while True:
            task = service.get(None, task_id)
            totals = service.progress(task)
            done = totals.completed + totals.failed
            bar.update(shown, description=task.status, total=task.total, completed=done)
            if task.status not in UNFINISHED:
                break
            db.session.remove()
            time.sleep(POLL_SECONDS)
    return task


def _check_completed(task: Task) -> None:
    if task.status != "completed":
        raise click.ClickException(f"The task is {task.status}.{f' {task.error}' if task.error else ''}")


def _flatten(described: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in described.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, dict):
            yield from _flatten(value, f"{label} ")
        else:
            yield label, ", ".join(map(str, value)) if isinstance(value, list) else value
