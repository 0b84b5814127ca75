"""The outbox: deliveries are stored in the transaction of their event, and then attempted for up to a day.

A delivery has its own snapshot of the URL, the owner and the payload, so it depends on nothing that may change.
"""

import json
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
import uuid_utils.compat as uuid
from sqlalchemy import Integer, Select, case, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert

from sentiment_app import __version__
from sentiment_app.errors import NotFoundError
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.infrastructure.queue import WEBHOOKS_QUEUE, enqueue
from sentiment_app.webhooks import egress, secrets, signatures
from sentiment_app.webhooks.models import Delivery

JOB = "sentiment_app.webhooks.jobs.deliver"
# Pauses after the first, second, … failed attempt: a day in all. Up to a tenth is added, to spread the attempts.
RETRY_PAUSES = tuple(timedelta(seconds=seconds) for seconds in (5, 300, 1800, 7200, 18_000, 28_800, 28_800))
# An attempt without an outcome after this time is considered dead.
ATTEMPT_LIFE = timedelta(minutes=2)
# The limit on a whole attempt: a receiver that sends a byte now and then must not delay the webhooks of others.
JOB_SECONDS = 20
# After an attempt that takes longer than this, the other deliveries of the same owner are postponed by a multiple of
# the time that it took, so that a slow receiver does not delay other users' webhooks.
SLOW_SECONDS, POSTPONE_FACTOR = 1.0, 4
MAX_DUE = 1000

log = structlog.get_logger()


def add(delivery_id: UUID, task_id: UUID, user_id: UUID, url: str, event: str, data: dict[str, Any]) -> None:
    """Store a delivery, within the caller's unit of work. `event` is a status of the task, such as "completed"."""
    values = {
        "id": delivery_id,
        "task_id": task_id,
        "user_id": user_id,
        "url": url,
        "event": event,
        "payload": {"type": f"task.{event}", "data": data},
    }
    db.session.execute(insert(Delivery).values(values).on_conflict_do_nothing(index_elements=[Delivery.id]))


def withdraw(task_ids: Select[UUID]) -> None:
    """Delete the deliveries of the tasks that a query finds, within the caller's unit of work."""
    db.session.execute(sa.delete(Delivery).where(Delivery.task_id.in_(task_ids)), execution_options=UNSYNCHRONIZED)


def send(delivery_id: UUID) -> None:
    """Enqueue an attempt. If Redis does not answer, the reconciler enqueues it later."""
    enqueue(JOB, str(delivery_id), job_id=str(delivery_id), queue_name=WEBHOOKS_QUEUE, timeout=JOB_SECONDS)


def send_new(task_id: UUID) -> None:
    """Enqueue the first attempts of a task's deliveries."""
    for delivery in find(task_id):
        if delivery.state == "pending" and delivery.attempts == 0:
            send(delivery.id)


@unit_of_work
def find(task_id: UUID) -> Sequence[Delivery]:
    """The deliveries of a task, oldest first."""
    return db.session.scalars(select(Delivery).where(Delivery.task_id == task_id).order_by(Delivery.id)).all()


@unit_of_work
def find_due() -> Sequence[UUID]:
    """Deliveries whose next attempt is due."""
    due = select(Delivery.id).where(Delivery.state == "pending", Delivery.next_at <= func.now())
    return db.session.scalars(due.where(Delivery.url.is_not(None)).limit(MAX_DUE)).all()


def redeliver(task_id: UUID, delivery_id: UUID) -> Delivery:
    """Send a delivery again, whatever its outcome was. Its attempts are counted from zero again.

    Raises:
        NotFoundError: the task has no such delivery.
    """
    found = _reset(task_id, delivery_id)
    if found is None:
        raise NotFoundError
    send(delivery_id)
    return found


@unit_of_work
def _reset(task_id: UUID, delivery_id: UUID) -> Delivery | None:
    chosen = update(Delivery).where(Delivery.id == delivery_id, Delivery.task_id == task_id)
    # Without its attempt_id, an attempt that is in progress can no longer store its outcome.
    again = chosen.values(state="pending", attempts=0, attempt_id=None, next_at=func.now(), delivered_at=None)
    return db.session.scalar(again.returning(Delivery), execution_options={"populate_existing": True})


def attempt(delivery_id: UUID) -> None:
    """Make one attempt, if the delivery is due and no other worker is attempting it."""
    delivery = _claim(delivery_id, attempt_id := uuid.uuid4())
    if delivery is None or delivery.user_id is None or delivery.payload is None:
        return
    event, data = delivery.payload["type"], delivery.payload["data"]
    message = {"type": event, "timestamp": delivery.created_at.isoformat(), "data": data}
    body = json.dumps(message, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/json", "User-Agent": f"sentiment-app/{__version__}"}
    started = time.monotonic()
    try:
        keys = secrets.find_valid(delivery.user_id) or [secrets.get_or_create(delivery.user_id)]
        headers |= signatures.sign(delivery_id, keys, body)
        is_delivered, answer = egress.post(str(delivery.url), headers, body)
    except Exception as error:  # noqa: BLE001  # whatever happens, also RQ's own timeout, is the attempt's outcome
        is_delivered, answer = False, type(error).__name__
    _store_outcome(delivery_id, attempt_id, is_delivered, answer)
    ids = {"task_id": str(delivery.task_id), "user_id": str(delivery.user_id), "delivery_id": str(delivery_id)}
    outcome = {"attempt": delivery.attempts, "is_delivered": is_delivered, "answer": answer}
    (log.info if is_delivered else log.warning)("webhook_attempted", **ids, **outcome)
    if (seconds := time.monotonic() - started) > SLOW_SECONDS:
        _postpone(delivery.user_id, timedelta(seconds=POSTPONE_FACTOR * seconds))


@unit_of_work
def _claim(delivery_id: UUID, attempt_id: UUID) -> Delivery | None:
    due = update(Delivery).where(Delivery.id == delivery_id, Delivery.state == "pending", Delivery.url.is_not(None))
    claimed = due.where((Delivery.next_at <= func.now()) | (Delivery.attempt_id == attempt_id)).values(
        # If this unit of work runs again, it finds its own id, and does not count another attempt.
        attempts=Delivery.attempts + cast(Delivery.attempt_id.is_distinct_from(attempt_id), Integer),
        attempt_id=attempt_id,
        next_at=func.now() + ATTEMPT_LIFE,
        # A delivery whose attempts all died without an outcome has failed, too.
        state=case(
            ((Delivery.attempts > len(RETRY_PAUSES)) & Delivery.attempt_id.is_distinct_from(attempt_id), "failed"),
            else_="pending",
        ),
    )
    delivery = db.session.scalar(claimed.returning(Delivery), execution_options={"populate_existing": True})
    return delivery if delivery and delivery.state != "failed" else None


@unit_of_work
def _store_outcome(delivery_id: UUID, attempt_id: UUID, is_delivered: bool, answer: str) -> None:
    """Store the outcome of an attempt, unless the delivery was reset, claimed again or deleted meanwhile."""
    delivery = db.session.get(Delivery, delivery_id, populate_existing=True, with_for_update=True)
    if delivery is None or delivery.attempt_id != attempt_id or delivery.state != "pending":
        return
    delivery.answer = answer
    if is_delivered:
        delivery.state, delivery.delivered_at = "delivered", datetime.now(UTC)
    elif delivery.attempts > len(RETRY_PAUSES):
        delivery.state = "failed"
    else:
        pause = RETRY_PAUSES[delivery.attempts - 1]
        delivery.next_at = datetime.now(UTC) + pause * (1 + random.random() / 10)


@unit_of_work
def _postpone(user_id: UUID, pause: timedelta) -> None:
    until = func.now() + pause
    pending = update(Delivery).where(Delivery.user_id == user_id, Delivery.state == "pending", Delivery.next_at < until)
    db.session.execute(pending.values(next_at=until), execution_options=UNSYNCHRONIZED)
