"""Traces: off by default at no cost, and one trace for a request, its statements, the queue and its chunks."""

import atexit
import importlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import harness
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError

from sentiment_app.app import create_app
from sentiment_app.config import ConfigError
from sentiment_app.infrastructure import tracing
from sentiment_app.infrastructure.app_state import SETTINGS
from sentiment_app.infrastructure.database import autocommit
from sentiment_app.infrastructure.queue import REDIS, queue
from sentiment_app.worker import Worker

try:
    importlib.import_module(tracing.RECORDER)
except ModuleNotFoundError:
    IS_INSTALLED = False
else:
    IS_INSTALLED = True
installed = pytest.mark.skipif(not IS_INSTALLED, reason="the extra otel is not installed: requirements-otel.txt")
CANARIES = ["a canary that no span quotes", "canary@example.org", "canary-in-a-query"]
BATCH, REQUEST_ID = "/api/v1/sentiment/analyze/batch", "req-of-a-trace"
# redis-py imports other packages if they are installed.
NEEDED = (tracing.RECORDER, "opentelemetry.sdk.trace", "opentelemetry.exporter")


def test_no_traces_cost_nothing(app):
    # A new process, because other tests may have imported the packages.
    code = (
        "import sys\nfrom sentiment_app.app import create_app\napp = create_app()\n"
        f"print([name for name in sys.modules if name.startswith({NEEDED})])\n"
        "print([hook for hook in app.before_request_funcs[None] if 'otel' in repr(hook)])"
    )
    names = ("DATABASE_URL", "REDIS_URL", "JWT_SECRET_KEY", "API_KEY_HASH_KEY", "MODEL_SIGNING_KEY")
    given = {name: getattr(SETTINGS.get(app), name.lower()) for name in names}
    environment = {**os.environ, **given, "ENVIRONMENT": "testing"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"], done.stderr


def test_missing_packages_are_reported_with_the_extra(settings, monkeypatch):
    monkeypatch.setattr(tracing, "RECORDER", "opentelemetry_that_is_not_installed")
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT: .* not installed\. Install the extra otel"):
        create_app(replace(settings, otel_exporter_otlp_endpoint="http://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://ada:secret@collector:4318"),  # pragma: allowlist secret
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
    ],
)
def test_invalid_setting_is_reported(settings, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        type(settings).from_env()


class Collector(BaseHTTPRequestHandler):
    """Receives spans as a collector does (OTLP over HTTP, binary protobuf)."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, self.headers["Content-Type"], body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    server = HTTPServer(("127.0.0.1", 0), Collector)
    server.received = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def traced(make_app, collector):
    """An application that records traces, and a function that returns its spans."""
    made = []

    def traced(**options):
        app = make_app(otel_exporter_otlp_endpoint=f"http://127.0.0.1:{collector.server_port}/", **options)
        made.append(app)
        return app, lambda: spans(app, collector)

    yield traced
    for app in made:
        recorder(app).provider.shutdown()


def recorder(app):
    return importlib.import_module(tracing.RECORDER).RECORDER.get(app)


def spans(app, collector):
    service = importlib.import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    recorder(app).provider.force_flush()
    found = []
    for path, content_type, body in collector.received:
        assert (path, content_type) == ("/v1/traces", "application/x-protobuf")
        for group in service.ExportTraceServiceRequest.FromString(body).resource_spans:
            assert attributes(group.resource)["service.name"] == "sentiment"
            found += [span for scope in group.scope_spans for span in scope.spans]
    return found


def attributes(item):
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in item.attributes}


@installed
def test_process_that_ends_waits_only_a_moment_for_the_collector(settings, monkeypatch):
    otel, registered = importlib.import_module(tracing.RECORDER), []
    monkeypatch.setattr(atexit, "register", lambda *call: registered.append(call) or call[0])
    provider = otel.Recorder(replace(settings, otel_exporter_otlp_endpoint="http://127.0.0.1:9")).provider
    # The provider's own handler would wait for 30 seconds.
    of_sdk = [arguments for handler, *arguments in registered if handler.__module__.startswith("opentelemetry.")]
    assert of_sdk == [[otel.EXPORT_SECONDS * 1000]]
    provider.shutdown()


def submit(app, headers, **options):
    body = {"texts": [CANARIES[0]] * 7, **options}
    answer = app.test_client().post(BATCH, json=body, headers={"X-Request-ID": REQUEST_ID, **headers})
    assert answer.status_code == 202, answer.json
    return answer.json["task_id"]


def work(app, name="default"):
    with app.app_context():
        Worker(app, REDIS.get(app), name).work(burst=True, logging_level="WARNING")


@installed
def test_request_queue_and_chunks_are_one_trace(traced, as_ada, ada, small_chunks, monkeypatch):
    monkeypatch.setattr("sentiment_app.tasks.lifecycle.QUEUED_CHUNKS", 1)  # each chunk enqueues the next
    monkeypatch.setattr("sentiment_app.webhooks.egress.check_url", lambda _: None)
    monkeypatch.setattr("sentiment_app.webhooks.egress.post", lambda *_: (True, "200"))
    app, read = traced()
    task = submit(app, as_ada, webhook_url=f"https://example.com/hook?secret={CANARIES[2]}")
    work(app)
    work(app, "webhooks")
    found = read()
    (request,) = [span for span in found if span.name == f"POST {BATCH}"]
    known = attributes(request)
    assert (known["task_id"], known["user_id"], known["request_id"]) == (task, str(ada.id), REQUEST_ID)
    assert known["http.response.status_code"] == 202
    children = [span for span in found if span.parent_span_id == request.span_id]
    names = [span.name for span in children if span.kind != span.SPAN_KIND_CLIENT]
    assert sorted(names) == ["deliver", *["score_chunk"] * 3, *["wait in default"] * 3, "wait in webhooks"]
    assert {span.trace_id for span in found} == {request.trace_id}
    scored = [attributes(span) for span in children if span.name == "score_chunk"]
    assert {(known["task_id"], known["request_id"]) for known in scored} == {(task, REQUEST_ID)}
    waits = [span for span in children if span.name == "wait in default"]
    assert all(request.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano for span in waits)


@installed
def test_traces_contain_no_texts_addresses_or_tokens(traced, as_ada, collector, monkeypatch):
    app, read = traced()
    client = app.test_client()
    caller = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=canary-of-a-caller"}
    client.post("/api/v1/sentiment/analyze", json={"text": CANARIES[0]}, headers={**as_ada, **caller})
    client.get(f"/api/v1/{CANARIES[2]}?q={CANARIES[2]}", headers={**as_ada, "User-Agent": CANARIES[2]})
    client.post("/api/v1/auth/login", json={"username": CANARIES[1], "password": harness.PASSWORD})
    client.post("/api/v1/auth/register", json={"username": "eve", "email": CANARIES[1], "password": harness.PASSWORD})
    monkeypatch.setattr("sentiment_app.sentiment.routes.service", None)  # a bug, whose traceback has locals
    assert client.post("/api/v1/sentiment/analyze", json={"text": CANARIES[0]}, headers=as_ada).status_code == 500
    submit(app, as_ada)
    monkeypatch.setattr("sentiment_app.tasks.executor.serving", lambda: 1 / 0)
    work(app)
    found = read()
    failed = [span.name for span in found if span.status.code == span.status.STATUS_CODE_ERROR]
    assert failed == ["POST /api/v1/sentiment/analyze", "score_chunk"]
    sent = b"".join(body for *_, body in collector.received)
    secrets = [*CANARIES, harness.PASSWORD, "canary", as_ada["Authorization"].removeprefix("Bearer ")]
    assert [secret for secret in secrets if secret.encode() in sent] == []
    assert [event for span in found for event in span.events] == []


@installed
def test_statements_have_placeholders(traced, collector):
    app, read = traced()

    with app.test_request_context("/version"):
        importlib.import_module(tracing.RECORDER)._start_request(recorder(app))
        with autocommit() as connection:
            connection.execute(text("SELECT :given"), {"given": CANARIES[0]})
            connection.exec_driver_sql("SELECT %s::text", (CANARIES[0],))
            with pytest.raises(DataError):
                connection.execute(text("SELECT CAST(:given AS integer)"), {"given": CANARIES[0]})
    found = [span for span in read() if span.kind == span.SPAN_KIND_CLIENT]
    texts = [attributes(span)["db.query.text"] for span in found]
    assert {"SELECT %(given)s", "SELECT %s::text"} <= set(texts)
    assert [attributes(span).get("error.type") for span in found][-1] == "22P02"
    assert CANARIES[0].encode() not in b"".join(body for *_, body in collector.received)


@installed
def test_caller_is_linked_but_does_not_choose_the_trace(traced, as_ada):
    app, read = traced()
    header = f"00-{'a' * 32}-{'b' * 16}-01"
    app.test_client().get("/version", headers={"traceparent": header})
    app.test_client().get("/version", headers={"traceparent": "nonsense"})
    app.test_client().get("/livez")
    first, second = read()
    assert [link.trace_id.hex() for link in first.links] == ["a" * 32]
    assert not second.links
    assert len({first.trace_id, second.trace_id, b"\xaa" * 16}) == 3


@installed
def test_unsampled_request_has_unsampled_jobs(traced, as_ada):
    app, read = traced(otel_traces_sampler_arg=0.0)
    submit(app, as_ada)
    with app.app_context():
        (job,) = queue().jobs
    flags = int(job.meta["traceparent"].rpartition("-")[2], 16)
    assert not flags & 1  # the flag "sampled"
    work(app)
    assert read() == []


@installed
def test_service_works_without_its_collector(make_app, as_ada):
    app = make_app(otel_exporter_otlp_endpoint="http://127.0.0.1:9")
    answer = app.test_client().post("/api/v1/sentiment/analyze", json={"text": "fine"}, headers=as_ada)
    assert answer.status_code == 200, json.dumps(answer.json)
    recorder(app).provider.shutdown()
