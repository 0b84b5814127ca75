"""Rows as the group writer gets them."""

import datetime as dt

from uuid_utils.compat import uuid7


def row(user, **changes):
    """A scored text of a user."""
    return {
        "id": str(uuid7()),
        "user_id": str(user.id),
        "created_at": dt.datetime.now(dt.UTC),
        "text": "x",
        "sentiment": "positive",
        "negative": 0.1,
        "neutral": 0.2,
        "positive": 0.7,
        "model_version": "v",
        "processing_time": 0.1,
        "key_id": None,
        "is_stored": True,
        "quotas": (),
        **changes,
    }
