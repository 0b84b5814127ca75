"""Schemas of the model registry."""

from marshmallow import fields

from sentiment_app.web.schemas import Schema

STATES = ("candidate", "active", "previous", "retired")


class ModelSchema(Schema):
    """A released model."""

    version = fields.String(required=True)
    state = fields.String(required=True, metadata={"enum": list(STATES)})
    released_at = fields.AwareDateTime(required=True, format="iso")
    activated_at = fields.AwareDateTime(required=True, format="iso", allow_none=True)


class ModelListSchema(Schema):
    """All released models, newest first."""

    items = fields.List(fields.Nested(ModelSchema), required=True)


class ModelRecordSchema(ModelSchema):
    """A released model with its manifest."""

    created_at = fields.String(required=True, metadata={"format": "date-time"})
    recipe = fields.String(required=True)
    parameters = fields.Dict(required=True)
    data = fields.List(fields.Dict(), required=True, metadata={"description": "The training data, with digests"})
    metrics = fields.Dict(required=True, metadata={"description": "Measured on held-out texts, by source"})
    libraries = fields.Dict(fields.String(), fields.String(), required=True)
    files = fields.Dict(fields.String(), fields.String(), required=True, metadata={"description": "SHA-256 digests"})
    code_version = fields.String(required=True)


class ActivationQuerySchema(Schema):
    """How strict the promotion check is."""

    allow_worse = fields.Boolean(
        load_default=False,
        metadata={"description": "Activate the model even if it measured worse than the active model"},
    )


class ModelEventSchema(Schema):
    """An entry of the audit log."""

    at = fields.AwareDateTime(required=True, format="iso")
    version = fields.String(required=True)
    action = fields.String(required=True)
    by = fields.String(required=True)
    detail = fields.String(required=True, allow_none=True)


class ModelEventListSchema(Schema):
    """The latest hundred entries of the audit log of a model, newest first."""

    items = fields.List(fields.Nested(ModelEventSchema), required=True)
