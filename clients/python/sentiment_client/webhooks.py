"""Verify webhooks (Standard Webhooks 1.0.0)."""

import base64
import binascii
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

TOLERANCE_SECONDS = 300


class WebhookError(Exception):
    """The request was not sent by the service, was changed, or is too old."""


def verify_webhook(
    secret: str, headers: Mapping[str, str], body: bytes | str, *, tolerance_seconds: float = TOLERANCE_SECONDS
) -> Any:
    """The event in the body of a request, if its signature is right.

    Args:
        secret: begins with `whsec_`; from `GET /sentiment/webhooks/secret`.
        headers: of the request.
        body: as it was received.
        tolerance_seconds: how much the clocks may differ. Older requests are refused, because they may be replays.

    Raises:
        WebhookError
    """
    given = {name.lower(): value for name, value in dict(headers).items()}
    body = body.encode() if isinstance(body, str) else body
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        if not key:
            raise WebhookError("The secret is empty.")
        id_, timestamp, signatures = (given[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        age = abs(time.time() - int(timestamp))
    except KeyError as error:
        raise WebhookError(f"The header {error.args[0]} is missing.") from None
    except (binascii.Error, ValueError, TypeError):
        raise WebhookError("The secret or the timestamp has a wrong format.") from None
    if age > tolerance_seconds:
        raise WebhookError("The request is too old.")
    signed = b".".join((str(id_).encode(errors="replace"), str(timestamp).encode(), body))
    expected = base64.b64encode(hmac.digest(key, signed, "sha256"))
    for signature in str(signatures).split():
        version, _, value = signature.partition(",")
        if version == "v1" and hmac.compare_digest(value.encode(errors="replace"), expected):
            return json.loads(body)
    raise WebhookError("The signature is wrong.")
