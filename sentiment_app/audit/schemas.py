"""Schemas of the audit log."""

from marshmallow import fields, validate

from sentiment_app.audit.service import Event
from sentiment_app.web.schemas import Cursor, Instant, PageQuerySchema, Schema

EVENTS = [event.value for event in Event]


class AuditEventSchema(Schema):
    """An entry of the audit log."""

    id = fields.UUID(required=True)
    at = fields.AwareDateTime(required=True, format="iso")
    event = fields.String(required=True, metadata={"enum": EVENTS})
    account_id = fields.UUID(
        required=True, allow_none=True, metadata={"description": "The account that the event is about"}
    )
    actor_id = fields.UUID(required=True, allow_none=True, metadata={"description": "The user who sent the request"})
    operator = fields.String(required=True, allow_none=True, metadata={"description": "The user who ran the command"})
    network = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The IPv4 address or the IPv6 network that the request came from"},
    )
    detail = fields.String(required=True, allow_none=True)


class AuditPageSchema(Schema):
    """A page of the audit log."""

    items = fields.List(fields.Nested(AuditEventSchema), required=True)
    next_cursor = Cursor(required=True, allow_none=True, metadata={"type": "string"})


class AuditQuerySchema(PageQuerySchema):
    """Selects a part of the audit log."""

    account_id = fields.UUID(load_default=None, metadata={"description": "Only events about this account"})
    event = fields.String(load_default=None, validate=validate.OneOf(EVENTS))
    since = Instant(load_default=None, metadata={"description": "Only events at this time or later (RFC 3339)"})
    until = Instant(load_default=None, metadata={"description": "Only events before this time (RFC 3339)"})
