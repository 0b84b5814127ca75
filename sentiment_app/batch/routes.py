"""/sentiment/analyze/batch and /sentiment/tasks: many texts at once."""

import contextlib
import errno
import hashlib
import io
import re
import socket
import threading
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from typing import IO, Any, cast
from uuid import UUID

import structlog
from flask import Blueprint, Response, current_app, jsonify, request, stream_with_context, url_for
from sqlalchemy.exc import SQLAlchemyError

from sentiment_app.batch import events, intake, limits, render, schemas, service, uploads, webhooks
from sentiment_app.batch.models import UNFINISHED, Task
from sentiment_app.errors import AppError, InvalidError, MalformedError, UnavailableError, UnsupportedMediaTypeError
from sentiment_app.extensions import settings
from sentiment_app.guard import caller
from sentiment_app.operation import JSON, operation
from sentiment_app.schema import paged

# None of its names is registered: the first one is documented, the others are understood too.
NDJSON = (intake.NDJSON, "application/ndjson", "application/jsonl")
MAX_BATCH_BYTES = 16 * 1024 * 1024
MAX_WAIT_SECONDS = 30
RETRY_AFTER = {"Retry-After": "1"}
IDEMPOTENCY_KEY = re.compile(r'"?([\x21\x23-\x7e]{1,255})"?')
PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", re.IGNORECASE)
SUBMITTED = ("Location", "Retry-After", "Preference-Applied")

blueprint = Blueprint("tasks", __name__, url_prefix="/sentiment")

log = structlog.get_logger()


def _before_it_is_read() -> None:
    """Refuse an upload whose sender has enough to wait for; one that was taken before is answered again."""
    if uploads.known(_submission(None, None)) is None:
        limits.check(caller().user_id)


@blueprint.post("/analyze/batch")
@operation(
    rate="user",
    body=schemas.BatchSchema(),
    max_body=MAX_BATCH_BYTES,
    before=_before_it_is_read,
    status=202,
    also=200,
    returns=schemas.TaskSchema(),
    request_headers=("Idempotency-Key", "Prefer"),
    headers=SUBMITTED,
    errors=(404, 409),
)
def submit_batch(body: dict[str, Any]) -> Response:
    """Score up to 10 000 texts as a task.

    202 with a task to ask for; with `Prefer: wait=N`, 200 with its results if it ends within N seconds (at most 30).
    """
    submission = _submission(body.get("model"), body.get("webhook_url"))
    fingerprint = _fingerprint(request.get_data())
    task = uploads.replayed(submission, fingerprint) or uploads.submit(submission, _items(body), lambda: fingerprint)
    return _submitted(task)


@blueprint.post("/tasks")
@operation(
    rate="user",
    query=schemas.UploadQuerySchema(),
    streams=(intake.NDJSON, intake.CSV),
    before=_before_it_is_read,
    status=202,
    also=200,
    returns=schemas.TaskSchema(),
    request_headers=("Idempotency-Key", "Prefer"),
    headers=SUBMITTED,
    errors=(404, 408, 409),
)
def submit_file(query: dict[str, Any]) -> Response:
    """Score a file of NDJSON or CSV as a task, up to a million rows.

    It is read as a stream, also with `Content-Encoding: gzip`. A row that cannot be read fails alone, with its line.
    NDJSON: `{"text": …, "custom_id": …}`, or a string, a line; its other names, application/ndjson and
    application/jsonl, are understood too.
    """
    submission = _submission(query.pop("model"), query.pop("webhook_url"), given_in="query")
    query["encoding"] = query["encoding"] or request.mimetype_params.get("charset")
    form = intake.Format(_upload_kind(), is_gzip=_is_gzip(), **query)
    with _room("uploading").one(caller().user_id) as has_room:
        if not has_room:  # a sender may be as slow as he likes: he must not take all threads
            raise UnavailableError("As many uploads as may be are being read; send yours again in a few seconds.")
        with _ends_in_time():
            task = _take_in(submission, form)
    return _submitted(task)


@contextlib.contextmanager
def _ends_in_time() -> Iterator[None]:
    """Stop listening to a sender who takes longer than UPLOAD_SECONDS: a read waits for the next byte, not for him."""
    is_late = threading.Event()
    connection: socket.socket | None = request.environ.get("gunicorn.socket")  # Werkzeug's own client has none

    def hang_up() -> None:
        is_late.set()
        if connection:
            with contextlib.suppress(OSError):  # he has gone
                connection.shutdown(socket.SHUT_RD)

    timer = threading.Timer(settings().upload_seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception:
        if is_late.is_set():
            raise uploads.UploadTooSlowError from None
        raise
    finally:
        timer.cancel()


def _take_in(submission: uploads.Submission, form: intake.Format) -> Task:
    earlier = uploads.known(submission)
    request.max_content_length = settings().max_upload_bytes
    upload = _Upload(request.stream, request.content_length)
    if earlier:
        upload.drain()
        return uploads.replayed(submission, _fingerprint(upload.digest())) or earlier
    most = intake.Limits(settings().max_upload_rows, settings().max_upload_bytes)
    items = intake.read(cast(IO[bytes], upload), form, most)
    return uploads.submit(submission, items, lambda: _fingerprint(upload.digest()))


@blueprint.get("/tasks")
@operation(query=schemas.TaskQuerySchema(), returns=schemas.TaskPageSchema())
def index(query: dict[str, Any]) -> dict[str, Any]:
    """Your tasks, newest first."""
    page = paged(partial(service.page, caller().user_id), query)
    return {**page, "items": [service.describe(one) for one in page["items"]]}


@blueprint.get("/task/<uuid:task_id>", endpoint="show_singular")
@blueprint.get("/tasks/<uuid:task_id>")
@operation(returns=schemas.TaskSchema())
def show(task_id: UUID) -> dict[str, Any]:
    """One of your tasks: how far it is, and a small one's results when it is completed."""
    return _told(service.get(caller().user_id, task_id))


@blueprint.delete("/tasks/<uuid:task_id>")
@operation(status=204)
def delete(task_id: UUID) -> None:
    """Delete a task, its texts and its results, for good."""
    service.delete(caller().user_id, task_id)


@blueprint.post("/tasks/<uuid:task_id>/cancel")
@operation(returns=schemas.TaskSchema(), errors=(409,))
def cancel(task_id: UUID) -> dict[str, Any]:
    """Stop a task; what is scored by then stays."""
    return service.describe(service.cancel(caller().user_id, task_id))


@blueprint.post("/tasks/<uuid:task_id>/retry")
@operation(status=202, returns=schemas.TaskSchema(), headers=("Location",), errors=(409,))
def retry(task_id: UUID) -> tuple[dict[str, Any], dict[str, str]]:
    """Score again the rows that failed to be scored."""
    return service.describe(service.retry(caller().user_id, task_id)), {"Location": _location(task_id)}


@blueprint.get("/tasks/<uuid:task_id>/results")
@operation(
    query=schemas.ResultQuerySchema(),
    returns=schemas.ResultPageSchema(),
    media_types=(JSON, intake.NDJSON, intake.CSV),
    errors=(409, 410),
)
def results(task_id: UUID, query: dict[str, Any]) -> Response:
    """The results, in the order of the input: pages of JSON, or all of them as NDJSON or CSV.

    What there is while the task runs, or after it was cancelled. Go on with the index of your last row as `cursor`.
    In CSV, what a spreadsheet would run as a formula has an apostrophe before it, in a custom_id too.
    If the task is retried or deleted meanwhile, a page is answered with 409, and a file breaks off before its end.
    """
    after, limit = query["cursor"], query["limit"]
    status, _, rows = service.results(caller().user_id, task_id, after)
    kind = request.accept_mimetypes.best_match([JSON, *NDJSON, intake.CSV]) or JSON
    if kind in NDJSON:
        return _download(render.ndjson(rows), kind)
    if kind == intake.CSV:
        return _download(render.table(rows, with_header=after < 0), kind)
    items = [render.as_object(one) for one in islice(rows, limit)]
    more = len(items) == limit or status in UNFINISHED
    return jsonify({"items": items, "next_cursor": (items[-1]["index"] if items else after) if more else None})


@blueprint.get("/tasks/<uuid:task_id>/events")
@operation(media_types=("text/event-stream",), also=204, request_headers=("Last-Event-ID",))
def follow(task_id: UUID) -> Response:
    """Progress as Server-Sent Events, resumed by Last-Event-ID and ended by an event named end.

    204 when there is nothing more to come. If the task is deleted meanwhile, the data of the last event has its
    `task_id` and the status `deleted` alone.
    """
    user_id, seen = caller().user_id, request.headers.get("Last-Event-ID")
    task = service.get(user_id, task_id)
    if task.status not in UNFINISHED and seen == events.last_id(task, service.describe(task)):
        return Response(status=204)
    stream = events.stream(user_id, task_id, seen, _room("waiting"), schemas.TaskSchema().dump)
    answer = _stream(stream, "text/event-stream")
    answer.headers["X-Accel-Buffering"] = "no"
    return answer


@blueprint.get("/tasks/<uuid:task_id>/deliveries")
@operation(returns=schemas.DeliveryListSchema())
def deliveries(task_id: UUID) -> dict[str, Any]:
    """What became of the task's webhook."""
    return {"items": webhooks.deliveries(service.get(caller().user_id, task_id).id)}


@blueprint.post("/tasks/<uuid:task_id>/deliveries/<uuid:delivery_id>/redeliver")
@operation(status=202, returns=schemas.DeliverySchema())
def redeliver(task_id: UUID, delivery_id: UUID) -> Any:
    """Send the webhook again."""
    return webhooks.redeliver(service.get(caller().user_id, task_id).id, delivery_id)


@blueprint.get("/webhooks/secret")
@operation(returns=schemas.SecretSchema())
def webhook_secret() -> dict[str, str]:
    """The key that verifies the signatures of your webhooks (Standard Webhooks)."""
    return {"secret": webhooks.secret(caller().user_id)}


class _Upload(io.RawIOBase):
    """The body of a request, which knows the sha256 of what was read of it.

    Raises, when read, MalformedError where it ends before its Content-Length, as it does when its sender has gone:
    neither gunicorn nor Werkzeug says so.
    """

    def __init__(self, stream: IO[bytes], length: int | None) -> None:
        self._stream = stream
        self._left = length or 0
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self._stream.read(size)
        self._left -= len(piece)
        if not piece and size and self._left > 0:
            raise MalformedError("The body is shorter than its Content-Length.")
        self._hash.update(piece)
        return piece

    def drain(self) -> None:
        """Read what is left, and keep nothing."""
        while self.read(intake.SAMPLE):
            pass

    def digest(self) -> bytes:
        self.drain()  # a reader may stop before the end of what was sent
        return self._hash.digest()


def _submission(model: str | None, webhook_url: str | None, given_in: str = "body") -> uploads.Submission:
    return uploads.Submission(caller().user_id, model, webhook_url, _idempotency_key(), given_in)


def _idempotency_key() -> str | None:
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return None
    found = IDEMPOTENCY_KEY.fullmatch(given)
    if not found:
        detail = "Must be 1 to 255 visible ASCII characters."
        raise InvalidError(errors=[{"in": "header", "pointer": "/Idempotency-Key", "detail": detail}])
    return found[1]


def _fingerprint(content: bytes) -> str:
    """Identifies a request: where it goes, what it is, what it says."""
    said = "\n".join((request.full_path, request.content_type or "", request.headers.get("Content-Encoding", "")))
    return hashlib.sha256(said.encode(errors="replace") + b"\n" + content).hexdigest()


def _items(body: dict[str, Any]) -> Iterator[intake.Item]:
    given = body.get("items") or [{"text": one, "custom_id": None} for one in body["texts"]]
    for line, one in enumerate(given, 1):
        yield intake.Item(line, one["custom_id"], one["text"])


def _upload_kind() -> str:
    kinds = {**dict.fromkeys(NDJSON, intake.NDJSON), intake.CSV: intake.CSV}
    if request.mimetype not in kinds:
        raise UnsupportedMediaTypeError(f"Send the file as Content-Type {intake.NDJSON} or {intake.CSV}.")
    return kinds[request.mimetype]


def _is_gzip() -> bool:
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise UnsupportedMediaTypeError("Content-Encoding may be gzip, or nothing.")
    return encoding != "identity"


def _submitted(task: Task) -> Response:
    headers = {"Location": _location(task.id)}
    seconds = _preferred_wait()
    if seconds is not None:
        with _room("waiting").one(caller().user_id) as may_wait:
            if may_wait:
                task = service.wait(caller().user_id, task.id, seconds)
                headers["Preference-Applied"] = f"wait={seconds}"
    # With its results, or not at all: those of a long file are for /results.
    is_done = seconds is not None and task.status not in UNFINISHED and task.total <= schemas.MAX_ITEMS
    described = _with_results(task) if is_done else service.describe(task)
    is_done = "result" in described  # not if the task was retried meanwhile
    answer = jsonify(schemas.TaskSchema().dump(described))
    answer.status_code = 200 if is_done else 202
    answer.headers.update(headers if is_done else {**headers, **RETRY_AFTER})
    return answer


def _preferred_wait() -> int | None:
    found = PREFER_WAIT.search(request.headers.get("Prefer", ""))
    return min(int(found[1]), MAX_WAIT_SECONDS) if found else None


def _told(task: Task) -> dict[str, Any]:
    return _with_results(task) if service.is_small(task) else service.describe(task)


def _with_results(task: Task) -> dict[str, Any]:
    """A task that has ended, and its results; or the task as it is now if it was retried meanwhile."""
    try:
        opened = service.results(task.user_id, task.id)
        found = [render.as_object(result) for result in opened.rows]
    except service.ResultsChangedError:
        opened = None
    if opened is None or (opened.status, opened.finished_at) != (task.status, task.finished_at):
        return service.describe(service.get(task.user_id, task.id))
    return {**service.describe(task), "result": found}


def _location(task_id: UUID) -> str:
    return url_for("tasks.show", task_id=task_id)


def _download(pieces: Iterator[str], kind: str) -> Response:
    """Stream results, if there is room: many at once would take all threads from those who score."""
    room = contextlib.ExitStack()
    if not room.enter_context(_room("downloading").one(caller().user_id)):
        raise UnavailableError("As many downloads as may be are under way; ask for yours again in a few seconds.")
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(room.close)
        first = next(pieces, "")  # what fails before anything is sent is answered with a problem
        on_failure.pop_all()
    answer = _stream(chain([first], pieces), kind)
    answer.call_on_close(room.close)
    return answer


def _stream(pieces: Iterator[str], kind: str) -> Response:
    return Response(stream_with_context(_broken_off(pieces)), mimetype=kind)


def _broken_off(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces; where they fail, the connection breaks, so that nobody takes what was sent for the whole.

    It is too late for a problem document. gunicorn takes a reset connection as it is, without a traceback in the log,
    which might quote a row.
    """
    try:
        yield from pieces
    except (AppError, SQLAlchemyError) as error:
        log.warning("stream_broken_off", reason=type(error).__name__)
        raise ConnectionResetError(errno.ECONNRESET, "the rest cannot be sent") from None


def _room(name: str) -> events.Holding:
    return cast(events.Holding, current_app.extensions[name])
