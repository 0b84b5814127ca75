"""Schemas of sign-in and tokens."""

from marshmallow import fields, validate

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


class LoginFormSchema(LoginSchema):
    """The form that OAuth 2.0 password clients send (RFC 6749, section 4.3.2). Only username and password are used."""

    grant_type = Text(validate=validate.OneOf(["password"]))
    scope = Text()
    client_id = Text()
    client_secret = Text(load_only=True)


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
