"""Webhooks: a finished task is told to a URL of its owner, signed as Standard Webhooks 1.0.0 says.

An address inside the house is refused unless WEBHOOK_NETWORKS allows it: at submission where the URL holds the address
itself, as a web process may have no network and must not wait for a name server; and at each attempt. There the name
is resolved once, all its addresses are checked, and the connection goes to the address that was checked: a name that
changes its mind between check and connect gains nothing. Redirects are not followed.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import random
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

import urllib3
import uuid_utils.compat as uuid
from sqlalchemy import Integer, case, cast, func, select, update
from urllib3.exceptions import HTTPError

from sentiment_app import __version__
from sentiment_app.batch.models import Delivery, Task
from sentiment_app.errors import InvalidError, NotFoundError
from sentiment_app.extensions import WEBHOOKS, db, enqueue, settings, unit_of_work

DELIVER = "sentiment_app.batch.jobs.deliver_webhook"
# Pauses after the first, second, … failed attempt: a day in all. Up to a tenth is added, so that not all come at once.
PAUSES = tuple(timedelta(seconds=one) for one in (5, 300, 1800, 7200, 18_000, 28_800, 28_800))
CLAIM = timedelta(minutes=2)
# Of a whole attempt: a receiver that sends a byte now and then must not keep everybody else's webhooks waiting.
JOB_SECONDS = 20
# After an attempt longer than this its owner's other webhooks wait for some times as long: everybody else's go first.
LONG_SECONDS, WAIT_FACTOR = 1.0, 4
TIMEOUT = urllib3.Timeout(connect=5, read=10)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
UNICAST = ipaddress.ip_network("2000::/3")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


PUBLIC_ONLY = (
    "Webhooks go to public addresses over https only, or to those networks that the operator names in WEBHOOK_NETWORKS."
)


class ForbiddenAddressError(Exception):
    """The URL leads to an address that webhooks may not go to."""

    def __init__(self, why: str = PUBLIC_ONLY) -> None:
        super().__init__(why)


def check_url(url: str, location: str = "body") -> None:
    """Refuse a URL that no webhook will be sent to, as far as it can be told without asking for its name.

    Raises:
        InvalidError: with a pointer to webhook_url.
    """
    parts = _split(url)
    wrong = None
    if parts is None:
        wrong = "Must be an https URL without user, password or fragment."
    else:
        try:
            _refuse_unasked(parts)
        except ForbiddenAddressError as error:
            wrong = str(error)
    if wrong:
        raise InvalidError(errors=[{"in": location, "pointer": "/webhook_url", "detail": wrong}])


def secret(user_id: UUID) -> str:
    """The key with which a user's webhooks are signed, as Standard Webhooks writes it."""
    return "whsec_" + base64.b64encode(_key(user_id)).decode()


def enqueue_delivery(delivery_id: UUID) -> None:
    """Send a delivery's job; where Redis is away, the reconciler sends it later."""
    enqueue(DELIVER, str(delivery_id), job_id=str(delivery_id), queue_name=WEBHOOKS, timeout=JOB_SECONDS)


def enqueue_deliveries(task_id: UUID) -> None:
    """Send the jobs of a task's deliveries that are due."""
    for one in deliveries(task_id):
        if one.state == "pending" and one.attempts == 0:
            enqueue_delivery(one.id)


@unit_of_work
def deliveries(task_id: UUID) -> Sequence[Delivery]:
    """What became of a task's webhook."""
    return db.session.scalars(select(Delivery).where(Delivery.task_id == task_id).order_by(Delivery.id)).all()


def redeliver(task_id: UUID, delivery_id: UUID) -> Delivery:
    """Send a delivery again, whatever became of it, with all its attempts before it.

    Raises:
        NotFoundError: the task has no such delivery.
    """
    found = _reset(task_id, delivery_id)
    if found is None:
        raise NotFoundError
    enqueue_delivery(delivery_id)
    return found


@unit_of_work
def _reset(task_id: UUID, delivery_id: UUID) -> Delivery | None:
    chosen = update(Delivery).where(Delivery.id == delivery_id, Delivery.task_id == task_id)
    # Without its attempt_id, an attempt that is in progress can no longer store its outcome over this.
    again = chosen.values(state="pending", attempts=0, attempt_id=None, next_at=func.now(), delivered_at=None)
    return db.session.scalar(again.returning(Delivery), execution_options={"populate_existing": True})


def deliver(delivery_id: UUID) -> None:
    """Make one attempt, if it is due and nobody else makes it."""
    claimed = _claim(delivery_id, attempt_id := uuid.uuid4())
    if claimed is None:
        return
    delivery, task = claimed
    body = json.dumps(_payload(delivery, task), separators=(",", ":")).encode()
    started = time.monotonic()
    try:
        delivered, answer = _post(str(task.webhook_url), _headers(delivery_id, task.user_id, body), body)
    except Exception as error:  # noqa: BLE001  # whatever a receiver does, and RQ's own time limit, is an answer
        delivered, answer = False, type(error).__name__
    _store_outcome(delivery_id, attempt_id, delivered, answer)
    if (seconds := time.monotonic() - started) > LONG_SECONDS:
        _hold_back(task.user_id, timedelta(seconds=WAIT_FACTOR * seconds))


@unit_of_work
def _claim(delivery_id: UUID, attempt_id: UUID) -> tuple[Delivery, Task] | None:
    kept = select(Task.id).where(Task.id == Delivery.task_id, Task.deleted_at.is_(None))
    due = update(Delivery).where(Delivery.id == delivery_id, Delivery.state == "pending", kept.exists())
    claimed = due.where((Delivery.next_at <= func.now()) | (Delivery.attempt_id == attempt_id)).values(
        # A second run of this unit of work finds its own id, and counts no second attempt.
        attempts=Delivery.attempts + cast(Delivery.attempt_id.is_distinct_from(attempt_id), Integer),
        attempt_id=attempt_id,
        next_at=func.now() + CLAIM,
        # A delivery whose attempts all ended without an outcome, not even a failure, ends too.
        state=case(
            ((Delivery.attempts > len(PAUSES)) & Delivery.attempt_id.is_distinct_from(attempt_id), "failed"),
            else_="pending",
        ),
    )
    delivery = db.session.scalar(claimed.returning(Delivery), execution_options={"populate_existing": True})
    if delivery is None or delivery.state == "failed":
        return None
    return delivery, db.session.get_one(Task, delivery.task_id, populate_existing=True)


@unit_of_work
def _store_outcome(delivery_id: UUID, attempt_id: UUID, delivered: bool, answer: str) -> None:
    """Store what an attempt found, unless the delivery was sent again, claimed again, or deleted meanwhile."""
    delivery = db.session.get(Delivery, delivery_id, populate_existing=True, with_for_update=True)
    if delivery is None or delivery.attempt_id != attempt_id or delivery.state != "pending":
        return
    delivery.answer = answer
    if delivered:
        delivery.state, delivery.delivered_at = "delivered", datetime.now(UTC)
    elif delivery.attempts > len(PAUSES):
        delivery.state = "failed"
    else:
        pause = PAUSES[delivery.attempts - 1]
        delivery.next_at = datetime.now(UTC) + pause * (1 + random.random() / 10)


@unit_of_work
def _hold_back(user_id: UUID, pause: timedelta) -> None:
    until = func.now() + pause
    own = select(Task.id).where(Task.user_id == user_id).scalar_subquery()
    others = update(Delivery).where(Delivery.task_id.in_(own), Delivery.state == "pending", Delivery.next_at < until)
    db.session.execute(others.values(next_at=until), execution_options={"synchronize_session": False})


def _payload(delivery: Delivery, task: Task) -> dict[str, Any]:
    return {
        "type": f"task.{delivery.event}",
        "timestamp": delivery.created_at.isoformat(),
        "data": {"task_id": str(task.id), "status": delivery.event, "model_version": task.model_version},
    }


def _headers(delivery_id: UUID, user_id: UUID, body: bytes) -> dict[str, str]:
    """Standard Webhooks 1.0.0, "Signature scheme": HMAC-SHA256 over id, timestamp and body."""
    timestamp = str(int(datetime.now(UTC).timestamp()))
    signed = b".".join((str(delivery_id).encode(), timestamp.encode(), body))
    signature = base64.b64encode(hmac.digest(_key(user_id), signed, "sha256")).decode()
    return {
        "Content-Type": "application/json",
        "User-Agent": f"sentiment-app/{__version__}",
        "webhook-id": str(delivery_id),
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def _post(url: str, headers: dict[str, str], body: bytes) -> tuple[bool, str]:
    parts = _split(url)
    if parts is None:
        return False, "not an https URL"
    try:
        pool = _pool(parts, _resolve(parts))
        with pool:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            answer = pool.urlopen(
                "POST",
                target,
                body=body,
                headers={**headers, "Host": parts.netloc},
                redirect=False,
                retries=False,
                timeout=TIMEOUT,
                preload_content=False,
            )
            answer.close()  # what it says beside its status is nobody's business
    except ForbiddenAddressError as error:
        return False, str(error)
    except (HTTPError, OSError) as error:
        return False, type(error).__name__
    return 200 <= answer.status < 300, str(answer.status)


def _pool(parts: SplitResult, address: Address) -> urllib3.HTTPConnectionPool:
    host = str(parts.hostname)
    if parts.scheme == "http":
        return urllib3.HTTPConnectionPool(str(address), parts.port or 80, maxsize=1)
    return urllib3.HTTPSConnectionPool(
        str(address), parts.port or 443, maxsize=1, server_hostname=host, assert_hostname=host
    )


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        port_is_sane = parts.port != 0
    except ValueError:
        return None
    is_plain = not (parts.username or parts.password or parts.fragment) and url.isascii() and url.isprintable()
    return parts if parts.scheme in ("https", "http") and parts.hostname and is_plain and port_is_sane else None


def _resolve(parts: SplitResult) -> Address:
    """The address to connect to, all addresses of the name having been checked."""
    try:
        found = _addresses(parts)
    except (OSError, UnicodeError):
        raise ForbiddenAddressError("The name of the host cannot be resolved.") from None
    _refuse_inside(found, parts.scheme)
    return found[0]


def _addresses(parts: SplitResult, flags: int = 0) -> list[Address]:
    default = 443 if parts.scheme == "https" else 80
    found = socket.getaddrinfo(parts.hostname, parts.port or default, type=socket.SOCK_STREAM, flags=flags)
    return [ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found]


def _refuse_inside(addresses: list[Address], scheme: str) -> None:
    if not all(_may_go_to(one, scheme) for one in addresses):
        raise ForbiddenAddressError


def _refuse_unasked(parts: SplitResult) -> None:
    """Refuse what can be refused without asking anybody for the name."""
    try:
        addresses = _addresses(parts, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):  # a name
        host = str(parts.hostname)
        is_here = host == "localhost" or host.endswith(".localhost")  # RFC 6761, section 6.3
        if (is_here or parts.scheme == "http") and not settings().webhook_networks:
            raise ForbiddenAddressError from None
    else:
        _refuse_inside(addresses, parts.scheme)


def _may_go_to(address: Address, scheme: str) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            address = address.ipv4_mapped
        elif address in NAT64 or address.sixtofour or address.teredo:
            return False  # an IPv4 address in disguise
    if any(address in ipaddress.ip_network(one) for one in settings().webhook_networks):
        return True
    # Of IPv6 nothing else is given out yet (RFC 4291, section 2.4); Python takes some of the rest for public.
    is_given_out = address.version == 4 or address in UNICAST
    return scheme == "https" and is_given_out and address.is_global and not address.is_multicast


def _key(user_id: UUID) -> bytes:
    return hmac.digest(settings().jwt_secret_key.encode(), f"webhook:{user_id}".encode(), hashlib.sha256)
