"""Schemas of webhooks."""

from marshmallow import fields, validate

from sentiment_app.web.schemas import Schema


class DeliverySchema(Schema):
    """A delivery of an event to a webhook."""

    id = fields.UUID(required=True, metadata={"description": "The webhook-id header"})
    state = fields.String(required=True, metadata={"enum": ["pending", "delivered", "failed"]})
    attempts = fields.Integer(required=True)
    next_at = fields.AwareDateTime(required=True, format="iso")
    answer = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "HTTP status of the last attempt, or why there was no response"},
    )
    created_at = fields.AwareDateTime(required=True, format="iso")
    delivered_at = fields.AwareDateTime(required=True, format="iso", allow_none=True)


class DeliveryListSchema(Schema):
    """The deliveries of a task."""

    items = fields.List(fields.Nested(DeliverySchema), required=True)


class SecretRotationSchema(Schema):
    """How the secret of webhooks is replaced."""

    overlap_seconds = fields.Integer(
        strict=True,
        load_default=86_400,
        validate=validate.Range(0, 30 * 86_400),
        metadata={"description": "How long webhooks are also signed with the old secret"},
    )


class SecretSchema(Schema):
    """The secret that verifies the signatures of webhooks."""

    secret = fields.String(required=True, metadata={"description": "In the format of the Standard Webhooks libraries"})
