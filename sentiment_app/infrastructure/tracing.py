"""Traces with OpenTelemetry, an extra. Without OTEL_EXPORTER_OTLP_ENDPOINT, nothing is imported and no hook exists."""

import importlib
from collections.abc import Callable

from flask import Flask
from rq.job import Job

from sentiment_app.config import ConfigError, Settings
from sentiment_app.infrastructure.app_state import AppKey

# Imported only by applications that record traces.
RECORDER = "sentiment_app.infrastructure.otel"

# Calls a function that performs a job, and records it. The function returns whether the job has succeeded.
TRACE_JOB = AppKey[Callable[[Job, Callable[[], bool]], bool]]("trace_job")


def init_app(app: Flask, settings: Settings) -> None:
    """Record the requests and jobs of the application, if an endpoint is set.

    Raises:
        ConfigError: an endpoint is set, but the packages are not installed.
    """
    TRACE_JOB.set(app, lambda _, perform: perform())
    if not settings.otel_exporter_otlp_endpoint:
        return
    try:
        recorder = importlib.import_module(RECORDER)
    except ModuleNotFoundError as error:
        problem = (
            f"OTEL_EXPORTER_OTLP_ENDPOINT: is set, but the module {error.name} is not installed. Install the extra "
            "otel (requirements-otel.txt; on hosts app_release_otel), or remove the setting"
        )
        raise ConfigError([problem]) from None
    recorder.init_app(app, settings)
