"""The composition root: everything is put together here, and nowhere else."""

from collections.abc import Callable
from typing import Any, cast

import limits
import orjson
from flask import Flask, Response, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.middleware.proxy_fix import ProxyFix

from sentiment_app import cli, docs, errors, extensions, health, logs, metrics, postgresql
from sentiment_app.admission import Admission
from sentiment_app.auth import routes as auth
from sentiment_app.auth import tokens
from sentiment_app.batch import events
from sentiment_app.batch import routes as batch
from sentiment_app.batch import service as tasks
from sentiment_app.config import Settings
from sentiment_app.guard import Guard
from sentiment_app.operation import NameConverter
from sentiment_app.sentiment import cards, releases
from sentiment_app.sentiment import routes as sentiment
from sentiment_app.sentiment import service as scoring
from sentiment_app.sentiment.serving import Serving
from sentiment_app.sentiment.writer import GroupWriter
from sentiment_app.users import routes as users
from sentiment_app.users import service as accounts
from sentiment_app.users import sessions

API = "/api/v1"
MAX_BODY_BYTES = 1024 * 1024
SMALL_BODY_BYTES = 128 * 1024


class _JSON(DefaultJSONProvider):
    """Compact JSON in UTF-8, by orjson; by json, where an error quotes a lone surrogate, which has no UTF-8."""

    compact = True
    sort_keys = False

    def response(self, *args: Any, **kwargs: Any) -> Response:
        try:
            body = orjson.dumps(self._prepare_response_obj(args, kwargs), option=orjson.OPT_APPEND_NEWLINE)
        except orjson.JSONEncodeError:
            return cast(Response, super().response(*args, **kwargs))
        return Response(body, mimetype=self.mimetype)


class _SyncFlask(Flask):
    """Flask without the question, asked nine times a request, whether a function is asynchronous: none is."""

    json_provider_class = _JSON

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def create_app(settings: Settings | None = None) -> Flask:
    """Build the application.

    Raises:
        ConfigError: the environment does not hold usable settings.
    """
    settings = settings or Settings.from_env()
    app = _SyncFlask("sentiment_app", static_folder=None)
    app.url_map.merge_slashes = False  # a doubled slash is a 404, not a redirect to whatever Host says
    app.url_map.converters["name"] = NameConverter
    app.cli = cli.LazyGroup(lazy=cli.LAZY)
    app.config.from_mapping(_flask_config(settings))
    app.extensions["settings"] = settings
    if hops := settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops)  # type: ignore[method-assign]  # as Flask says
    logs.configure(settings.log_level)
    logs.init_app(app)
    errors.init_app(app)
    app.after_request(_security_headers)
    postgresql.bound_waits(settings)
    extensions.init_app(app)
    _share_commits(app, settings)
    _guard(app, settings)
    _serve_model(app, settings)
    most = settings.max_held_requests
    app.extensions["waiting"] = events.Holding(most, of_one=most)
    for name in ("uploading", "downloading"):  # nobody takes all the room for these, which do not end by themselves
        app.extensions[name] = events.Holding(most, of_one=(most + 1) // 2)
    for feature in (auth, users, sentiment, batch):
        prefix = API + (feature.blueprint.url_prefix or "")
        app.register_blueprint(feature.blueprint, url_prefix=prefix)
    for blueprint in (health.blueprint, docs.blueprint):
        app.register_blueprint(blueprint)
    return app


def _flask_config(settings: Settings) -> dict[str, object]:
    redis_url = settings.redis_url
    timeout = settings.redis_timeout_seconds
    database = postgresql.options(settings)
    return {
        "DEBUG": settings.debug,
        "TESTING": settings.environment == "testing",
        "PROPAGATE_EXCEPTIONS": False,
        "MAX_CONTENT_LENGTH": MAX_BODY_BYTES,
        "PROVIDE_AUTOMATIC_OPTIONS": False,
        "SQLALCHEMY_DATABASE_URI": settings.database_url,
        "SQLALCHEMY_ENGINE_OPTIONS": {
            **database,
            "pool_size": settings.database_pool_size,
            "max_overflow": settings.database_pool_size,
        },
        # The group writer's: it writes one group at a time.
        "SQLALCHEMY_BINDS": {
            extensions.AUTOCOMMIT: {
                **database,
                "url": settings.database_url,
                "isolation_level": "AUTOCOMMIT",
                "pool_size": 1,
                "max_overflow": 1,
            }
        },
        "JWT_TOKEN_LOCATION": ["headers"],
        "JWT_COOKIE_CSRF_PROTECT": False,
        "JWT_SECRET_KEY": settings.jwt_secret_key,
        "JWT_ACCESS_TOKEN_EXPIRES": settings.access_token_life,
        "JWT_REFRESH_TOKEN_EXPIRES": settings.refresh_token_life,
        "RATELIMIT_STORAGE_URI": redis_url.replace("unix://", "redis+unix://", 1),
        "RATELIMIT_STORAGE_OPTIONS": {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
        },
        "RATELIMIT_STRATEGY": "sliding-window-counter",
        "RATELIMIT_KEY_PREFIX": "sliding-window-counter",
        "RATELIMIT_IN_MEMORY_FALLBACK_ENABLED": True,
    }


def _share_commits(app: Flask, settings: Settings) -> None:
    """Before the guard's questions: from then on a request's row is worth waiting for."""
    app.extensions["writer"] = GroupWriter(extensions.autocommit, retry_seconds=settings.database_retry_seconds)

    @app.before_request
    def expect() -> None:
        if request.endpoint == "sentiment.analyze" and (request.content_length or 0) <= SMALL_BODY_BYTES:
            request.get_data()  # until it has come the row is not near, and others shall not wait for it
            scoring.writer().expect()

    @app.teardown_request
    def forget(_: BaseException | None) -> None:
        scoring.writer().forget()


def _guard(app: Flask, settings: Settings) -> None:
    app.extensions["admission"] = admission = Admission(
        app.extensions["redis"],
        session_life=settings.access_token_seconds,
        ended_sessions=sessions.ended_lately,
        is_live=sessions.is_live,
    )
    rates = {
        "user": limits.parse(settings.user_rate_limit),
        "scoring": limits.parse(settings.scoring_rate_limit),
    }
    Guard(tokens.identify, accounts.is_administrator, admission, rates).init_app(app)


def _serve_model(app: Flask, settings: Settings) -> None:
    app.extensions["serving"] = serving = Serving(
        states=releases.states,
        fetch=releases.fetch_cached,
        note_failure=releases.note_failure,
        key=settings.model_signing_key,
        poll_seconds=settings.model_poll_seconds,
    )
    health.init_app(app, model=serving.check, switch=serving.check_switch, model_version=serving.version)
    app.extensions["model_card"] = lambda: cards.page(serving.current().manifest)
    gauges = {
        "queue_jobs": metrics.Gauge("Jobs that wait for a worker", extensions.queue_depth, ("queue",)),
        "waiting_seconds": metrics.Gauge(
            "How long the work has waited that waits longest for a worker", tasks.longest_wait, ("queue",)
        ),
        "model_age_seconds": metrics.Gauge("Time since the served model was trained", serving.age),
        "task_rows": metrics.Gauge(
            "Rows of the tasks that are kept, by what was found", tasks.rows_found, ("sentiment", "model_version")
        ),
    }
    metrics.init_app(app, gauges)


def _security_headers(response: Response) -> Response:
    headers = response.headers
    if "Content-Security-Policy" not in headers:
        headers.add("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    if "Cache-Control" not in headers:
        headers.add("Cache-Control", "no-store")
    headers.add("X-Content-Type-Options", "nosniff")
    headers.add("Referrer-Policy", "no-referrer")
    return response
