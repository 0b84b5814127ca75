"""Prometheus metrics that are correct with several processes, served only at the internal address."""

import contextlib
import fcntl
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY, Collector

from sentiment_app.infrastructure.app_state import AppKey

PREFIX = "sentiment_"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SCORING_BUCKETS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.1)
COMMIT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class _ProcessSlot:
    """A number that identifies this process among all running processes. The process locks a file with that number.

    The library names the files of its counters by this number. With process ids, each replaced worker would leave its
    files behind forever. With slots, the successor of a worker continues its files.
    """

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._number: int | None = None

    def number(self) -> int:
        if self._number is None:
            self._number = next(number for number in itertools.count(1) if self._lock(number))
        return self._number

    def _lock(self, number: int) -> bool:
        self._file = (Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / f"{number}.slot").open("w")
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False


if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    values.ValueClass = values.MultiProcessValue(_ProcessSlot().number)  # type: ignore[no-untyped-call]  # as below

requests = Counter(PREFIX + "http_requests", "Requests answered", ["method", "route", "status"])
request_duration = Histogram(PREFIX + "http_request_duration_seconds", "Time to answer a request", ["route"])
scoring_duration = Histogram(PREFIX + "scoring_duration_seconds", "Time to score one text", buckets=SCORING_BUCKETS)
scored_rows = Counter(PREFIX + "scored_rows", "Texts scored and stored by /analyze", ["sentiment", "model_version"])
commit_rows = Histogram(PREFIX + "commit_rows", "Rows that shared one commit", buckets=COMMIT_BUCKETS)
limiter_fallbacks = Counter(PREFIX + "rate_limiter_fallbacks", "Rates counted in memory because Redis did not answer")


class Gauge(NamedTuple):
    """A value that is read when Prometheus scrapes.

    `read` returns a number, or numbers by their label values, or None if the value is unknown at the moment.
    """

    doc: str
    read: Callable[[], float | Mapping[tuple[str, ...], float] | None]
    labels: tuple[str, ...] = ()


class _GaugeCollector(Collector):
    """Reads gauges at each scrape, and leaves out those whose value is unknown."""

    def __init__(self, gauges: dict[str, Gauge]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        for name, gauge in self._gauges.items():
            found = gauge.read()
            if found is None:
                continue
            family = GaugeMetricFamily(PREFIX + name, gauge.doc, labels=gauge.labels)
            for labels, value in ({(): found} if isinstance(found, float) else found).items():
                family.add_metric(labels, value)
            yield family


GAUGES = AppKey[_GaugeCollector]("gauges")


def init_app(app: Flask, gauges: dict[str, Gauge]) -> None:
    """Count each request. `gauges`, by their names without the prefix, are read at each scrape."""
    app.after_request(_count)
    GAUGES.set(app, _GaugeCollector(gauges))


def exposition() -> Response:
    """The metrics of all processes in Prometheus' text format."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library has no types here
    else:
        registry.register(REGISTRY)
    registry.register(GAUGES.get())
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _count(response: Response) -> Response:
    route = str(request.url_rule or "unmatched")
    method = request.method if request.method in METHODS else "other"  # clients can send any word
    _request_counter(method, route, str(response.status_code)).inc()
    _duration_histogram(route).observe(time.perf_counter() - g.started)
    return response


# Cached, because the library looks up labels under a lock. There are few methods, routes and statuses.
_request_counter = functools.cache(requests.labels)
_duration_histogram = functools.cache(request_duration.labels)
