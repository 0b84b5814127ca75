"""Records requests, their SQL statements, and the jobs that they cause, as one trace, and sends it to a collector.

A job carries the trace context of the request that caused it, and hands it on to the jobs that it enqueues itself. So
all chunks of a task, and its webhooks, are children of the request that submitted it.

Spans contain ids, routes, states and numbers, and never a value that a user sent: no paths, query strings, headers,
parameters of statements, or messages of errors. This is why the ready-made instrumentations are not used.
"""

import atexit
import functools
import threading
from collections.abc import Callable
from typing import Any

import structlog
from flask import Flask, Response, g, request
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from rq.job import Job
from sqlalchemy import event

from sentiment_app import __version__
from sentiment_app.config import Settings
from sentiment_app.infrastructure.app_state import AppKey
from sentiment_app.infrastructure.database import db, sqlstate
from sentiment_app.infrastructure.metrics import METHODS
from sentiment_app.infrastructure.tracing import TRACE_JOB

# Probes call these routes every few seconds.
UNTRACED = frozenset({"/livez", "/readyz", "/metrics"})
# Ids of the log context that a span gets, too.
IDS = ("request_id", "user_id", "task_id")
TRACEPARENT = "traceparent"
MAX_ATTRIBUTE_LENGTH = 4096
# How long a process waits for an answer of the collector. A process that ends sends its last spans once, so a collector
# that does not answer delays a restart by this time.
EXPORT_SECONDS = 2

propagator = TraceContextTextMapPropagator()


class Recorder:
    """The tracer of an application. Its thread starts at the first span, because gunicorn forks before that."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._provider: TracerProvider | None = None

    @property
    def provider(self) -> TracerProvider:
        """The provider of this process. When the process ends, it sends the last spans."""
        with self._lock:
            if self._provider is None:
                self._provider = _make_provider(self._settings)
        return self._provider

    @functools.cached_property
    def tracer(self) -> Tracer:
        """The tracer that makes spans."""
        return self.provider.get_tracer("sentiment_app", __version__)


RECORDER = AppKey[Recorder]("recorder")


def _make_provider(settings: Settings) -> TracerProvider:
    version = {"service.version": __version__, "service.release": settings.release}
    provider = TracerProvider(
        resource=Resource.create({"service.name": settings.otel_service_name, **version}),
        sampler=ParentBased(TraceIdRatioBased(settings.otel_traces_sampler_arg)),
        span_limits=SpanLimits(max_attribute_length=MAX_ATTRIBUTE_LENGTH),
        shutdown_on_exit=False,
    )
    url = settings.otel_exporter_otlp_endpoint.rstrip("/") + "/v1/traces"
    processor = BatchSpanProcessor(OTLPSpanExporter(url, timeout=EXPORT_SECONDS))
    provider.add_span_processor(processor)
    # The provider's own shutdown waits for 30 seconds.
    atexit.register(processor._batch_processor.shutdown, EXPORT_SECONDS * 1000)  # noqa: SLF001  # nothing public takes a timeout
    return provider


def init_app(app: Flask, settings: Settings) -> None:
    """Record the requests, jobs and SQL statements of the application, which has its engines already."""
    recorder = RECORDER.set(app, Recorder(settings))
    app.before_request(functools.partial(_start_request, recorder))
    app.after_request(_describe_response)
    app.teardown_request(_end_request)
    TRACE_JOB.set(app, functools.partial(_trace_job, recorder))
    with app.app_context():
        for engine in db.engines.values():
            event.listen(engine, "before_cursor_execute", functools.partial(_start_statement, recorder))
            event.listen(engine, "after_cursor_execute", _end_statement)
            event.listen(engine, "handle_error", _end_failed_statement)


def _start_request(recorder: Recorder) -> None:
    if request.path in UNTRACED:
        return
    # The caller does not decide whether a request is recorded, so its context is only linked. Its `tracestate` may
    # contain anything, and is dropped.
    caller = _span_of({TRACEPARENT: request.headers.get(TRACEPARENT, "")}).get_span_context()
    method = request.method if request.method in METHODS else "other"
    route = str(request.url_rule or "unmatched")
    span = recorder.tracer.start_span(
        f"{method} {route}",
        Context(),
        SpanKind.SERVER,
        {"http.request.method": method, "http.route": route},
        links=[Link(caller)] if caller.is_valid else [],
    )
    g.span, g.span_token = span, context.attach(trace.set_span_in_context(span))
    structlog.contextvars.bind_contextvars(**_carrier())


def _describe_response(response: Response) -> Response:
    if span := g.get("span"):
        span.set_attribute("http.response.status_code", response.status_code)
        if "principal" in g:
            span.set_attribute("user_id", str(g.principal.user_id))
        if response.status_code >= 500:
            span.set_status(StatusCode.ERROR)
    return response


def _end_request(_: BaseException | None) -> None:
    if span := g.pop("span", None):
        _end(span)
        context.detach(g.pop("span_token"))


def _end(span: Span) -> None:
    known = structlog.contextvars.get_contextvars()
    span.set_attributes({name: known[name] for name in IDS if name in known})
    span.end()


def _carrier() -> dict[str, str]:
    carrier: dict[str, str] = {}
    propagator.inject(carrier)
    return {TRACEPARENT: carrier[TRACEPARENT]} if TRACEPARENT in carrier else {}


def _span_of(carrier: dict[str, str]) -> Span:
    return trace.get_current_span(propagator.extract(carrier, Context()))


def _trace_job(recorder: Recorder, job: Job, perform: Callable[[], bool]) -> bool:
    origin = structlog.contextvars.get_contextvars().get(TRACEPARENT)
    parent = propagator.extract({TRACEPARENT: origin} if origin else {}, Context())
    attributes = {"messaging.system": "rq", "messaging.destination.name": job.origin, "messaging.message.id": job.id}
    if job.enqueued_at:
        start = int(job.enqueued_at.timestamp() * 1e9)
        waited = recorder.tracer.start_span(f"wait in {job.origin}", parent, start_time=start, attributes=attributes)
        waited.end()
        if not origin:  # the reconciler enqueued the job, which begins a trace
            parent = trace.set_span_in_context(waited)
    name = str(job.func_name).rpartition(".")[2]
    span = recorder.tracer.start_span(name, parent, SpanKind.CONSUMER, attributes)
    # use_span would record the messages of errors, unless it is told not to.
    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
        if not origin:  # the reconciler enqueued the job, and the jobs after it belong together
            structlog.contextvars.bind_contextvars(**_carrier())
        try:
            has_succeeded = perform()
            if not has_succeeded:
                span.set_status(StatusCode.ERROR)
        finally:
            _end(span)
    return has_succeeded


def _start_statement(recorder: Recorder, connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    """Begin a span for a statement. It has placeholders, because the driver inserts the values later."""
    if not trace.get_current_span().is_recording():
        return  # it is not part of a request or a job
    operation = statement.split(None, 1)[0].upper() if statement.strip() else "SQL"
    attributes = {"db.system.name": "postgresql", "db.operation.name": operation, "db.query.text": statement}
    connection.info["span"] = recorder.tracer.start_span(operation, kind=SpanKind.CLIENT, attributes=attributes)


def _end_statement(connection: Any, *_: Any) -> None:
    if span := connection.info.pop("span", None):
        span.end()


def _end_failed_statement(failure: Any) -> None:
    connection = failure.connection
    if connection is None or connection.invalidated:
        return
    if span := connection.info.pop("span", None):
        # The message of the error would quote values.
        code = sqlstate(failure.sqlalchemy_exception)
        span.set_attribute("error.type", code or type(failure.original_exception).__name__)
        span.set_status(StatusCode.ERROR)
        span.end()
