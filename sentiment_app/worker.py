"""The worker: `python -m sentiment_app.worker [QUEUE]` runs the jobs of a queue, each in a context of its own.

One queue a worker: one that listens on two can lose a job for good when Redis goes between them.
"""

import argparse
import sys

from flask import Flask
from redis import Redis
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer

from sentiment_app.app import create_app
from sentiment_app.config import ConfigError
from sentiment_app.extensions import QUEUE, QUEUES
from sentiment_app.logs import tell_systemd_ready


class Worker(SimpleWorker):
    """Runs jobs in this process, with the application built once: no fork and no import for each job.

    While Redis is away it is asked again every two seconds, and within fifteen where its host has gone without a word:
    work goes on within 15 seconds of its return. RQ's own pauses grow to a minute, and it waits for seven.
    """

    max_connection_wait_time = 2.0
    IDLE_SECONDS = 20  # of which it waits for a job for five, and for an answer for fifteen

    def __init__(self, app: Flask, connection: Redis, name: str = QUEUE) -> None:
        queue = Queue(name, connection=connection, serializer=JSONSerializer)
        super().__init__(
            [queue],
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=self.IDLE_SECONDS,
            log_job_description=False,
        )
        self.app = app

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        with self.app.app_context():
            return super().perform_job(job, queue, execution)


def main() -> None:
    """Work until SIGTERM or Ctrl-C, which let the job in hand finish."""
    parser = argparse.ArgumentParser(prog="python -m sentiment_app.worker", description="Run queued jobs.")
    parser.add_argument("queue", nargs="?", default=QUEUE, choices=QUEUES, help="whose jobs (default: %(default)s)")
    name = parser.parse_args().queue
    try:
        app = create_app()
    except ConfigError as error:
        sys.exit(f"Error: {error}")
    if name == QUEUE:
        app.extensions["serving"].start(app)
    # A worker blocks on Redis until there is work: its connection has no such short timeout as a request's.
    worker = Worker(app, Redis.from_url(app.extensions["settings"].redis_url), name)
    tell_systemd_ready()
    worker.work(logging_level="WARNING")


if __name__ == "__main__":
    main()
