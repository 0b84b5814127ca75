"""New tasks: their texts come in, chunk by chunk, and workers begin while the rest is on its way."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import case, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from sentiment_app.batch import engine, limits, reconcile, service, webhooks
from sentiment_app.batch.intake import Item
from sentiment_app.batch.models import Chunk, Task
from sentiment_app.errors import AppError, ConflictError, InvalidError, InvalidTokenError
from sentiment_app.extensions import db, settings, unit_of_work
from sentiment_app.sentiment.serving import UnknownModelError, serving

# So many that a worker spends its time on scoring, and so few that tasks take turns several times a second.
CHUNK_ROWS = 5_000
# And no larger than what takes a second or two to score.
CHUNK_CHARACTERS = 2_000_000
STALE = timedelta(seconds=60)
TOUCH_SECONDS = 10.0


class StillRunningError(ConflictError):
    """The first request with this Idempotency-Key has not been answered yet."""

    kind = "idempotency-in-progress"
    detail = "A request with this Idempotency-Key is still running."


class UploadLostError(ConflictError):
    """The upload took so long that it was given up, or its owner deleted it meanwhile."""

    kind = "upload-lost"
    detail = "The upload was given up; send it again."


class UploadTooSlowError(AppError):
    """The upload did not arrive within UPLOAD_SECONDS."""

    status, kind = 408, "upload-too-slow"
    detail = "The upload took too long to arrive; send it in parts."


class KeyReusedError(AppError):
    """The Idempotency-Key came before, with another body."""

    status, kind = 422, "idempotency-key-reused"
    detail = "This Idempotency-Key was used for another request."


class Submission(NamedTuple):
    """What is to be done with the items."""

    user_id: UUID
    model: str | None = None
    webhook_url: str | None = None
    idempotency_key: str | None = None
    given_in: str = "body"
    """Where model and webhook_url were given: for the pointers of errors."""


def replayed(submission: Submission, fingerprint: str) -> Task | None:
    """The task that an earlier request with the same Idempotency-Key made; None if this is the first.

    draft-ietf-httpapi-idempotency-key-header-07, section 2.6.

    Raises:
        StillRunningError: that request has not been answered.
        KeyReusedError: it had another body.
    """
    found = known(submission)
    if found is None:
        return None
    if found.fingerprint != fingerprint:
        raise KeyReusedError
    return found


def known(submission: Submission) -> Task | None:
    """The task of the caller's Idempotency-Key, if there is one.

    Raises:
        StillRunningError: the request that makes it has not been answered.
    """
    if submission.idempotency_key is None:
        return None
    found = _by_key(submission.user_id, submission.idempotency_key)
    if found is None:
        return None
    if found.deleted_at or found.created_at < datetime.now(UTC) - reconcile.KEY_LIFE:
        _release_key(found.id)
        return None
    if found.status == "uploading":
        if not reconcile.give_up_uploads(STALE, found.id):
            raise StillRunningError
        return None  # whoever uploaded it is gone
    return found


@unit_of_work
def _by_key(user_id: UUID, key: str) -> Task | None:
    return db.session.scalar(
        select(Task).where(Task.user_id == user_id, Task.idempotency_key == key),
        execution_options={"populate_existing": True},
    )


@unit_of_work
def _release_key(task_id: UUID) -> None:
    db.session.execute(update(Task).where(Task.id == task_id).values(idempotency_key=None, fingerprint=None))


def submit(submission: Submission, items: Iterable[Item], fingerprint: Callable[[], str]) -> Task:
    """Take in the items of a task and have workers score them; all of it, or nothing.

    Args:
        submission: for whom, and how.
        items: read one by one, and stored chunk by chunk.
        fingerprint: asked, after the last item, what identifies the request.

    Raises:
        UnknownModelError, NoModelError: there is no such model.
        TooManyTasksError: the caller's quota of tasks or rows is used up.
        InvalidError: there are no items.
    """
    version = _model_version(submission)
    if submission.webhook_url:
        webhooks.check_url(submission.webhook_url, submission.given_in)
    task_id = open_task(submission, version)
    try:
        total = 0
        for part in _chunks(_heard(task_id, items)):
            _add_chunk(uuid.uuid7(), submission.user_id, task_id, total, part)
            total += len(part)
            engine.dispatch(task_id)  # workers begin while the rest is still on its way
        _close(task_id, total, fingerprint())
    except BaseException:
        reconcile.erase(task_id)
        raise
    engine.finish(task_id)  # they may have been faster than the upload
    return service.get(submission.user_id, task_id)


def _model_version(submission: Submission) -> str:
    if submission.model is None:
        return serving().current().version
    try:
        return serving().pinned(submission.model).version
    except UnknownModelError as error:
        for one in error.errors or []:
            one["in"] = submission.given_in
        raise


def open_task(submission: Submission, version: str) -> UUID:
    """Note that a task is being uploaded, if its owner may have one more.

    Raises:
        TooManyTasksError: the caller has enough to wait for.
        StillRunningError: a request with the same Idempotency-Key came first.
    """
    task_id = uuid.uuid7()
    try:
        _open(task_id, submission, version)
    except IntegrityError as error:
        if "idempotency_key" in str(error.orig):
            raise StillRunningError from None
        raise InvalidTokenError from None  # the account was deleted under a living token
    return task_id


@unit_of_work
def _open(task_id: UUID, submission: Submission, version: str) -> None:
    limits.reserve_task(submission.user_id, task_id, rows=0)
    values = {
        "id": task_id,
        "user_id": submission.user_id,
        "model_version": version,
        "webhook_url": submission.webhook_url,
        "idempotency_key": submission.idempotency_key,
    }
    db.session.execute(insert(Task).values(values).on_conflict_do_nothing(index_elements=[Task.id]))


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    part: list[Item] = []
    characters = 0
    for item in items:
        part.append(item)
        characters += len(item.text or "")
        if len(part) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part


def _heard(task_id: UUID, items: Iterable[Item]) -> Iterator[Item]:
    """The items, noting now and then that they still come: a slow upload is not a dead one."""
    noted = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - noted > TOUCH_SECONDS:
            _touch(task_id)
            noted = time.monotonic()


@unit_of_work
def _touch(task_id: UUID, **values: Any) -> None:
    alive = update(Task).where(Task.id == task_id, Task.deleted_at.is_(None))
    if db.session.execute(alive.values(touched_at=func.now(), **values).returning(Task.id)).first() is None:
        raise UploadLostError


@unit_of_work
def _add_chunk(chunk_id: UUID, user_id: UUID, task_id: UUID, first: int, items: Sequence[Item]) -> None:
    errors = {str(place): {"detail": item.error} for place, item in enumerate(items) if item.error}
    values = {
        "id": chunk_id,
        "task_id": task_id,
        "first": first,
        "size": len(items),
        "texts": engine.pack([item.text for item in items]),
        "keys": engine.pack([[item.line, item.custom_id] for item in items]),
        "errors": errors,
    }
    limits.reserve_rows(user_id, task_id, first + len(items))
    # A task that cannot be scored, because its model is missing, accepts no more rows.
    alive = update(Task).where(
        Task.id == task_id, Task.status == "uploading", Task.error.is_(None), Task.deleted_at.is_(None)
    )
    alive = alive.values(touched_at=func.now(), total=first + len(items))
    if db.session.execute(alive.returning(Task.id)).first() is None:
        raise UploadLostError
    db.session.execute(insert(Chunk).values(values).on_conflict_do_nothing(index_elements=[Chunk.id]))


@unit_of_work
def _close(task_id: UUID, total: int, fingerprint: str) -> None:
    if not total:
        raise InvalidError("There are no texts in it.")
    # The status moves on only once: this may run again after a lost answer, when workers have already ended the task.
    # A task that failed during its upload has its fingerprint all the same: a replay of the request gets it.
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
    }
    before = db.session.scalar(select(Task.status).where(Task.id == task_id).with_for_update())
    closed = update(Task).where(Task.id == task_id, Task.deleted_at.is_(None)).values(values).returning(Task.status)
    row = db.session.execute(closed, execution_options={"synchronize_session": False}).first()
    if row is None:
        raise UploadLostError
    if (before, row.status) == ("uploading", "failed"):
        engine.announce(task_id)
