"""The settings of gunicorn, for every environment alike.

WEB_BIND          where requests come in, by default 127.0.0.1:8000
METRICS_BIND      where /metrics is served, by default 127.0.0.1:9464
WEB_CONCURRENCY   processes, by default one for each core, and four at most
WEB_THREADS       threads in each
"""

import contextlib
import os
import shutil
import tempfile
import time
from multiprocessing.sharedctypes import RawArray
from pathlib import Path

# Before prometheus_client is imported: each process writes its numbers into this folder, the scrape adds them up.
made_metrics_folder = "PROMETHEUS_MULTIPROC_DIR" not in os.environ
if made_metrics_folder:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="sentiment-metrics-")

from gunicorn.glogging import Logger
from gunicorn.http.errors import InvalidResponseHeader, InvalidResponseHeaderName, ParseException
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import ThreadWorker

from sentiment_app.config import ConfigError, Settings
from sentiment_app.logs import dict_config

try:
    settings = Settings.from_env()
except ConfigError as error:
    raise SystemExit(f"Error: {error}") from None


class QuietLogger(Logger):
    """No access log of gunicorn's: the application logs each request, and knows more of it."""

    def access(self, resp, req, environ, request_time):
        """Do nothing, at no cost."""


class ProblemWorker(ThreadWorker):
    """Answers what is no HTTP as the application answers errors; gunicorn would quote it, in its log too."""

    OWN_FAULTS = InvalidResponseHeader, InvalidResponseHeaderName
    """A header that the application may not send; each is a ParseException, too."""

    def handle_error(self, req, client, addr, exc):
        """Answer what gunicorn cannot read."""
        if isinstance(exc, ParseException) and not isinstance(exc, self.OWN_FAULTS):
            from sentiment_app.errors import answer_to_no_http  # noqa: PLC0415  # the master does without it

            with contextlib.suppress(OSError):  # gone by now
                write_nonblock(client, answer_to_no_http(exc))
        else:
            super().handle_error(req, client, addr, exc)


class BalancedWorker(ProblemWorker):
    """Leaves a new connection to a worker that has fewer of them.

    Whoever wakes first would take all that wait, and as clients keep their connections, one process would go on
    working while the others idle.
    """

    SLOTS, NOBODY = 256, -1
    PATIENCE_SECONDS, LOOK_SECONDS = 0.003, 0.0003
    connections = RawArray("i", [NOBODY] * SLOTS)
    """Of each worker, by its age; shared by all processes."""

    def notify(self):
        """Say that this worker is alive, as it does in each round of its loop, and how many connections it has."""
        self.count(self.nr_conns if self.alive else self.NOBODY)
        super().notify()

    def count(self, number):
        """Tell the others the number of this worker's connections."""
        self.connections[self.age % self.SLOTS] = number

    def accept(self, listener):
        """Take a connection, unless another worker is quick to."""
        deadline = time.monotonic() + self.PATIENCE_SECONDS
        while self.nr_conns > self.fewest() and time.monotonic() < deadline:
            time.sleep(self.LOOK_SECONDS)
        super().accept(listener)
        self.count(self.nr_conns)

    def fewest(self):
        """How many connections the least busy worker has."""
        return min(number for number in self.connections if number != self.NOBODY)


wsgi_app = "wsgi:app"
bind = [os.environ.get("WEB_BIND", "127.0.0.1:8000"), settings.metrics_bind]
workers = int(os.environ.get("WEB_CONCURRENCY", min(4, os.cpu_count() or 1)))
worker_class = BalancedWorker
# A thread waits for PostgreSQL most of its time; those that wait together share a commit.
threads = int(os.environ.get("WEB_THREADS", "16"))
worker_tmp_dir = "/dev/shm"  # noqa: S108  # the heartbeat file; a disk could stall it
timeout = 30
graceful_timeout = 30
keepalive = 75  # longer than Nginx keeps its upstream connections
max_requests = 1_000_000  # against slow leaks; jitter so that workers do not restart together
max_requests_jitter = 100_000
control_socket_disable = True
logconfig_dict = dict_config(settings.log_level)
logger_class = QuietLogger


def on_starting(server):
    """Begin with no numbers of processes that are gone."""
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink()


def post_worker_init(worker):
    """Load the model before the first request comes."""
    app = worker.wsgi
    app.extensions["serving"].start(app)


def child_exit(server, worker):
    """Forget a dead process's connections; its counts stay, and its successor goes on with them."""
    worker.count(worker.NOBODY)


def on_exit(server):
    """Leave no folder of ours behind."""
    if made_metrics_folder:
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
