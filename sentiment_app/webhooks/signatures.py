"""Signatures of webhooks (Standard Webhooks 1.0.0): HMAC-SHA256 over id, timestamp and body."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from uuid import UUID

from sentiment_app.infrastructure.app_state import settings


def secret(user_id: UUID) -> str:
    """The secret with which a user verifies webhooks, in the format of Standard Webhooks' libraries."""
    return "whsec_" + base64.b64encode(_key(user_id)).decode()


def sign(delivery_id: UUID, user_id: UUID, body: bytes) -> dict[str, str]:
    """The signature headers of a request (Standard Webhooks 1.0.0, "Signature scheme")."""
    timestamp = str(int(datetime.now(UTC).timestamp()))
    signed = b".".join((str(delivery_id).encode(), timestamp.encode(), body))
    signature = base64.b64encode(hmac.digest(_key(user_id), signed, "sha256")).decode()
    return {
        "webhook-id": str(delivery_id),
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def _key(user_id: UUID) -> bytes:
    return hmac.digest(settings().jwt_secret_key.encode(), f"webhook:{user_id}".encode(), hashlib.sha256)
