"""The composition root: the only module that assembles the application."""

import gc
from collections.abc import Callable
from typing import Any, cast

import click
import orjson
from flask import Flask, Response
from flask.json.provider import DefaultJSONProvider
from werkzeug.middleware.proxy_fix import ProxyFix

from sentiment_app import __version__
from sentiment_app.audit import routes as audit
from sentiment_app.auth import credentials, tokens
from sentiment_app.auth import routes as auth
from sentiment_app.commands import ROOT
from sentiment_app.config import ConfigError, Settings
from sentiment_app.console import routes as console
from sentiment_app.feedback import routes as feedback
from sentiment_app.feedback import service as feedback_service
from sentiment_app.infrastructure import database, logs, metrics, queue, tracing
from sentiment_app.infrastructure.app_state import SETTINGS, START
from sentiment_app.infrastructure.metrics import Gauge
from sentiment_app.privacy import routes as privacy
from sentiment_app.registry import cards, releases
from sentiment_app.registry import routes as registry
from sentiment_app.registry.serving import SERVING, Serving
from sentiment_app.registry.training_texts import FEEDBACK
from sentiment_app.sentiment import routes as sentiment
from sentiment_app.tasks import metrics as task_metrics
from sentiment_app.tasks import routes as tasks
from sentiment_app.tasks.quotas import count_pending
from sentiment_app.usage import routes as usage
from sentiment_app.usage.quotas import QUOTAS, Quotas
from sentiment_app.users import api_keys, passwords, sessions
from sentiment_app.users import routes as users
from sentiment_app.users import service as accounts
from sentiment_app.users.hashing import HASHING, HashingProcess
from sentiment_app.web import cors, docs, health, problems, rate_limits
from sentiment_app.web.admission import ADMISSION, Admission
from sentiment_app.web.guard import Guard
from sentiment_app.web.operation import BODY_LIMIT, NameConverter, make_body_limit
from sentiment_app.web.rate_limits import RATE_LIMITS
from sentiment_app.webhooks import routes as webhooks

API = "/api/v1"
MAX_BODY_BYTES = 1024 * 1024


class _JSONProvider(DefaultJSONProvider):
    """Compact JSON from orjson. Falls back to json for lone surrogates, which orjson refuses."""

    compact = True
    sort_keys = False

    def response(self, *args: Any, **kwargs: Any) -> Response:
        try:
            body = orjson.dumps(self._prepare_response_obj(args, kwargs), option=orjson.OPT_APPEND_NEWLINE)
        except orjson.JSONEncodeError:
            return cast(Response, super().response(*args, **kwargs))
        return Response(body, mimetype=self.mimetype)


class _SyncFlask(Flask):
    """Flask without asynchronous views. Flask would check nine times in each request whether a function is async."""

    json_provider_class = _JSONProvider

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def create_app(settings: Settings | None = None) -> Flask:
    """Build the application.

    Raises:
        ConfigError: the environment does not contain valid settings.
    """
    settings = settings or Settings.from_env()
    app = _SyncFlask("sentiment_app", static_folder=None)
    SETTINGS.set(app, settings)
    app.url_map.merge_slashes = False  # a double slash is a 404, not a redirect to whatever the Host header says
    app.url_map.converters["name"] = NameConverter
    app.cli = ROOT
    app.config.from_mapping(
        {
            "DEBUG": settings.debug,
            "TESTING": settings.environment == "testing",
            "PROPAGATE_EXCEPTIONS": False,
            "MAX_CONTENT_LENGTH": MAX_BODY_BYTES,
            "PROVIDE_AUTOMATIC_OPTIONS": False,
            **database.flask_config(settings),
            **tokens.flask_config(settings),
            **rate_limits.flask_config(settings),
        }
    )
    if hops := settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops)  # type: ignore[method-assign]  # as Flask says
    logs.configure(settings.log_level)
    # Hooks before a request run in this order, hooks after a request in the reverse order.
    logs.init_app(app)
    problems.init_app(app)
    app.after_request(_add_security_headers)
    cors.init_app(app, frozenset(settings.cors_origins), API)
    database.init_app(app, settings)
    tracing.init_app(app, settings)
    queue.init_app(app)
    sentiment.init_app(app)
    rate_limits.init_app(app)
    _init_guard(app, settings)
    audit.init_app(app)
    _init_models(app, settings)
    tasks.init_app(app)
    console.init_app(app)
    BODY_LIMIT.set(app, make_body_limit())
    passwords.HASHING_LIMIT.set(app, passwords.make_hashing_limit())
    HASHING.set(app, HashingProcess())
    QUOTAS.set(app, Quotas(count_pending))
    FEEDBACK.set(app, feedback_service.read_all)
    for feature in (auth, users, audit, sentiment, feedback, registry, tasks, webhooks, privacy, usage):
        prefix = API + (feature.blueprint.url_prefix or "")
        app.register_blueprint(feature.blueprint, url_prefix=prefix)
    app.register_blueprint(console.blueprint)
    return app


def create_app_for_command() -> Flask:
    """Build the application for the command `sentiment`, which prints the error if the settings are not valid."""
    try:
        return create_app()
    except ConfigError as error:
        raise click.ClickException(str(error)) from None


def _init_guard(app: Flask, settings: Settings) -> None:
    tokens.init_app(app, settings)
    limits = RATE_LIMITS.get(app)
    admission = Admission(
        queue.REDIS.get(app),
        queue.REDIS_BREAKER.get(app),
        limits,
        session_seconds=int(settings.ended_session_life.total_seconds()),
        find_ended=lambda: [*sessions.find_recently_ended(), *api_keys.find_recently_ended()],
        is_live=lambda credential: sessions.is_live(credential) or api_keys.is_valid(credential),
    )
    ADMISSION.set(app, admission)
    Guard(credentials.identify, credentials.identify_browser, accounts.is_administrator, admission, limits).init_app(
        app
    )


def _start(app: Flask, serving: Serving) -> None:
    serving.start(app)
    # What the process has loaded by now stays. The garbage collector would search it again and again.
    gc.collect()
    gc.freeze()


def _init_models(app: Flask, settings: Settings) -> None:
    """Set up the models that this process serves, with their health checks, model card and metrics."""
    serving = Serving(
        states=releases.states,
        fetch=releases.fetch_cached,
        note_failure=releases.note_failure,
        key=settings.model_signing_key,
        poll_seconds=settings.model_poll_seconds,
    )
    SERVING.set(app, serving)
    START.set(app, lambda: _start(app, serving))
    health.init_app(app, model=serving.check, switch=serving.check_switch, model_version=serving.version)
    docs.init_app(app, model_card=lambda: cards.page(serving.current().manifest))
    labels = ("version", "release", "model_version")
    gauges = {
        "build_info": Gauge(
            "The running version, release and model; always 1",
            lambda: {(__version__, settings.release, serving.version() or ""): 1.0},
            labels,
        ),
        "model_age_seconds": Gauge("Time since the served model was trained", serving.age),
        "queue_jobs": Gauge("Jobs that wait for a worker", queue.count_jobs, ("queue",)),
        "queue_oldest_wait_seconds": Gauge(
            "How long the oldest work has waited for a worker", task_metrics.oldest_waits, ("queue",)
        ),
        "task_rows": Gauge(
            "Rows of finished tasks, by sentiment", task_metrics.count_rows, ("sentiment", "model_version")
        ),
    }
    metrics.init_app(app, gauges)


def _add_security_headers(response: Response) -> Response:
    headers = response.headers
    if "Content-Security-Policy" not in headers:
        headers.add("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    if "Cache-Control" not in headers:
        headers.add("Cache-Control", "no-store")
    headers.add("X-Content-Type-Options", "nosniff")
    if "Referrer-Policy" not in headers:
        headers.add("Referrer-Policy", "no-referrer")
    return response
