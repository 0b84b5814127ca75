"""/sentiment/webhooks: the secret of the caller's webhooks."""

from datetime import timedelta
from typing import Any

from flask import Blueprint

from sentiment_app.web.guard import caller
from sentiment_app.web.operation import operation
from sentiment_app.webhooks import schemas, secrets, signatures

blueprint = Blueprint("webhooks", __name__, url_prefix="/sentiment")


@blueprint.get("/webhooks/secret")
@operation(returns=schemas.SecretSchema())
def secret() -> dict[str, str]:
    """Get the secret that verifies the signatures of your webhooks (Standard Webhooks)."""
    return {"secret": signatures.encode_secret(secrets.get_or_create(caller().user_id))}


@blueprint.post("/webhooks/secret/rotate")
@operation(rates=("user", "profile"), body=schemas.SecretRotationSchema(), status=201, returns=schemas.SecretSchema())
def rotate(body: dict[str, Any]) -> dict[str, str]:
    """Replace the secret of your webhooks.

    During the overlap, webhooks have two signatures: one by the new secret, and one by the old secret.
    """
    key = secrets.rotate(caller().user_id, timedelta(seconds=body["overlap_seconds"]))
    return {"secret": signatures.encode_secret(key)}
