"""The worker: `python -m sentiment_app.worker [QUEUE]` runs the jobs of a queue.

A worker reads only one queue. With several queues, RQ removes a job from Redis before the worker has registered it, and
a failure at that moment would lose the job for good.
"""

import argparse
import sys
from functools import partial
from uuid import UUID

import structlog
from flask import Flask
from redis import Redis
from rq import Queue, SimpleWorker
from rq.exceptions import DeserializationError
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer

from sentiment_app.app import create_app
from sentiment_app.config import ConfigError
from sentiment_app.infrastructure.app_state import SETTINGS, START
from sentiment_app.infrastructure.logs import job_context
from sentiment_app.infrastructure.queue import QUEUES, TASKS_QUEUE
from sentiment_app.infrastructure.systemd import notify_ready
from sentiment_app.infrastructure.tracing import TRACE_JOB
from sentiment_app.tasks.lifecycle import JOB as TASKS_JOB
from sentiment_app.webhooks.outbox import JOB as WEBHOOKS_JOB

JOBS = {TASKS_JOB, WEBHOOKS_JOB}

log = structlog.get_logger()


class Worker(SimpleWorker):
    """Runs jobs in this process: without a fork, and without importing the application for each job.

    While Redis refuses connections, the worker tries again every two seconds. If the host of Redis vanishes, the worker
    notices it after at most 15 seconds. So work continues within 15 seconds after Redis returns. RQ's default pauses
    grow to a minute.
    """

    max_connection_wait_time = 2.0
    IDLE_SECONDS = 20  # RQ derives two timeouts from it: 5 seconds for a job, and 15 seconds for an answer of Redis

    def __init__(self, app: Flask, connection: Redis, name: str = TASKS_QUEUE) -> None:
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
        """Run a job of this service. Other jobs are deleted: RQ would run any function that a job in Redis names."""
        if not _is_known(job):
            log.error("unknown_job_deleted", queue=queue.name)
            self.connection.lrem(queue.intermediate_queue_key, 1, job.id)
            job.delete(delete_dependents=True)
            return False
        perform = partial(super().perform_job, job, queue, execution)
        with self.app.app_context(), job_context(job.meta, queue=queue.name):
            return TRACE_JOB.get(self.app)(job, perform)


def _is_known(job: Job) -> bool:
    """Whether a job is a known function with an id as its only argument, without callbacks, webhooks and repeats."""
    try:
        (row_id,) = job.args
        is_id = str(UUID(row_id)) == row_id
        is_plain = not job.kwargs and job.instance is None
        is_function = job.func_name in JOBS
    except (DeserializationError, AttributeError, LookupError, TypeError, ValueError):
        return False
    callbacks = job._success_callback_name, job._failure_callback_name, job._stopped_callback_name  # noqa: SLF001  # the public properties import the functions
    extras = job.webhooks, job.repeats_left, job.retries_left
    return is_id and is_plain and is_function and not any((*callbacks, *extras))


def main() -> None:
    """Work until SIGTERM or Ctrl-C. The current job is finished first."""
    parser = argparse.ArgumentParser(prog="python -m sentiment_app.worker", description="Run queued jobs.")
    parser.add_argument(
        "queue", nargs="?", default=TASKS_QUEUE, choices=QUEUES, help="the queue (default: %(default)s)"
    )
    name = parser.parse_args().queue
    try:
        app = create_app()
    except ConfigError as error:
        sys.exit(f"Error: {error}")
    if name == TASKS_QUEUE:
        START.get(app)()
    # A worker waits at Redis for jobs, so its connection must not have the short timeout of a request.
    worker = Worker(app, Redis.from_url(SETTINGS.get(app).redis_url), name)
    notify_ready()
    worker.work(logging_level="WARNING")


if __name__ == "__main__":
    main()
