"""Usage: how many rows were scored for each user. Every row counts once, in the transaction that stores its scores."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Date, cast, func, insert, select, text

from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import db, unit_of_work
from sentiment_app.usage.models import UsageRecord

MAX_DAYS = 366
# A record of a text that is not stored is kept as long as its transaction, or Nginx's request, may be repeated.
ADDED_UP_AFTER = dt.timedelta(minutes=2)
BATCH_ROWS = 20_000

ADD_UP = text("""WITH added AS (
        DELETE FROM usage_records WHERE id IN (
            SELECT id FROM usage_records WHERE NOT is_total AND created_at < now() - :age
            ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
        )
        RETURNING *
    )
    INSERT INTO usage_records (id, user_id, key_id, model_version, day, rows, is_total)
    SELECT gen_random_uuid(), user_id, key_id, model_version, day, sum(rows), true
    FROM added GROUP BY user_id, day, key_id, model_version ORDER BY user_id, day, key_id, model_version
    ON CONFLICT (user_id, day, key_id, model_version) WHERE is_total
    DO UPDATE SET rows = usage_records.rows + excluded.rows
""")


class DailyUsage(NamedTuple):
    """Rows that were scored on a day, with an API key or without (None), by a version of the model."""

    day: dt.date
    api_key_id: UUID | None
    model_version: str
    rows: int


def record(record_id: UUID, user_id: UUID, key_id: UUID | None, model_version: str, rows: int) -> None:
    """Count scored rows, within the caller's unit of work, which stores them."""
    values: dict[str, Any] = {
        "id": record_id,
        "user_id": user_id,
        "key_id": key_id,
        "model_version": model_version,
        "day": cast(func.timezone("UTC", func.now()), Date),
        "rows": rows,
    }
    db.session.execute(insert(UsageRecord).values(values))


@unit_of_work
def list_daily(user_id: UUID, since: dt.date, until: dt.date) -> Sequence[DailyUsage]:
    """The usage of a user from one day to another, both included, newest first."""
    columns = UsageRecord.day, UsageRecord.key_id, UsageRecord.model_version
    found = (
        select(*columns, func.sum(UsageRecord.rows))
        .where(UsageRecord.user_id == user_id, UsageRecord.day.between(since, until))
        .group_by(*columns)
        .order_by(UsageRecord.day.desc(), UsageRecord.key_id.nulls_first(), UsageRecord.model_version)
    )
    return [DailyUsage(day, key_id, version, int(rows)) for day, key_id, version, rows in db.session.execute(found)]


@unit_of_work
def add_up() -> None:
    """Replace records that are a few minutes old by totals. Two processes at the same time do no harm."""
    age = ADDED_UP_AFTER + dt.timedelta(seconds=settings().database_retry_seconds)
    db.session.execute(ADD_UP, {"age": age, "limit": BATCH_ROWS})
