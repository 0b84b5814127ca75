"""The Python client accepts the webhooks of the service, and nothing else."""

from uuid import uuid4

import pytest
from sentiment_client import WebhookError, verify_webhook

from sentiment_app.webhooks import signatures

BODY = b'{"type":"task.completed"}'
KEY, OLD_KEY = bytes(32), bytes(range(32))
SECRET = signatures.encode_secret(KEY)


@pytest.fixture
def headers():
    return signatures.sign(uuid4(), [OLD_KEY, KEY], BODY)


def test_signed_event_is_returned(headers):
    assert verify_webhook(SECRET, headers, BODY) == {"type": "task.completed"}
    assert verify_webhook(SECRET, {name.title(): value for name, value in headers.items()}, BODY)


@pytest.mark.parametrize(
    ("changes", "body", "reason"),
    [
        ({}, BODY + b" ", "signature is wrong"),
        ({"webhook-signature": "v2,x v1,x v1"}, BODY, "signature is wrong"),
        ({"webhook-signature": ""}, BODY, "signature is wrong"),
        ({"webhook-timestamp": "1000000000"}, BODY, "too old"),
        ({"webhook-timestamp": "9999999999"}, BODY, "too old"),
        ({"webhook-timestamp": "x"}, BODY, "wrong format"),
        ({"webhook-id": "other"}, BODY, "signature is wrong"),
    ],
)
def test_other_requests_are_refused(headers, changes, body, reason):
    with pytest.raises(WebhookError, match=reason):
        verify_webhook(SECRET, {**headers, **changes}, body)


def test_missing_header_and_wrong_secret_are_named(headers):
    del headers["webhook-id"]
    with pytest.raises(WebhookError, match="webhook-id is missing"):
        verify_webhook(SECRET, headers, BODY)
    with pytest.raises(WebhookError, match="wrong format"):
        verify_webhook("whsec_!", headers, BODY)
