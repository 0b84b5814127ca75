"""Export and erase what belongs to an account, in all features."""

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal
from uuid import UUID

from sentiment_app.audit import service as audit
from sentiment_app.audit.models import AuditEvent
from sentiment_app.audit.schemas import AuditEventSchema
from sentiment_app.audit.service import Event
from sentiment_app.errors import NotFoundError
from sentiment_app.feedback import service as feedback
from sentiment_app.feedback.schemas import FeedbackSchema
from sentiment_app.sentiment import history
from sentiment_app.sentiment.schemas import RequestSchema
from sentiment_app.tasks import render
from sentiment_app.tasks import service as tasks
from sentiment_app.tasks.models import Task
from sentiment_app.tasks.schemas import TaskSchema
from sentiment_app.usage import counters
from sentiment_app.usage import service as usage
from sentiment_app.usage.schemas import DailyUsageSchema
from sentiment_app.users import administration, api_keys, sessions
from sentiment_app.users import service as users
from sentiment_app.users.schemas import ApiKeySchema, SessionSchema, UserSchema
from sentiment_app.webhooks import outbox
from sentiment_app.webhooks.schemas import DeliverySchema

PAGE_ROWS = 100
MAX_READS = 10
# How long a request erases data. `sentiment purge` erases the rest.
ERASE_SECONDS = 5.0


def erase(user_id: UUID, seconds: float = ERASE_SECONDS) -> bool:
    """Erase the data of a deleted account, in small transactions. Returns whether all is erased after some seconds."""
    deadline = time.monotonic() + seconds
    tasks.mark_all_deleted(user_id)
    is_complete = (
        history.delete_all(user_id, deadline).is_complete
        and feedback.delete_all(user_id, deadline)
        and tasks.erase_all(user_id, deadline)
    )
    if is_complete:
        counters.delete_all_of(user_id)
        administration.erase(user_id)
    return is_complete


def erase_deleted_accounts() -> int:
    """Erase the data of all deleted accounts; returns their number."""
    found = administration.find_deleted()
    for user_id in found:
        erase(user_id, float("inf"))
    return len(found)


def export(user_id: UUID) -> Iterator[dict[str, Any]]:
    """Everything that belongs to an account: objects whose `kind` says what they are.

    It begins with the account. A text in the history, feedback, a task, and a row of a task are objects of their own.
    """
    audit.record_alone(Event.DATA_EXPORTED, user_id)
    yield {"kind": "account", **UserSchema().dump(users.get(user_id))}
    for name in users.find_former_usernames(user_id):
        yield {"kind": "former_username", "username": name}
    for session in _pages(lambda after: sessions.page(user_id, PAGE_ROWS, after)):
        ended = {"ended_at": session.ended_at, "end_reason": session.end_reason}
        yield {"kind": "session", **SessionSchema(exclude=["is_current"]).dump(session), **ended}
    for key in _pages(lambda after: api_keys.page(user_id, PAGE_ROWS, after)):
        yield {"kind": "api_key", **ApiKeySchema().dump(key)}
    for item in usage.list_daily(user_id, dt.date.min, dt.date.max):
        yield {"kind": "usage", **DailyUsageSchema().dump(item)}
    for entry in _pages(lambda after: audit.page(PAGE_ROWS, after, account_id=user_id)):
        yield {"kind": "audit_event", **_export_audit_event(entry)}
    for row in _pages(lambda after: history.page(user_id, PAGE_ROWS, after)):
        yield {"kind": "text", **RequestSchema().dump(row)}
    for given in _pages(lambda after: feedback.page(user_id, PAGE_ROWS, after)):
        yield {"kind": "feedback", **FeedbackSchema().dump(given)}
    for task in _pages(lambda after: tasks.page(user_id, PAGE_ROWS, after)):
        yield from _export_task(task)


def _export_audit_event(entry: AuditEvent) -> dict[str, Any]:
    """An entry about an account. If somebody else acted, it does not say who, and from where."""
    is_own = entry.operator is None and entry.actor_id in (None, entry.account_id)
    shown: dict[str, Any] = AuditEventSchema(exclude=() if is_own else ("actor_id", "operator", "network")).dump(entry)
    return shown


def _export_task(task: Task) -> Iterator[dict[str, Any]]:
    yield {"kind": "task", **TaskSchema().dump(tasks.describe(task)), "webhook_url": task.webhook_url}
    for delivery in outbox.find(task.id):
        yield {"kind": "delivery", "task_id": str(task.id), **DeliverySchema().dump(delivery)}
    include: list[Literal["text", "columns"]] = ["text"]
    if "kept_columns" in (task.format or {}):
        include.append("columns")
    # First the rows without scores: a row that is scored meanwhile is exported twice, and no row is left out.
    for row in tasks.unscored(task.id):
        given = {"line": row.line, "custom_id": row.custom_id, "text": row.text, "columns": row.columns}
        yield {"kind": "unscored_row", "task_id": str(task.id), "index": row.row_index, **given}
    after = -1
    for _ in range(MAX_READS):  # a task that is retried meanwhile is read on
        try:
            found = tasks.results(task.user_id, task.id, after, partial=True, with_gaps=True, include=include)
            for result in found.rows:
                yield {"kind": "result", "task_id": str(task.id), **render.as_object(result, found.included)}
                after = result.row_index
        except tasks.ResultsChangedError:
            continue
        except (tasks.ExpiredError, NotFoundError):  # a task that is deleted meanwhile has no more rows
            pass
        return
    raise tasks.ResultsChangedError  # the download fails: a file that ended here would look complete


def _pages(fetch: Any) -> Iterator[Any]:
    """All rows of a list that is read page by page."""
    rows: Sequence[Any] = fetch(None)
    while rows:
        yield from rows
        rows = fetch(rows[-1].id)
