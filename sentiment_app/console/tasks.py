"""Pages about tasks: the list, a task with its charts and rows, and downloads."""

import contextlib
import itertools
from typing import Any, cast
from uuid import UUID

from flask import Response, request
from marshmallow import fields, validate

from sentiment_app.console import charts, highlight
from sentiment_app.console.forms import IgnoresEmpty
from sentiment_app.console.pages import blueprint, go_to, page, render
from sentiment_app.errors import NotFoundError
from sentiment_app.files.reader import CSV, NDJSON, PARQUET, XLSX
from sentiment_app.ml.runtime import LABELS
from sentiment_app.registry.serving import ModelsLoadingError, UnknownModelError, UnusableModelError, serving
from sentiment_app.tasks import downloads, service, timeline
from sentiment_app.tasks.models import UNFINISHED, Task
from sentiment_app.tasks.schemas import TaskQuerySchema
from sentiment_app.web.guard import caller
from sentiment_app.web.schemas import Number, paged
from sentiment_app.webhooks import outbox

FORMATS = {"csv": CSV, "xlsx": XLSX, "parquet": PARQUET, "ndjson": NDJSON}
CHOICES = (*LABELS, "failed", "warned")
PAGE_ROWS = 50


class RowsQuerySchema(IgnoresEmpty):
    """Selects rows of a task."""

    show = fields.String(load_default=None, validate=validate.OneOf(CHOICES))
    after = Number(load_default=-1, validate=validate.Range(-1, 2**31 - 1))


@blueprint.get("/tasks")
@page(query=TaskQuerySchema())
def tasks(query: dict[str, Any]) -> Response:
    """The list of tasks."""
    found = paged(lambda *position, **filters: service.page(caller().user_id, *position, **filters), query)
    described = [service.describe(task) for task in found["items"]]
    cursor = TaskQuerySchema().fields["cursor"].serialize("cursor", {"cursor": found["next_cursor"]})
    return render("tasks.html", tasks=described, next_cursor=cursor)


@blueprint.get("/tasks/<uuid:task_id>")
@page(query=RowsQuerySchema())
def task(task_id: UUID, query: dict[str, Any]) -> Response:
    """A task: its progress, charts and rows."""
    found = service.get(caller().user_id, task_id)
    described = service.describe(found)
    is_poll = request.headers.get("HX-Trigger") == "state"  # the page asks for its state every second, not for rows
    rows = [] if is_poll else _rows(found, query["show"], query["after"])
    response = render(
        "task.html",
        task=described,
        is_unfinished=found.status in UNFINISHED,
        donut=charts.donut(list(described["summary"]["counts"].values())),
        histogram=charts.columns([[number] for number in described["summary"]["histogram"]]),
        order=charts.columns(timeline.count_labels(found)),
        rows=rows,
        columns=[column["name"] for column in (found.format or {}).get("kept_columns", [])],
        next_after=rows[-1].row_index if len(rows) == PAGE_ROWS else None,
        show=query["show"],
        choices=CHOICES,
        formats=list(FORMATS),
        deliveries=outbox.find(task_id),
    )
    if is_poll and found.status not in UNFINISHED:
        response.headers["HX-Refresh"] = "true"  # the whole page: buttons and rows have changed, too
    return response


def _rows(task: Task, choice: str | None, after: int) -> list[service.Result]:
    include: list[Any] = ["text"]
    if "kept_columns" in (task.format or {}):
        include.append("columns")
    try:
        opened = service.results(
            task.user_id, task.id, after, partial=True, with_gaps=True, include=include, choice=cast(Any, choice)
        )
        return list(itertools.islice(opened.rows, PAGE_ROWS))
    except (service.ExpiredError, service.ResultsChangedError):
        return []


@blueprint.get("/tasks/<uuid:task_id>/rows/<int(max=2147483646):index>")
@page(query=RowsQuerySchema())
def task_row(task_id: UUID, index: int, query: dict[str, Any]) -> Response:
    """A row of a task, with an explanation of its scores by the model that scored it."""
    found = service.get(caller().user_id, task_id)
    opened = service.results(found.user_id, task_id, index - 1, partial=True, with_gaps=True, include=["text"])
    row = next((row for row in opened.rows if row.row_index == index), None)
    text = row.text if row else None
    explanation = _explain(found.model_version, text) if text else None
    return render(
        "task_row.html",
        task_id=task_id,
        row=row,
        segments=highlight.segments(cast(str, text), explanation) if explanation else None,
        bars=highlight.bars(explanation) if explanation else [],
    )


def _explain(model_version: str, text: str) -> Any:
    """What each word contributes; None if the model is not a sum of words, or is not served any more."""
    with contextlib.suppress(UnknownModelError, UnusableModelError, ModelsLoadingError):
        return serving().pinned(model_version).scorer.explain(text)
    return None


@blueprint.get("/tasks/<uuid:task_id>/results.<name:format_>")
@page()
def download(task_id: UUID, format_: str) -> Response:
    """The results as a file, with the texts, and with the other columns of the uploaded file."""
    if format_ not in FORMATS:
        raise NotFoundError
    found = service.get(caller().user_id, task_id)
    include: list[Any] = ["text", "columns"] if "kept_columns" in (found.format or {}) else ["text"]
    opened = service.results(found.user_id, task_id, partial=found.status not in UNFINISHED, include=include)
    response = downloads.stream_results(opened, FORMATS[format_], task_id)
    response.headers.set("Content-Disposition", "attachment", filename=f"results-{task_id}.{format_}")
    return response


@blueprint.post("/tasks/<uuid:task_id>/cancel")
@page()
def cancel_task(task_id: UUID) -> Response:
    """Cancel a task. Finished results stay."""
    service.cancel(caller().user_id, task_id)
    return go_to("task", task_id=task_id)


@blueprint.post("/tasks/<uuid:task_id>/retry")
@page()
def retry_task(task_id: UUID) -> Response:
    """Score the failed and unscored rows of a task again."""
    service.retry(caller().user_id, task_id)
    return go_to("task", task_id=task_id)


@blueprint.post("/tasks/<uuid:task_id>/delete")
@page()
def delete_task(task_id: UUID) -> Response:
    """Delete a task with its texts and results."""
    service.delete(caller().user_id, task_id)
    return go_to("tasks")


@blueprint.post("/tasks/<uuid:task_id>/deliveries/<uuid:delivery_id>/redeliver")
@page(rates=("user", "redelivery"))
def redeliver(task_id: UUID, delivery_id: UUID) -> Response:
    """Send a delivery of a webhook again."""
    outbox.redeliver(service.get(caller().user_id, task_id).id, delivery_id)
    return go_to("task", task_id=task_id)
