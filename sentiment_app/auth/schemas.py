"""Schemas of sign-in and tokens."""

from typing import Any, ClassVar

from marshmallow import ValidationError, fields, validate, validates_schema

from sentiment_app.users.passwords import MAX_LENGTH
from sentiment_app.users.schemas import PasswordSchema
from sentiment_app.web.schemas import Schema, Text


class LoginSchema(Schema):
    """Username and password."""

    username = Text(required=True, validate=validate.Length(1, 254), metadata={"examples": ["ada"]})
    password = Text(
        required=True,
        load_only=True,
        validate=validate.Length(1, MAX_LENGTH),
        metadata={"format": "password", "examples": ["correct horse battery staple"]},
    )


class TokenFormSchema(Schema):
    """The form that OAuth 2.0 clients send for a password (RFC 6749, section 4.3.2) or a refresh token (section 6)."""

    constraints: ClassVar[dict[str, Any]] = {
        "anyOf": [{"required": ["username", "password"]}, {"required": ["refresh_token"]}]
    }

    grant_type = Text(load_default="password", validate=validate.OneOf(["password", "refresh_token"]))
    username = Text(validate=validate.Length(1, 254))
    password = Text(load_only=True, validate=validate.Length(1, MAX_LENGTH), metadata={"format": "password"})
    refresh_token = Text(load_only=True, validate=validate.Length(1, 4096))
    scope = Text(metadata={"description": "Ignored: a session may do everything that its user may"})
    client_id = Text(metadata={"description": "Ignored"})
    client_secret = Text(load_only=True, metadata={"description": "Ignored"})

    @validates_schema
    def _check_grant(self, data: dict[str, Any], **_: Any) -> None:
        needed = ("refresh_token",) if data.get("grant_type") == "refresh_token" else ("username", "password")
        missing = {name: ["Missing data for required field."] for name in needed if name not in data}
        if missing:
            raise ValidationError(missing)


class RefreshSchema(Schema):
    """The refresh token of the session."""

    refresh_token = Text(required=True, load_only=True, validate=validate.Length(1, 4096))


class TokenPairSchema(Schema):
    """Access token and refresh token (RFC 6749, section 5.1)."""

    access_token = fields.String(required=True)
    refresh_token = fields.String(required=True, metadata={"description": "Can be used once"})
    token_type = fields.String(required=True, metadata={"enum": ["bearer"]})
    expires_in = fields.Integer(required=True, metadata={"description": "Seconds until the access token expires"})


class PasswordResetSchema(PasswordSchema):
    """A new password, and the token of an administrator."""

    token = Text(required=True, load_only=True, validate=validate.Length(1, 100))


class WhoSchema(Schema):
    """The user that a token belongs to."""

    user_id = fields.UUID(required=True)
    username = fields.String(required=True)
    message = fields.String(required=True)
