"""What signing in looks like from outside."""

from marshmallow import fields, validate

from sentiment_app.schema import Schema, Text
from sentiment_app.users.passwords import MAX_LENGTH


class LoginSchema(Schema):
    """Who one claims to be."""

    username = Text(required=True, validate=validate.Length(1, 254), metadata={"examples": ["ada"]})
    password = Text(
        required=True,
        load_only=True,
        validate=validate.Length(1, MAX_LENGTH),
        metadata={"format": "password", "examples": ["correct horse battery staple"]},
    )


class LoginFormSchema(LoginSchema):
    """The same as an OAuth 2.0 password client sends it (RFC 6749, section 4.3.2); the rest is not used."""

    grant_type = Text(validate=validate.OneOf(["password"]))
    scope = Text()
    client_id = Text()
    client_secret = Text(load_only=True)


class RefreshSchema(Schema):
    """The refresh token of the session."""

    refresh_token = Text(required=True, load_only=True, validate=validate.Length(1, 4096))


class TokenPairSchema(Schema):
    """Tokens (RFC 6749, section 5.1)."""

    access_token = fields.String(required=True)
    refresh_token = fields.String(required=True, metadata={"description": "Works once"})
    token_type = fields.String(required=True, metadata={"enum": ["bearer"]})
    expires_in = fields.Integer(required=True, metadata={"description": "Life of the access token, seconds"})


class WhoSchema(Schema):
    """To whom a token belongs."""

    user_id = fields.UUID(required=True)
    username = fields.String(required=True)
    message = fields.String(required=True)
