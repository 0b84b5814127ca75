"""New tasks: rows arrive and are stored chunk by chunk, and workers begin before the last row has arrived."""

import contextlib
import errno
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO, Any, NamedTuple
from uuid import UUID

import structlog
import uuid_utils.compat as uuid
from sqlalchemy import case, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from sentiment_app.errors import (
    ConflictError,
    InvalidError,
    InvalidTokenError,
    MalformedError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from sentiment_app.files import reader
from sentiment_app.files.errors import FileError, FileTooLargeError
from sentiment_app.files.rows import Row
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.infrastructure.logs import bind_task
from sentiment_app.ml.text import MAX_CHARACTERS, TextError, normalize
from sentiment_app.registry.serving import Served, serving
from sentiment_app.tasks import chunks, executor, lifecycle, quotas, reconciler, retention, service
from sentiment_app.tasks.chunks import Claim
from sentiment_app.tasks.kept_columns import KeptColumns
from sentiment_app.tasks.models import Chunk, Task
from sentiment_app.usage import quotas as row_quotas
from sentiment_app.webhooks import egress

# Rows of a chunk: enough that a worker spends its time on scoring, few enough that tasks take turns every second.
CHUNK_ROWS = 5_000
# A chunk of long texts ends at this number of characters. Scoring it takes a second or two.
CHUNK_CHARACTERS = 2_000_000
# If no data has arrived for this long, a request with the same idempotency key may replace the upload.
STALE_UPLOAD = timedelta(seconds=60)
# A batch whose client waits for the results is scored by this process if it has at most this many rows and characters.
# A worker would need longer to receive the job than to score the texts.
AT_ONCE_ROWS, AT_ONCE_CHARACTERS = 1_000, 100_000
TOUCH_SECONDS = 10.0
PREVIEW_ROWS = 20

log = structlog.get_logger()

Acquire = Callable[[], contextlib.AbstractContextManager[None]]


class IdempotencyInProgressError(ConflictError):
    """The first request with this Idempotency-Key has not been answered yet."""

    kind = "idempotency-in-progress"
    detail = "The first request with this Idempotency-Key is still in progress. Retry when it has ended."


class UploadLostError(ConflictError):
    """The upload was abandoned because no data arrived for too long, or the task was deleted."""

    kind = "upload-lost"
    detail = "The upload was abandoned because no data arrived for too long, or the task was deleted. Send it again."


class NoRoomError(UnavailableError):
    """There is no space to read a workbook or a Parquet file."""

    detail = "There is no space to read this type of file at the moment. Retry later, or send CSV or NDJSON."


class IdempotencyKeyReusedError(InvalidError):
    """The Idempotency-Key was used before, for a different request."""

    kind = "idempotency-key-reused"
    detail = "This Idempotency-Key was used before, for a different request. Use a new key."


class Submission(NamedTuple):
    """The owner and the options of a new task."""

    user_id: UUID
    model: str | None = None
    webhook_url: str | None = None
    idempotency_key: str | None = None
    key_id: UUID | None = None
    """The API key that the request was sent with."""


def find_replay(submission: Submission, fingerprint: str) -> Task | None:
    """The task of an earlier request with the same Idempotency-Key; None if this is the first request.

    draft-ietf-httpapi-idempotency-key-header-07, section 2.6.

    Raises:
        IdempotencyInProgressError: the earlier request has not been answered.
        IdempotencyKeyReusedError: the earlier request was different.
    """
    found = find_by_idempotency_key(submission)
    if found is None:
        return None
    if found.fingerprint != fingerprint:
        raise IdempotencyKeyReusedError
    bind_task(found.id)
    return found


def find_by_idempotency_key(submission: Submission) -> Task | None:
    """The task with the caller's Idempotency-Key, if there is one.

    Raises:
        IdempotencyInProgressError: the request that creates it has not been answered.
    """
    if submission.idempotency_key is None:
        return None
    found = _find_by_key(submission.user_id, submission.idempotency_key)
    if found is None:
        return None
    if found.deleted_at or found.created_at < datetime.now(UTC) - retention.IDEMPOTENCY_KEY_LIFE:
        _release_key(found.id)
        return None
    if found.status == "uploading":
        if not reconciler.give_up_uploads(STALE_UPLOAD, found.id):
            raise IdempotencyInProgressError
        return None  # the process that received the upload is gone
    return found


@unit_of_work
def _find_by_key(user_id: UUID, key: str) -> Task | None:
    return db.session.scalar(
        select(Task).where(Task.user_id == user_id, Task.idempotency_key == key),
        execution_options={"populate_existing": True},
    )


@unit_of_work
def _release_key(task_id: UUID) -> None:
    db.session.execute(update(Task).where(Task.id == task_id).values(idempotency_key=None, fingerprint=None))


def submit_file(
    submission: Submission,
    stream: IO[bytes],
    format_: reader.Format,
    fingerprint: Callable[[], str],
    acquire: Acquire = contextlib.nullcontext,
) -> Task:
    """Create a task from a file, which is read as a stream. For `acquire`, see reader.Limits.

    Raises:
        MalformedError, InvalidError: the file cannot be read, or an option does not fit it.
        TooLargeError: it has more rows or bytes than the limits.
        And all errors of `submit`.
    """
    with _file_errors(), contextlib.closing(_open_file(stream, format_, acquire)) as file:
        rows = map(_check_text, file)
        if not format_.keeps_columns:
            return submit(submission, rows, fingerprint, file.describe)
        kept = KeptColumns()
        return submit(
            submission, kept.check(rows), fingerprint, lambda: file.describe() | {"kept_columns": kept.describe()}
        )


def preview_file(
    stream: IO[bytes], format_: reader.Format, acquire: Acquire = contextlib.nullcontext
) -> dict[str, Any]:
    """How a file is read: its format and its first rows. The fields of PreviewSchema.

    Raises:
        MalformedError, InvalidError, TooLargeError: as `submit_file`.
    """
    with _file_errors(), contextlib.closing(_open_file(stream, format_, acquire)) as file:
        rows = [_check_text(row)._asdict() for row in itertools.islice(file, PREVIEW_ROWS)]
        return {"format": file.describe(), "rows": rows}


def _open_file(stream: IO[bytes], format_: reader.Format, acquire: Acquire) -> reader.File:
    limits = reader.Limits(settings().max_upload_rows, settings().max_upload_bytes, acquire)
    return reader.File(stream, format_, limits)


@contextlib.contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # A workbook or a Parquet file is stored in the temporary folder, and read by a process of its own.
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.ENOMEM):
            raise NoRoomError from None
        raise
    except FileTooLargeError as error:
        raise TooLargeError(error.detail) from None
    except FileError as error:
        if error.option is None:
            raise MalformedError(error.detail) from None
        invalid = InvalidError(error.detail, field=error.option)
        invalid.columns = error.columns or None
        raise invalid from None


def _check_text(row: Row) -> Row:
    """A row of a file with its text in normalisation form C, or with the reason why the text is not acceptable."""
    if row.text is None:
        return row
    try:
        text = normalize(row.text)
    except TextError as error:
        return row._replace(text=None, error=f"The text {error}.")
    if not 1 <= len(text) <= MAX_CHARACTERS:
        return row._replace(
            text=None, error=f"The text must have 1 to {MAX_CHARACTERS:,} characters, not {len(text):,}."
        )
    return row if text is row.text else row._replace(text=text)


def submit_and_score(submission: Submission, rows: Sequence[Row], fingerprint: str) -> Task:
    """Create a task from rows, and score them in this process if that takes only a moment.

    Raises the errors of `submit`.
    """
    served = _find_model(submission.model)
    characters = sum(len(row.text or "") for row in rows)
    limit = min(AT_ONCE_ROWS, settings().max_queued_rows)
    is_quick = served.is_fast and len(rows) <= limit and characters <= AT_ONCE_CHARACTERS
    if not is_quick:
        return submit(submission, rows, lambda: fingerprint)
    if submission.webhook_url:
        egress.check_url(submission.webhook_url)
    row_quotas.prepare(submission.user_id, submission.key_id)
    claim = chunks.make_claim(
        uuid.uuid7(), served.version, [row.text for row in rows], submission.user_id, submission.key_id
    )
    with _conflicts():
        _add_claimed(submission, claim, rows, fingerprint)
    bind_task(claim.task_id)
    try:
        executor.score(claim)
    except Exception as error:  # noqa: BLE001  # the task is stored, so a worker may succeed
        log.warning("not_scored_at_once", error=type(error).__name__)
        lifecycle.dispatch(claim.task_id)
    lifecycle.finish(claim.task_id)
    try:
        return service.get(submission.user_id, claim.task_id)
    except NotFoundError:
        raise UploadLostError from None


@unit_of_work
def _add_claimed(submission: Submission, claim: Claim, rows: Sequence[Row], fingerprint: str) -> None:
    """Create a task that runs, with its only chunk, whose lease this process holds."""
    quotas.reserve_task(submission.user_id, claim.task_id, rows=len(rows))
    task = _task_values(claim.task_id, submission, claim.model_version)
    task |= {"status": "running", "started_at": func.now(), "total": len(rows), "fingerprint": fingerprint}
    chunk = _chunk_values(claim.id, claim.task_id, 0, rows) | chunks.lease(claim.token) | {"attempts": claim.attempts}
    db.session.execute(insert(Task).values(task).on_conflict_do_nothing(index_elements=[Task.id]))
    db.session.execute(insert(Chunk).values(chunk).on_conflict_do_nothing(index_elements=[Chunk.id]))
    row_quotas.check(submission.user_id, submission.key_id, task_rows=len(rows))


def submit(
    submission: Submission,
    rows: Iterable[Row],
    fingerprint: Callable[[], str],
    describe_format: Callable[[], dict[str, Any] | None] = lambda: None,
) -> Task:
    """Create a task from all rows and have workers score it, or create nothing.

    Args:
        submission: the owner and the options of the task.
        rows: read one after the other, and stored chunk by chunk.
        fingerprint: called after the last row; identifies the request.
        describe_format: called after the last row; the format of the file that the rows are from.

    Raises:
        UnknownModelError, NoModelError: there is no such model.
        TooManyTasksError, QuotaExceededError: a quota of the caller is used up.
        TaskExceedsQuotaError: the task alone exceeds a quota.
        InvalidError: there are no rows, or the webhook URL is not acceptable.
    """
    version = _find_model(submission.model).version
    if submission.webhook_url:
        egress.check_url(submission.webhook_url)
    # Rows that were scored count under the quotas. With quotas, nothing is scored before all rows are accepted.
    waits = row_quotas.prepare(submission.user_id, submission.key_id)
    task_id = open_task(submission, version)
    try:
        total = 0
        for part in _divide(_keep_alive(task_id, rows)):
            if total:  # a quota may have been set, or a day may have begun, since the upload began
                waits |= row_quotas.prepare(submission.user_id, submission.key_id)
            _add_chunk(uuid.uuid7(), submission.user_id, task_id, total, part)
            total += len(part)
            if not waits:
                lifecycle.dispatch(task_id)
        _close(task_id, total, fingerprint(), describe_format())
    except BaseException:
        retention.erase(task_id)
        raise
    lifecycle.dispatch(task_id)
    lifecycle.finish(task_id)  # the workers may have been faster than the upload
    return service.get(submission.user_id, task_id)


def _find_model(name: str | None) -> Served:
    return serving().current() if name is None else serving().pinned(name)


def open_task(submission: Submission, version: str) -> UUID:
    """Create a task that is being uploaded, if its owner's quota allows it.

    Raises:
        TooManyTasksError
        IdempotencyInProgressError: a request with the same Idempotency-Key was faster.
        InvalidTokenError: the account was deleted.
    """
    task_id = uuid.uuid7()
    with _conflicts():
        _open(task_id, submission, version)
    bind_task(task_id)
    return task_id


@contextlib.contextmanager
def _conflicts() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        if "idempotency_key" in str(error.orig):
            raise IdempotencyInProgressError from None
        raise InvalidTokenError from None  # the account was deleted while its token is still valid


@unit_of_work
def _open(task_id: UUID, submission: Submission, version: str) -> None:
    quotas.reserve_task(submission.user_id, task_id, rows=0)
    values = _task_values(task_id, submission, version)
    db.session.execute(insert(Task).values(values).on_conflict_do_nothing(index_elements=[Task.id]))


def _task_values(task_id: UUID, submission: Submission, version: str) -> dict[str, Any]:
    return {
        "id": task_id,
        "user_id": submission.user_id,
        "model_version": version,
        "webhook_url": submission.webhook_url,
        "idempotency_key": submission.idempotency_key,
        "key_id": submission.key_id,
    }


def _divide(rows: Iterable[Row]) -> Iterator[list[Row]]:
    part: list[Row] = []
    characters = 0
    for row in rows:
        part.append(row)
        characters += len(row.text or "")
        if row.columns:
            characters += sum(len(str(value)) for value in row.columns.values())
        if len(part) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part


def _keep_alive(task_id: UUID, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows. While they arrive, `touched_at` of the task is updated, so that a slow upload is not abandoned."""
    touched = time.monotonic()
    for row in rows:
        yield row
        if time.monotonic() - touched > TOUCH_SECONDS:
            _touch(task_id)
            touched = time.monotonic()


@unit_of_work
def _touch(task_id: UUID, **values: Any) -> None:
    kept = update(Task).where(Task.id == task_id, Task.deleted_at.is_(None))
    if db.session.execute(kept.values(touched_at=func.now(), **values).returning(Task.id)).first() is None:
        raise UploadLostError


@unit_of_work
def _add_chunk(chunk_id: UUID, user_id: UUID, task_id: UUID, first: int, rows: Sequence[Row]) -> None:
    values = _chunk_values(chunk_id, task_id, first, rows)
    total = first + len(rows)
    quotas.reserve_rows(user_id, task_id, total)
    # A task that cannot be scored, because its model is missing, accepts no more rows.
    is_open = Task.status == "uploading", Task.error.is_(None), Task.deleted_at.is_(None)
    grown = update(Task).where(Task.id == task_id, *is_open).values(touched_at=func.now(), total=total)
    task = db.session.execute(grown.returning(Task.key_id)).first()
    if task is None:
        raise UploadLostError
    db.session.execute(insert(Chunk).values(values).on_conflict_do_nothing(index_elements=[Chunk.id]))
    row_quotas.check(user_id, task.key_id, task_rows=total)


def _chunk_values(chunk_id: UUID, task_id: UUID, first: int, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "id": chunk_id,
        "task_id": task_id,
        "first": first,
        "size": len(rows),
        "texts": chunks.pack([row.text for row in rows]),
        "keys": chunks.pack([[row.line, row.custom_id] for row in rows]),
        "columns": chunks.pack([row.columns for row in rows]) if any(row.columns for row in rows) else None,
        "errors": {str(index): {"detail": row.error} for index, row in enumerate(rows) if row.error},
    }


@unit_of_work
def _close(task_id: UUID, total: int, fingerprint: str, format_: dict[str, Any] | None) -> None:
    if not total:
        raise InvalidError("There are no texts to score. Send at least one row.")
    # The status moves on only once: this may run again after a lost answer, when workers have already ended the task.
    # A task that failed during its upload also gets its fingerprint, so that a replay of the request finds it.
    has_failed = (Task.status == "uploading") & Task.error.is_not(None)
    values = {
        "status": case(
            (Task.status != "uploading", Task.status),
            (Task.error.is_not(None), "failed"),
            (Task.started_at.is_(None), "queued"),
            else_="running",
        ),
        "finished_at": case((has_failed, func.now()), else_=Task.finished_at),
        "expires_at": case((has_failed, func.now() + settings().task_life), else_=Task.expires_at),
        "total": total,
        "fingerprint": fingerprint,
        "format": format_,
    }
    before = db.session.scalar(select(Task.status).where(Task.id == task_id).with_for_update())
    closed = update(Task).where(Task.id == task_id, Task.deleted_at.is_(None)).values(values).returning(Task.status)
    row = db.session.execute(closed, execution_options=UNSYNCHRONIZED).first()
    if row is None:
        raise UploadLostError
    if (before, row.status) == ("uploading", "failed"):
        lifecycle.announce_end(task_id)
