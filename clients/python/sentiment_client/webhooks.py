"""Verify webhooks (Standard Webhooks 1.0.0)."""

import base64
import binascii
import hmac
import json
import re
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
    try:
        body = body.encode() if isinstance(body, str) else body
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        if not key:
            raise WebhookError("The secret is empty.")
        id_, timestamp, signatures = (given[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        if not re.fullmatch("[0-9]{1,12}", timestamp):
            raise WebhookError("The timestamp has a wrong format.")
        age = abs(time.time() - int(timestamp))
    except KeyError as error:
        raise WebhookError(f"The header {error.args[0]} is missing.") from None
    except (binascii.Error, ValueError, TypeError):
        raise WebhookError("The secret, the timestamp or the body has a wrong format.") from None
    if age > tolerance_seconds:
        raise WebhookError("The request is too old.")
    signed = b".".join((str(id_).encode(errors="replace"), str(timestamp).encode(), body))
    expected = base64.b64encode(hmac.digest(key, signed, "sha256"))
    for signature in str(signatures).split():
        version, _, value = signature.partition(",")
        if version == "v1" and hmac.compare_digest(value.encode(errors="replace"), expected):
            return _parse(body)
    raise WebhookError("The signature is wrong.")


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise WebhookError("The body is not valid JSON.") from None
