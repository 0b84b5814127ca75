"""The settings of gunicorn, the same in every environment.

WEB_BIND          address of the API, by default 127.0.0.1:8000
METRICS_BIND      address of /metrics, by default 127.0.0.1:9464
WEB_CONCURRENCY   worker processes, by default as many as cores, but at most four
WEB_THREADS       threads of each worker process, by default 16
"""

import os
import shutil
import tempfile
from pathlib import Path

# Set before prometheus_client is imported. Each process writes its metrics to this folder, and a scrape adds them up.
has_own_metrics_folder = "PROMETHEUS_MULTIPROC_DIR" not in os.environ
if has_own_metrics_folder:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="sentiment-metrics-")

from sentiment_app.config import ConfigError, Settings
from sentiment_app.infrastructure.logs import dict_config
from sentiment_app.web import gunicorn

try:
    settings = Settings.from_env()
except ConfigError as error:
    raise SystemExit(f"Error: {error}") from None

wsgi_app = "wsgi:app"
bind = [os.environ.get("WEB_BIND", "127.0.0.1:8000"), settings.metrics_bind]
workers = int(os.environ.get("WEB_CONCURRENCY", min(4, os.cpu_count() or 1)))
worker_class = gunicorn.BalancedWorker
# A thread waits for PostgreSQL most of its time. Threads that wait together share a commit.
threads = int(os.environ.get("WEB_THREADS", "16"))
worker_tmp_dir = "/dev/shm"  # noqa: S108  # in memory, because a slow disk would delay the heartbeat
timeout = 30
graceful_timeout = 30
keepalive = 75  # longer than Nginx keeps its connections
max_requests = 1_000_000  # against slow memory leaks; with jitter, so that workers do not restart together
max_requests_jitter = 100_000
control_socket_disable = True
logconfig_dict = dict_config(settings.log_level)
logger_class = gunicorn.QuietLogger


def on_starting(server):
    """Delete the metrics of processes that no longer run."""
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink()


def post_worker_init(worker):
    """Load the model before the first request arrives."""
    gunicorn.start(worker.wsgi)


def child_exit(server, worker):
    """Forget the connections of a dead worker. Its metrics stay, and its successor continues them."""
    worker.report(worker.EMPTY)


def on_exit(server):
    """Delete the metrics folder if it was created here."""
    if has_own_metrics_folder:
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
