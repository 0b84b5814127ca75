"""Progress of a task as Server-Sent Events (WHATWG HTML, section 9.2).

An open connection occupies a thread. So only MAX_HELD_REQUESTS connections wait at a time in a process, each for a
minute at most. Other clients get the current state, and reconnect after a few seconds. The protocol requires that
clients reconnect automatically, and send the last id that they have seen.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

from sentiment_app.errors import NotFoundError
from sentiment_app.infrastructure.database import db
from sentiment_app.tasks import service
from sentiment_app.tasks.models import UNFINISHED, Task

HOLD_SECONDS = 60.0
POLL_SECONDS = 1.0
RETRY_MS = 3000
DELETED = "deleted"


def last_id(task: Task, described: dict[str, Any]) -> str:
    """The event id of a task's state: the same id means the same state."""
    counts = described["request_counts"]
    return f"{task.status}-{counts['completed']}-{counts['failed']}"


def stream(
    user_id: UUID,
    task_id: UUID,
    seen: str | None,
    admission: AbstractContextManager[bool],
    dump: Callable[[Any], Any],
) -> Iterator[str]:
    """Events until the task has ended, or the connection was open for HOLD_SECONDS.

    Args:
        user_id: the owner of the task.
        task_id: the task.
        seen: the last event id that the client has received.
        admission: says whether the connection may wait, and is held as long as it waits.
        dump: turns the description of a task into JSON.
    """
    with admission as may_wait:
        deadline = time.monotonic() + (HOLD_SECONDS if may_wait else 0)
        retry = f"retry: {RETRY_MS}\n"  # part of the first event: some clients fail on an event without data
        while True:
            try:
                task = service.get(user_id, task_id)
            except NotFoundError:  # it was deleted while the connection was open
                data = json.dumps({"task_id": str(task_id), "status": DELETED})
                yield f"{retry}id: {DELETED}\nevent: end\ndata: {data}\n\n"
                return
            described = service.describe(task)
            current = last_id(task, described)
            if current != seen:
                kind = "progress" if task.status in UNFINISHED else "end"
                yield f"{retry}id: {current}\nevent: {kind}\ndata: {json.dumps(dump(described))}\n\n"
                seen, retry = current, ""
            if task.status not in UNFINISHED or time.monotonic() >= deadline:
                return
            db.session.remove()  # hold no database connection while sleeping
            time.sleep(POLL_SECONDS)
            yield ": keep-alive\n\n"  # only a write notices that the client has closed the connection
