"""Schemas of usage and quotas."""

import datetime as dt
from typing import Any

from marshmallow import ValidationError, fields, validates_schema

from sentiment_app.usage.quotas import PERIODS
from sentiment_app.usage.service import MAX_DAYS
from sentiment_app.web.schemas import Schema


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


class UsageQuerySchema(Schema):
    """Selects days."""

    since = fields.Date(
        format="iso",
        load_default=lambda: _today() - dt.timedelta(days=30),
        metadata={"description": "The first day in UTC. By default, 30 days ago."},
    )
    until = fields.Date(
        format="iso", load_default=_today, metadata={"description": "The last day in UTC. By default, today."}
    )

    @validates_schema
    def _check_order(self, data: dict[str, Any], **_: Any) -> None:
        days = (data["until"] - data["since"]).days
        if not 0 <= days < MAX_DAYS:
            raise ValidationError(
                f"`since` must not be after `until`, and at most {MAX_DAYS - 1} days before.", "since"
            )


class DailyUsageSchema(Schema):
    """Rows that were scored on a day."""

    day = fields.Date(required=True, format="iso", metadata={"description": "In UTC"})
    api_key_id = fields.UUID(
        required=True, allow_none=True, metadata={"description": "`null` for requests with an access token"}
    )
    model_version = fields.String(required=True)
    rows = fields.Integer(required=True)


class QuotaSchema(Schema):
    """A limit on the rows of a day or a month, and what is used of it."""

    api_key_id = fields.UUID(
        required=True,
        allow_none=True,
        metadata={"description": "The API key that has the quota; `null` for the account"},
    )
    period = fields.String(required=True, metadata={"enum": list(PERIODS)})
    limit = fields.Integer(required=True)
    used = fields.Integer(required=True, metadata={"description": "Rows of waiting tasks are not used yet"})
    resets_at = fields.AwareDateTime(required=True, format="iso")


class UsageSchema(Schema):
    """What an account has used, and its quotas."""

    items = fields.List(
        fields.Nested(DailyUsageSchema), required=True, metadata={"description": "The newest day first"}
    )
    total_rows = fields.Integer(required=True, metadata={"description": "The sum of `rows`"})
    quotas = fields.List(fields.Nested(QuotaSchema), required=True)
