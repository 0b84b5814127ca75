"""The worker: `python -m sentiment_app.worker` runs queued jobs, each in an application context of its own."""

import sys

from flask import Flask
from redis import Redis
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer

from sentiment_app.app import create_app
from sentiment_app.config import ConfigError
from sentiment_app.extensions import QUEUE


class Worker(SimpleWorker):
    """Runs jobs in this process, with the application built once: no fork and no import for each job."""

    def __init__(self, app: Flask, connection: Redis) -> None:
        queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
        super().__init__([queue], connection=connection, serializer=JSONSerializer, log_job_description=False)
        self.app = app

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        with self.app.app_context():
            return super().perform_job(job, queue, execution)


def main() -> None:
    """Work until SIGTERM or Ctrl-C, which let the job in hand finish."""
    try:
        app = create_app()
    except ConfigError as error:
        sys.exit(f"Error: {error}")
    # A worker blocks on Redis until there is work: its connection has no such short timeout as a request's.
    worker = Worker(app, Redis.from_url(app.extensions["settings"].redis_url))
    worker.work(logging_level="WARNING")


if __name__ == "__main__":
    main()
