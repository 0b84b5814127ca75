"""/sentiment/webhooks: the secret of the caller's webhooks."""

from flask import Blueprint

from sentiment_app.web.guard import caller
from sentiment_app.web.operation import operation
from sentiment_app.webhooks import schemas, signatures

blueprint = Blueprint("webhooks", __name__, url_prefix="/sentiment")


@blueprint.get("/webhooks/secret")
@operation(returns=schemas.SecretSchema())
def secret() -> dict[str, str]:
    """Get the secret that verifies the signatures of your webhooks (Standard Webhooks)."""
    return {"secret": signatures.secret(caller().user_id)}
