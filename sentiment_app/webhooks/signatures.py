"""Signatures of webhooks (Standard Webhooks 1.0.0): HMAC-SHA256 over id, timestamp and body."""

import base64
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID


def encode_secret(key: bytes) -> str:
    """A secret in the format of Standard Webhooks' libraries."""
    return "whsec_" + base64.b64encode(key).decode()


def sign(delivery_id: UUID, keys: Sequence[bytes], body: bytes) -> dict[str, str]:
    """The headers of a request that is signed with each key (Standard Webhooks 1.0.0, "Signature scheme")."""
    timestamp = str(int(datetime.now(UTC).timestamp()))
    signed = b".".join((str(delivery_id).encode(), timestamp.encode(), body))
    signatures = (base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)
    return {
        "webhook-id": str(delivery_id),
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
