"""Webhooks: signatures, retries, and no access to internal networks."""

import base64
import hmac
import json
import socket
import threading
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import UUID, uuid4

import pytest
from harness import PASSWORD
from sqlalchemy import delete, func, update

from sentiment_app.infrastructure import logs
from sentiment_app.infrastructure.database import db
from sentiment_app.infrastructure.queue import WEBHOOKS_QUEUE, queue
from sentiment_app.registry import serving as serving_module
from sentiment_app.tasks import reconciler, submission
from sentiment_app.tasks.models import Task
from sentiment_app.users import service as users
from sentiment_app.webhooks import egress, outbox, secrets
from sentiment_app.webhooks.models import Delivery, WebhookSecret

SECRET = "/api/v1/sentiment/webhooks/secret"
BATCH, TASKS = "/api/v1/sentiment/analyze/batch", "/api/v1/sentiment/tasks"


@pytest.fixture
def receiver():
    """A real HTTP server on this host. It records requests, and answers with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.received.append((dict(self.headers), body))
            time.sleep(self.server.delay)
            self.send_response(self.server.status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self._headers_buffer.append(self.server.odd_line)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.received, server.status, server.delay, server.odd_line = [], 204, 0, b""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def internal_app(make_app):
    """An application whose webhooks may go to this host."""
    return make_app(webhook_networks=["127.0.0.0/8"])


@pytest.fixture
def finish(internal_app, receiver, work):
    """Submits a task with a webhook, and waits until it has ended."""

    def finish(headers):
        url = f"http://127.0.0.1:{receiver.server_port}/hook?x=1"
        task = internal_app.test_client().post(BATCH, json={"texts": ["a"], "webhook_url": url}, headers=headers)
        assert task.status_code == 202, task.json
        work()
        return task.json["task_id"]

    return finish


@pytest.fixture
def finished(finish, as_ada):
    """An ended task of ada, with a webhook."""
    return finish(as_ada)


@pytest.fixture
def deliveries(client, as_ada):
    return lambda task: client.get(f"{TASKS}/{task}/deliveries", headers=as_ada).json["items"]


@pytest.fixture
def deliver(internal_app):
    """Makes all delivery attempts that are due."""

    def deliver():
        with internal_app.app_context():
            reconciler.reconcile()
            for job in queue(WEBHOOKS_QUEUE).jobs:
                outbox.attempt(job.args[0])
            queue(WEBHOOKS_QUEUE).empty()

    return deliver


def test_webhook_has_standard_signature(client, as_ada, finished, deliver, receiver, deliveries):
    deliver()
    ((headers, body),) = receiver.received
    event = json.loads(body)
    assert (event["type"], event["data"]["task_id"]) == ("task.completed", finished)
    secret = client.get("/api/v1/sentiment/webhooks/secret", headers=as_ada).json["secret"]
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    (entry,) = deliveries(finished)
    assert (entry["id"], entry["state"], entry["answer"]) == (headers["webhook-id"], "delivered", "204")


def read_secret(answer):
    return base64.b64decode(answer.json["secret"].removeprefix("whsec_"))


def signature(key, headers, body):
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def test_secret_is_random_and_differs_between_users(client, as_ada, make_user, sign_in):
    grace = sign_in(make_user("grace"))
    keys = {read_secret(client.get(SECRET, headers=headers)) for headers in (as_ada, as_ada, grace)}
    assert [len(key) for key in keys] == [32, 32]


@pytest.mark.parametrize(("overlap", "number"), [(60, 2), (0, 1)])
def test_secret_is_replaced_with_an_overlap(client, as_ada, finished, deliver, receiver, overlap, number):
    old = read_secret(client.get(SECRET, headers=as_ada))
    made = client.post(f"{SECRET}/rotate", json={"overlap_seconds": overlap}, headers=as_ada)
    assert made.status_code == 201
    new = read_secret(made)
    assert read_secret(client.get(SECRET, headers=as_ada)) == new != old
    deliver()
    ((headers, body),) = receiver.received
    expected = [signature(key, headers, body) for key in (new, old)[:number]]
    assert headers["webhook-signature"].split() == expected


def test_secret_that_was_replaced_ends(client, as_ada, finished, deliver, receiver):
    for _ in range(2):
        key = read_secret(client.post(f"{SECRET}/rotate", json={}, headers=as_ada))
    db.session.execute(update(WebhookSecret).where(WebhookSecret.expires_at.is_not(None)).values(expires_at=func.now()))
    deliver()
    ((headers, body),) = receiver.received
    assert headers["webhook-signature"] == signature(key, headers, body)


def test_replaced_secrets_do_not_pile_up(client, ada, as_ada, finished, deliver, receiver):
    keys = [secrets.rotate(ada.id, timedelta(days=30)) for _ in range(5)]
    deliver()
    ((headers, body),) = receiver.received
    assert headers["webhook-signature"].split() == [signature(key, headers, body) for key in (keys[4], keys[3])]


@pytest.mark.parametrize("other", ["get_or_create", "rotate"])
def test_first_secret_is_made_once(base_app, monkeypatch, other):
    """Two requests at once, with transactions of their own."""
    with base_app.app_context():
        user_id = users.register("racer", "racer@example.org", PASSWORD).id
    outcomes, barrier = [], threading.Barrier(2)

    def act(name):
        with base_app.app_context():
            barrier.wait()
            arguments = (user_id,) if name == "get_or_create" else (user_id, timedelta(hours=1))
            outcomes.append(getattr(secrets, name)(*arguments))

    try:
        for _ in range(10):
            with base_app.app_context():
                db.session.execute(delete(WebhookSecret).where(WebhookSecret.user_id == user_id))
                db.session.commit()
            outcomes.clear()
            threads = [threading.Thread(target=act, args=(name,)) for name in ("rotate", other)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            with base_app.app_context():
                valid = secrets.find_valid(user_id)
            assert len(outcomes) == 2
            assert set(outcomes) <= set(valid)
    finally:
        with base_app.app_context():
            db.session.execute(delete(users.User).where(users.User.id == user_id))
            db.session.commit()


def test_redelivery_has_a_rate_of_its_own(make_app, client, as_ada, finished, deliver, deliveries):
    deliver()
    (entry,) = deliveries(finished)
    strict = make_app(login_rate_limit="2 per minute").test_client()
    path = f"/api/v1/sentiment/tasks/{finished}/deliveries/{entry['id']}/redeliver"
    assert [strict.post(path, headers=as_ada).status_code for _ in range(3)] == [202, 202, 429]


def test_invalid_webhook_response_is_not_logged(finished, deliver, receiver, capfd):
    logs.configure("INFO")
    receiver.odd_line = b"no header at all\r\n"
    deliver()
    assert receiver.received
    logged = capfd.readouterr().err
    assert "no header at all" not in logged
    assert "/hook" not in logged


def test_failed_delivery_is_retried_with_the_same_id(finished, deliver, receiver, deliveries):
    receiver.status = 500
    deliver()
    (entry,) = deliveries(finished)
    assert (entry["state"], entry["attempts"], entry["answer"]) == ("pending", 1, "500")
    deliver()  # not yet due
    assert len(receiver.received) == 1
    receiver.status = 200
    db.session.execute(update(Delivery).values(next_at=func.now() - timedelta(1)))
    deliver()
    assert deliveries(finished)[0]["state"] == "delivered"
    assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1


def test_delivery_fails_after_a_day_and_can_be_sent_again(client, as_ada, finished, deliver, receiver, deliveries):
    receiver.status = 503
    waited = timedelta()
    while (entry := deliveries(finished)[0])["state"] == "pending":
        deliver()
        if deliveries(finished)[0]["state"] == "pending":
            waited += db.session.query(Delivery).one().next_at - func_now()
        db.session.execute(update(Delivery).values(next_at=func.now() - timedelta(1)))
    assert entry["state"] == "failed"
    assert timedelta(hours=23) < waited < timedelta(hours=27)
    receiver.status = 200
    url = f"{TASKS}/{finished}/deliveries/{entry['id']}/redeliver"
    assert client.post(url, headers=as_ada).status_code == 202
    deliver()
    assert deliveries(finished)[0]["state"] == "delivered"


@pytest.mark.asvs("15.4.4")
def test_slow_receiver_does_not_delay_others(
    finish, as_ada, make_user, sign_in, deliver, receiver, deliveries, monkeypatch
):
    monkeypatch.setattr(outbox, "SLOW_SECONDS", 0.1)
    receiver.delay = 0.2
    first, second, other = finish(as_ada), finish(as_ada), finish(sign_in(make_user("bob")))
    deliver()
    shown = [json.loads(body)["data"]["task_id"] for _, body in receiver.received]
    assert shown == [first, other]
    assert deliveries(second)[0]["attempts"] == 0
    db.session.execute(update(Delivery).values(next_at=func.now() - timedelta(1)))
    deliver()
    assert deliveries(second)[0]["state"] == "delivered"


def func_now():
    return db.session.scalar(db.select(func.clock_timestamp()))


@pytest.mark.asvs("1.3.6", "15.3.2")
def test_redirect_is_not_followed(finished, deliver, receiver, deliveries):
    receiver.status = 302
    deliver()
    assert len(receiver.received) == 1
    assert deliveries(finished)[0]["answer"] == "302"


def test_unreachable_receiver_is_stored_as_answer(finished, deliver, receiver, deliveries):
    receiver.shutdown()
    receiver.server_close()
    deliver()
    assert deliveries(finished)[0]["answer"] == "NewConnectionError"


@pytest.mark.asvs("1.3.6")
@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "https://",
        "https://user:secret@example.org/",
        "https://example.org:99999/",
        "http://example.org/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://10.0.0.1/",
        "https://192.168.1.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0.0.0.0/",
        "https://[::1]/",
        "https://[fe80::1]/",
        "https://[fd00::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[64:ff9b:1::7f00:1]/",
        "https://[::7f00:1]/",
        "https://[fec0::1]/",
        "https://[2002:7f00:1::]/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://sub.localhost/",
        "https://224.0.0.1/",
        "https://192.0.0.192/",
        "https://192.0.0.9/",
        "https://192.88.99.1/",
        "https://100.64.0.1/",
        "https://198.19.255.255/",
        "https://203.0.113.1/",
        "https://240.0.0.1/",
        "https://255.255.255.255/",
        "https://[3fff::1]/",
        "https://[5f00::1]/",
        "https://[2001:db8::1]/",
        "https://[2001:1ff::1]/",
        "https://[2001::1]/",
        "https://[2620:4f:8000::1]/",
        "https://[100::1]/",
        "https://[::ffff:192.0.0.192]/",
    ],
)
def test_internal_address_is_refused(client, as_ada, url, monkeypatch):
    if "example.org" in url:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("93.184.215.14", 443))])
    answer = client.post(BATCH, json={"texts": ["a"], "webhook_url": url}, headers=as_ada)
    assert answer.status_code == 422
    assert answer.json["errors"][0]["pointer"] == "/webhook_url"


@pytest.mark.asvs("1.3.6")
def test_dns_rebinding_is_refused(make_app, as_ada, work, receiver, deliveries, monkeypatch):
    """The name resolves to a public address at submission, and to an internal address at delivery."""
    found = iter(["93.184.215.14", "127.0.0.1"])

    def resolve(*_, **__):
        return [(2, 1, 6, "", (next(found), receiver.server_port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    client = make_app().test_client()
    task = client.post(BATCH, json={"texts": ["a"], "webhook_url": "https://rebind.example/"}, headers=as_ada)
    assert task.status_code == 202
    monkeypatch.undo()
    work()
    monkeypatch.setattr(egress.socket, "getaddrinfo", resolve)
    (entry,) = deliveries(task.json["task_id"])
    outbox.attempt(entry["id"])
    assert deliveries(task.json["task_id"])[0]["answer"] == egress.PUBLIC_ONLY
    assert receiver.received == []


@pytest.mark.asvs("1.3.6")
@pytest.mark.parametrize(
    ("addresses", "shown"),
    [
        (["93.184.215.14", "10.0.0.1"], egress.PUBLIC_ONLY),
        (["10.0.0.1"], egress.PUBLIC_ONLY),
        (None, "The name of the host cannot be resolved."),
    ],
)
def test_all_addresses_of_a_name_are_checked(client, as_ada, work, deliveries, monkeypatch, addresses, shown):
    """The check happens at delivery. At submission, a web process has no network and must not resolve names."""
    asked = []

    def resolve(*_, flags=0, **__):
        asked.append(flags)
        if flags == socket.AI_NUMERICHOST or addresses is None:
            raise socket.gaierror
        return [(2, 1, 6, "", (entry, 443)) for entry in addresses]

    monkeypatch.setattr(egress.socket, "getaddrinfo", resolve)
    answer = client.post(BATCH, json={"texts": ["a"], "webhook_url": "https://two.example/"}, headers=as_ada)
    assert answer.status_code == 202
    assert set(asked) == {socket.AI_NUMERICHOST}
    work()
    (entry,) = deliveries(answer.json["task_id"])
    outbox.attempt(entry["id"])
    assert deliveries(answer.json["task_id"])[0]["answer"] == shown


def test_failed_task_is_announced_once(make_app, as_ada, work, deliveries, receiver, model, monkeypatch):
    app = make_app(webhook_networks=["127.0.0.0/8"])
    monkeypatch.setattr(submission, "CHUNK_ROWS", 1)
    url = f"http://127.0.0.1:{receiver.server_port}/"
    body = {"texts": ["a", "b", "c"], "webhook_url": url}
    task = app.test_client().post(BATCH, json=body, headers=as_ada).json["task_id"]
    monkeypatch.setattr(serving_module.Serving, "pinned", lambda *_: raise_unknown(model[1]))
    work()
    assert len(deliveries(task)) == 1


def raise_unknown(version):
    raise serving_module.UnknownModelError(version)


def test_error_of_attempt_is_stored_as_answer(finished, deliver, deliveries, monkeypatch):
    monkeypatch.setattr(egress, "post", lambda *_: 1 / 0)
    deliver()
    assert (deliveries(finished)[0]["state"], deliveries(finished)[0]["answer"]) == ("pending", "ZeroDivisionError")


def test_attempts_without_outcome_are_limited(finished, internal_app, deliveries):
    for _ in range(len(outbox.RETRY_PAUSES) + 2):
        db.session.execute(update(Delivery).values(next_at=func.now() - timedelta(1)))
        outbox._claim(deliveries(finished)[0]["id"], uuid4())
    assert deliveries(finished)[0]["state"] == "failed"


def test_delivery_reports_status_at_the_end_of_the_task(client, as_ada, finished, deliver, receiver):
    db.session.execute(update(Task).values(status="queued", finished_at=None))
    deliver()
    event = json.loads(receiver.received[0][1])
    assert event["type"] == "task.completed"
    assert event["timestamp"]


def test_redelivery_during_an_attempt_is_kept(client, as_ada, finished, internal_app, receiver, deliver, deliveries):
    (delivery,) = deliveries(finished)
    attempt = uuid4()
    outbox._claim(UUID(delivery["id"]), attempt)
    url = f"{TASKS}/{finished}/deliveries/{delivery['id']}/redeliver"
    assert client.post(url, headers=as_ada).status_code == 202
    outbox._store_outcome(UUID(delivery["id"]), attempt, is_delivered=True, answer="200")
    assert (deliveries(finished)[0]["state"], deliveries(finished)[0]["attempts"]) == ("pending", 0)
    deliver()
    assert (deliveries(finished)[0]["state"], len(receiver.received)) == ("delivered", 1)


def test_outdated_attempt_stores_no_outcome(finished, internal_app, deliveries):
    delivery_id = UUID(deliveries(finished)[0]["id"])
    first, second = uuid4(), uuid4()
    outbox._claim(delivery_id, first)
    db.session.execute(update(Delivery).values(next_at=func.now() - timedelta(1)))
    outbox._claim(delivery_id, second)
    outbox._store_outcome(delivery_id, first, is_delivered=False, answer="late")
    assert deliveries(finished)[0]["answer"] is None
    outbox._store_outcome(delivery_id, second, is_delivered=True, answer="200")
    assert deliveries(finished)[0]["state"] == "delivered"


def test_repeated_claim_of_attempt_counts_once(finished, internal_app, deliveries):
    delivery_id, attempt = UUID(deliveries(finished)[0]["id"]), uuid4()
    for _ in range(len(outbox.RETRY_PAUSES) + 1):
        db.session.execute(update(Delivery).values(next_at=func.now() - timedelta(1)))
        attempt = uuid4()
        claims = [outbox._claim(delivery_id, attempt) for _ in range(2)]
        assert all(claims)
    assert deliveries(finished)[0]["attempts"] == len(outbox.RETRY_PAUSES) + 1


def test_delivery_of_the_previous_release_is_completed_and_sent(finished, deliver, receiver, deliveries):
    db.session.execute(update(Delivery).values(user_id=None, url=None, payload=None))
    deliver()
    ((_, body),) = receiver.received
    event = json.loads(body)
    assert list(event) == ["type", "timestamp", "data"]
    assert event["type"] == "task.completed"
    assert list(event["data"]) == ["task_id", "status", "model_version"]
    assert event["data"]["task_id"] == finished
    assert deliveries(finished)[0]["state"] == "delivered"


def test_old_delivery_can_be_sent_again(client, as_ada, finished, deliver, receiver, deliveries):
    values = {"user_id": None, "url": None, "payload": None, "state": "delivered"}
    db.session.execute(update(Delivery).values(values))
    deliver()
    assert receiver.received == []
    url = f"{TASKS}/{finished}/deliveries/{deliveries(finished)[0]['id']}/redeliver"
    assert client.post(url, headers=as_ada).status_code == 202
    deliver()
    assert (deliveries(finished)[0]["state"], len(receiver.received)) == ("delivered", 1)


def test_incomplete_delivery_of_deleted_task_is_not_sent(finished, deliver, receiver):
    db.session.execute(update(Delivery).values(user_id=None, url=None, payload=None))
    db.session.execute(update(Task).values(deleted_at=func.now()))
    deliver()
    assert receiver.received == []


def test_keys_of_event_are_in_documented_order(finished, deliver, receiver):
    deliver()
    event = json.loads(receiver.received[0][1])
    assert (list(event), list(event["data"])) == (
        ["type", "timestamp", "data"],
        ["task_id", "status", "model_version"],
    )
