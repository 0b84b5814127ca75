"""Progress as Server-Sent Events (WHATWG HTML, section 9.2), without holding the web process's threads hostage.

A connection that waits takes a thread. So only MAX_HELD_REQUESTS of them wait at a time in a process, each for a minute
at most; whoever comes beyond that gets the state of now and the request to come again in a few seconds. A client of
the protocol does so by itself, and says with Last-Event-ID what it has seen.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sentiment_app.batch import service
from sentiment_app.batch.models import UNFINISHED, Task
from sentiment_app.errors import NotFoundError
from sentiment_app.extensions import db

HOLD_SECONDS = 60.0
LOOK_SECONDS = 1.0
RETRY_MS = 3000
DELETED = "deleted"


class Holding:
    """How many requests of a kind may take a thread for long at a time in this process.

    Args:
        most: of all callers.
        of_one: of one caller.
    """

    def __init__(self, most: int, of_one: int) -> None:
        self._most, self._of_one = most, of_one
        self._held: Counter[UUID] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def one(self, user_id: UUID) -> Iterator[bool]:
        """True if there is room for one more, which is taken until the block ends."""
        with self._lock:
            has_room = self._held.total() < self._most and self._held[user_id] < self._of_one
            self._held[user_id] += has_room
        try:
            yield has_room
        finally:
            with self._lock:
                self._held[user_id] -= has_room
                self._held = +self._held


def last_id(task: Task, described: dict[str, Any]) -> str:
    """Names a state of a task: the same id, the same state."""
    counts = described["request_counts"]
    return f"{task.status}-{counts['completed']}-{counts['failed']}"


def stream(
    user_id: UUID, task_id: UUID, seen: str | None, holding: Holding, dump: Callable[[Any], Any]
) -> Iterator[str]:
    """Events of a task's progress until it has ended, or the connection has been held long enough."""
    with holding.one(user_id) as may_wait:
        deadline = time.monotonic() + (HOLD_SECONDS if may_wait else 0)
        yield f"retry: {RETRY_MS}\n\n"
        while True:
            try:
                task = service.get(user_id, task_id)
            except NotFoundError:  # deleted since the connection was opened
                yield f"id: {DELETED}\nevent: end\ndata: {json.dumps({'task_id': str(task_id), 'status': DELETED})}\n\n"
                return
            described = service.describe(task)
            now = last_id(task, described)
            if now != seen:
                kind = "progress" if task.status in UNFINISHED else "end"
                yield f"id: {now}\nevent: {kind}\ndata: {json.dumps(dump(described))}\n\n"
                seen = now
            if task.status not in UNFINISHED or time.monotonic() >= deadline:
                return
            db.session.remove()  # no connection is held while nothing is asked
            time.sleep(LOOK_SECONDS)
            yield ": still here\n\n"  # writing is what notices that the client has gone
