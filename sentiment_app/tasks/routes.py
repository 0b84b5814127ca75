"""/sentiment/analyze/batch and /sentiment/tasks: batch scoring."""

import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

import structlog
from flask import Blueprint, Flask, Response, jsonify, request, url_for

from sentiment_app.errors import UnavailableError
from sentiment_app.files.reader import CSV, NDJSON, NDJSON_TYPES, PARQUET, PARQUET_TYPES, XLSX
from sentiment_app.files.rows import Row
from sentiment_app.infrastructure.app_state import SETTINGS, AppKey
from sentiment_app.infrastructure.concurrency import ConcurrencyLimit
from sentiment_app.tasks import (
    downloads,
    metrics,
    progress_stream,
    quotas,
    render,
    schemas,
    service,
    submission,
    upload,
)
from sentiment_app.tasks.models import UNFINISHED, Task
from sentiment_app.tasks.submission import Submission
from sentiment_app.tasks.upload import MULTIPART, fingerprint
from sentiment_app.web.guard import caller, holders
from sentiment_app.web.operation import JSON, operation
from sentiment_app.web.problems import InvalidFieldsError
from sentiment_app.web.schemas import paged
from sentiment_app.webhooks import outbox
from sentiment_app.webhooks.models import Delivery
from sentiment_app.webhooks.schemas import DeliveryListSchema, DeliverySchema

# 10,000 items with a text and a custom_id each are 40,000 values by the count of web/operation.py.
MAX_BATCH_BYTES, MAX_BATCH_VALUES = 16 * 1024 * 1024, 60_000
MAX_WAIT_SECONDS = 30
RETRY_AFTER = {"Retry-After": "1"}
IDEMPOTENCY_KEY = re.compile(r'"?([\x21\x23-\x7e]{1,255})"?')
PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", re.IGNORECASE)
SUBMITTED = ("Location", "Retry-After", "Preference-Applied")

# Requests that wait for a task. Each occupies a thread for a long time.
WAITING = AppKey[ConcurrencyLimit]("waiting")
# Batches that this process scores itself. Scoring takes a core, so further batches are sent to the workers.
AT_ONCE = AppKey[ConcurrencyLimit]("at_once")
AT_ONCE_CAPACITY = 4

blueprint = Blueprint("tasks", __name__, url_prefix="/sentiment")

log = structlog.get_logger()


def init_app(app: Flask) -> None:
    """Give the application its limits on requests that occupy a thread for a long time."""
    WAITING.set(app, ConcurrencyLimit(SETTINGS.get(app).max_held_requests, UnavailableError))
    AT_ONCE.set(app, ConcurrencyLimit(AT_ONCE_CAPACITY, UnavailableError))
    upload.init_app(app)
    downloads.init_app(app)
    metrics.init_app(app)


def _check_quota() -> None:
    """Refuse an upload before its body is read if the caller's quota is used up. Replays are not refused."""
    if submission.find_by_idempotency_key(_submission(None, None)) is None:
        quotas.check(caller().user_id, caller().key_id)


@blueprint.post("/analyze/batch")
@operation(
    scopes=("tasks",),
    body=schemas.BatchSchema(),
    max_body=MAX_BATCH_BYTES,
    max_values=MAX_BATCH_VALUES,
    before=_check_quota,
    status=202,
    also=200,
    returns=schemas.TaskSchema(),
    request_headers=("Idempotency-Key", "Prefer"),
    headers=SUBMITTED,
    errors=(404, 409),
)
def submit_batch(body: dict[str, Any]) -> Response:
    """Score up to 10,000 texts as a task.

    Returns 202 with the task. With `Prefer: wait=N`, returns 200 with the results if the task ends within N seconds. Up
    to 1,000 short texts are then scored at once, without a worker.
    """
    to_submit = _submission(body.get("model"), body.get("webhook_url"))
    identity = fingerprint(request.get_data())
    task = submission.find_replay(to_submit, identity)
    if task is None and _preferred_wait() is not None:
        with AT_ONCE.get().try_admit(*holders()) as has_place:
            if has_place:
                task = submission.submit_and_score(to_submit, list(_rows(body)), identity)
    return _submitted(task or submission.submit(to_submit, _rows(body), lambda: identity))


@blueprint.post("/tasks")
@operation(
    scopes=("tasks",),
    query=schemas.UploadQuerySchema(),
    streams=(NDJSON, CSV, JSON, XLSX, PARQUET, MULTIPART),
    before=_check_quota,
    status=202,
    also=200,
    returns=schemas.TaskSchema(),
    request_headers=("Idempotency-Key", "Prefer"),
    headers=SUBMITTED,
    errors=(404, 408, 409),
)
def submit_file(query: dict[str, Any]) -> Response:
    """Score a file of CSV, NDJSON, a JSON array, an Excel workbook or Parquet as a task, up to a million rows.

    The file is read as a stream, and may be compressed (`Content-Encoding: gzip` or `zstd`). A row that cannot be read
    does not affect the other rows, and its error names the line. Each line of NDJSON, and each element of a JSON array,
    is an object `{"text": …, "custom_id": …}` or a string. NDJSON may also have the media types application/ndjson and
    application/jsonl, and CSV may have text/tab-separated-values.

    The file may also be sent as a part of a form (multipart/form-data). The options may then be fields of the form that
    come before the file, and the type of the file follows from its name.
    """
    with upload.receive(schemas.UploadQuerySchema(), query) as file:
        task = file.submit(_submission(file.options.pop("model"), file.options.pop("webhook_url")))
    return _submitted(task)  # outside the limit on uploads, because it may wait for the task


@blueprint.post("/tasks/preview")
@operation(
    scopes=("tasks",),
    query=schemas.FileQuerySchema(),
    streams=(NDJSON, CSV, JSON, XLSX, PARQUET, MULTIPART),
    returns=schemas.PreviewSchema(),
    errors=(408,),
)
def preview(query: dict[str, Any]) -> dict[str, Any]:
    """Show how a file would be read: its format and its first 20 rows.

    Nothing is stored. Send the whole file, or its beginning if it is not compressed, with the same options as for
    a task.
    """
    with upload.receive(schemas.FileQuerySchema(), query) as file:
        return file.preview()


@blueprint.get("/tasks")
@operation(scopes=("tasks", "read"), query=schemas.TaskQuerySchema(), returns=schemas.TaskPageSchema())
def index(query: dict[str, Any]) -> dict[str, Any]:
    """List your tasks, newest first."""
    page = paged(partial(service.page, caller().user_id), query)
    return {**page, "items": [service.describe(task) for task in page["items"]]}


@blueprint.get("/task/<uuid:task_id>", endpoint="show_singular")
@blueprint.get("/tasks/<uuid:task_id>")
@operation(scopes=("tasks", "read"), returns=schemas.TaskSchema())
def show(task_id: UUID) -> dict[str, Any]:
    """Get a task with its progress, and with its results if it is completed and small."""
    task = service.get(caller().user_id, task_id)
    return _with_results(task) if service.is_small(task) else service.describe(task)


@blueprint.delete("/tasks/<uuid:task_id>")
@operation(scopes=("tasks",), status=204)
def delete(task_id: UUID) -> None:
    """Delete a task with its texts and results."""
    service.delete(caller().user_id, task_id)


@blueprint.post("/tasks/<uuid:task_id>/cancel")
@operation(scopes=("tasks",), returns=schemas.TaskSchema(), errors=(409,))
def cancel(task_id: UUID) -> dict[str, Any]:
    """Cancel a task. Finished results stay."""
    return service.describe(service.cancel(caller().user_id, task_id))


@blueprint.post("/tasks/<uuid:task_id>/retry")
@operation(scopes=("tasks",), status=202, returns=schemas.TaskSchema(), headers=("Location",), errors=(409,))
def retry(task_id: UUID) -> tuple[dict[str, Any], dict[str, str]]:
    """Score the failed and unscored rows of a task again."""
    return service.describe(service.retry(caller().user_id, task_id)), {"Location": _location(task_id)}


@blueprint.get("/tasks/<uuid:task_id>/results")
@operation(
    scopes=("tasks", "read"),
    query=schemas.ResultQuerySchema(),
    returns=schemas.ResultPageSchema(),
    media_types=(JSON, NDJSON, CSV, XLSX, PARQUET),
    errors=(409, 410),
)
def results(task_id: UUID, query: dict[str, Any]) -> Response:
    """Get the results in the order of the input: pages of JSON, or all as NDJSON, CSV, Excel workbook or Parquet.

    The header `Accept` chooses the format. With `include=text,columns`, each row also has its text and the other
    columns of the file. In tables, a column of the file that has the same name as a column of the results gets the
    prefix `input_`.

    For a task that is not completed, the answer is 409 with the progress. With `partial=true`, it has the results that
    are finished. To continue, send the index of your last row as `cursor`. In CSV, a cell that a spreadsheet would run
    as a formula begins with an apostrophe, unless `formulas` is `raw`. If the task is retried or deleted meanwhile, a
    request for a page gets 409, and a file download fails.
    """
    after, limit = query["cursor"], query["limit"]
    opened = service.results(
        caller().user_id, task_id, after, partial=query["may_be_partial"], include=query["include"]
    )
    media_type = request.accept_mimetypes.best_match([JSON, *NDJSON_TYPES, CSV, XLSX, *PARQUET_TYPES]) or JSON
    if media_type != JSON:
        raw = query["formulas"] == "raw"
        return downloads.stream_results(opened, media_type, task_id, with_header=after < 0, raw=raw)
    items = [render.as_object(result, opened.included) for result in islice(opened.rows, limit)]
    has_more = len(items) == limit or opened.status in UNFINISHED
    return jsonify({"items": items, "next_cursor": (items[-1]["index"] if items else after) if has_more else None})


@blueprint.get("/tasks/<uuid:task_id>/events")
@operation(scopes=("tasks", "read"), media_types=("text/event-stream",), also=204, request_headers=("Last-Event-ID",))
def follow(task_id: UUID) -> Response:
    """Follow the progress of a task as Server-Sent Events.

    The last event is named `end`. With Last-Event-ID, the stream continues after that event; 204 means that no event
    will follow. If the task is deleted meanwhile, the data of the last event has only its `task_id` and the status
    `deleted`.
    """
    user_id, seen = caller().user_id, request.headers.get("Last-Event-ID")
    task = service.get(user_id, task_id)
    if task.status not in UNFINISHED and seen == progress_stream.last_id(task, service.describe(task)):
        return Response(status=204)
    may_wait = WAITING.get().try_admit(*holders())
    events = progress_stream.stream(user_id, task_id, seen, may_wait, schemas.TaskSchema().dump)
    response = downloads.stream(events, "text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    return response


@blueprint.get("/tasks/<uuid:task_id>/deliveries")
@operation(scopes=("tasks", "read"), returns=DeliveryListSchema())
def deliveries(task_id: UUID) -> dict[str, Any]:
    """List the deliveries to the task's webhook."""
    return {"items": outbox.find(service.get(caller().user_id, task_id).id)}


@blueprint.post("/tasks/<uuid:task_id>/deliveries/<uuid:delivery_id>/redeliver")
@operation(scopes=("tasks",), rates=("user", "redelivery"), status=202, returns=DeliverySchema())
def redeliver(task_id: UUID, delivery_id: UUID) -> Delivery:
    """Send a delivery again."""
    return outbox.redeliver(service.get(caller().user_id, task_id).id, delivery_id)


def _submission(model: str | None, webhook_url: str | None) -> Submission:
    return Submission(caller().user_id, model, webhook_url, _idempotency_key(), caller().key_id)


def _idempotency_key() -> str | None:
    header = request.headers.get("Idempotency-Key")
    if header is None:
        return None
    found = IDEMPOTENCY_KEY.fullmatch(header)
    if not found:
        detail = "The key must have 1 to 255 visible ASCII characters."
        raise InvalidFieldsError([{"in": "header", "pointer": "/Idempotency-Key", "detail": detail}])
    return found[1]


def _rows(body: dict[str, Any]) -> Iterator[Row]:
    items = body.get("items") or [{"text": text, "custom_id": None} for text in body["texts"]]
    for line, item in enumerate(items, 1):
        yield Row(line, item["custom_id"], item["text"])


def _submitted(task: Task) -> Response:
    headers = {"Location": _location(task.id)}
    seconds = _preferred_wait()
    may_wait = seconds is not None
    if seconds is not None and task.status in UNFINISHED:
        with WAITING.get().try_admit(*holders()) as may_wait:
            if may_wait:
                task = service.wait(caller().user_id, task.id, seconds)
    if may_wait:
        headers["Preference-Applied"] = f"wait={seconds}"
    # The response has all results or no results. Clients read the results of a larger task from /results.
    is_done = seconds is not None and task.status not in UNFINISHED and task.total <= schemas.MAX_ITEMS
    described = _with_results(task) if is_done else service.describe(task)
    is_done = "result" in described  # false if the task was retried meanwhile
    response = jsonify(schemas.TaskSchema().dump(described))
    response.status_code = 200 if is_done else 202
    response.headers.update(headers if is_done else {**headers, **RETRY_AFTER})
    return response


def _preferred_wait() -> int | None:
    found = PREFER_WAIT.search(request.headers.get("Prefer", ""))
    return min(int(found[1]), MAX_WAIT_SECONDS) if found else None


def _with_results(task: Task) -> dict[str, Any]:
    """The description of a finished task with its results, or without results if the task was retried meanwhile."""
    try:
        opened = service.results(task.user_id, task.id, partial=True)
        found = [render.as_object(result, opened.included) for result in opened.rows]
    except service.ResultsChangedError:
        opened = None
    if opened is None or (opened.status, opened.finished_at) != (task.status, task.finished_at):
        return service.describe(service.get(task.user_id, task.id))
    return {**service.describe(task), "result": found}


def _location(task_id: UUID) -> str:
    return url_for("tasks.show", task_id=task_id)
