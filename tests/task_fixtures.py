"""Fixtures for tests that submit and score tasks."""

import json

import pytest

from sentiment_app.infrastructure.queue import REDIS, queue
from sentiment_app.tasks import lifecycle, submission
from sentiment_app.worker import Worker

TASKS = "/api/v1/sentiment/tasks"


@pytest.fixture
def work(app):
    """Runs all queued jobs."""
    return lambda name="default": Worker(app, REDIS.get(app), name).work(burst=True, logging_level="WARNING")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(submission, "CHUNK_ROWS", 3)


@pytest.fixture
def lines():
    """Texts as NDJSON, each with a custom_id."""
    return lambda *texts: "".join(
        json.dumps({"text": text, "custom_id": f"row-{index}"}) + "\n" for index, text in enumerate(texts)
    )


@pytest.fixture
def upload(client, as_ada):
    def upload(content, kind="application/x-ndjson", query="", **headers):
        data = content if isinstance(content, bytes) else content.encode()
        return client.post(TASKS + query, data=data, content_type=kind, headers={**as_ada, **headers})

    return upload


@pytest.fixture
def fetch(client, as_ada):
    return lambda path="", **headers: client.get(f"{TASKS}{path}", headers={**as_ada, **headers})


@pytest.fixture
def chunk_jobs(app):
    """Ids of the chunks whose jobs are queued."""
    return lambda: [job.id for job in queue().jobs if job.func_name == lifecycle.JOB]
