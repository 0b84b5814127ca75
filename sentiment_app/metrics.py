"""Prometheus metrics, right under several processes, served on the internal port only."""

import contextlib
import fcntl
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from flask import Flask, Response, current_app, g, request
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY, Collector

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
FAST = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.1)


class _Slot:
    """The number of this process among those that live: a file that it holds locked, in the folder of their counts.

    The library names the files of counts by it. By process ids, each worker that is replaced would leave files behind
    for ever; so its successor goes on with them.
    """

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._number: int | None = None

    def number(self) -> int:
        if self._number is None:
            self._number = next(number for number in itertools.count(1) if self._take(number))
        return self._number

    def _take(self, number: int) -> bool:
        self._file = (Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / f"{number}.slot").open("w")
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False


if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    values.ValueClass = values.MultiProcessValue(_Slot().number)  # type: ignore[no-untyped-call]  # as below

requests = Counter("http_requests", "Requests answered", ["method", "route", "status"])
request_seconds = Histogram("http_request_seconds", "Time to answer, seconds", ["route"])
scoring_seconds = Histogram("scoring_seconds", "Time to score one text, seconds", buckets=FAST)
scored_rows = Counter("scored_rows", "Texts scored and stored", ["sentiment", "model_version"])
commit_rows = Histogram("commit_rows", "Rows that shared one commit", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
limiter_fallbacks = Counter("limiter_fallbacks", "Requests limited in memory, Redis being away")


class Gauge(NamedTuple):
    """What is read at the moment of the scrape: a number, or numbers by their labels; None if it cannot be had."""

    doc: str
    read: Callable[[], float | Mapping[tuple[str, ...], float] | None]
    labels: tuple[str, ...] = ()


class _Scraped(Collector):
    """Gauges; one that cannot be read is left out."""

    def __init__(self, gauges: dict[str, Gauge]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        for name, gauge in self._gauges.items():
            found = gauge.read()
            if found is None:
                continue
            family = GaugeMetricFamily(name, gauge.doc, labels=gauge.labels)
            for labels, value in ({(): found} if isinstance(found, float) else found).items():
                family.add_metric(labels, value)
            yield family


def init_app(app: Flask, gauges: dict[str, Gauge]) -> None:
    """Count each request; `gauges` are read at each scrape."""
    app.after_request(_count)
    app.extensions["gauges"] = _Scraped(gauges)


def exposition() -> Response:
    """The metrics of all processes in Prometheus' text format."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library has no types here
    else:
        registry.register(REGISTRY)
    registry.register(current_app.extensions["gauges"])
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _count(response: Response) -> Response:
    route = str(request.url_rule or "unmatched")
    method = request.method if request.method in METHODS else "other"  # a client may send any word
    _count_of(method, route, str(response.status_code)).inc()
    _seconds_of(route).observe(time.perf_counter() - g.started)
    return response


# Methods, routes and statuses are few; the library would look each of them up under a lock.
_count_of = functools.cache(requests.labels)
_seconds_of = functools.cache(request_seconds.labels)
