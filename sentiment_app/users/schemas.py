"""Schemas of accounts."""

import ipaddress
from datetime import timedelta
from typing import Any, ClassVar

from environs import ValidationError as ConfigValidationError
from marshmallow import ValidationError, fields, validate, validates_schema

from sentiment_app.config import MAX_ROWS, is_rate
from sentiment_app.users.api_keys import Grant
from sentiment_app.users.passwords import MAX_LENGTH, MIN_LENGTH
from sentiment_app.web.operation import SCOPES
from sentiment_app.web.schemas import Cursor, Flag, Schema, Text

# In JSON Schema, $ is the end of the string. In Python it also matches before a final line break; see _matches.
EMAIL = r"^[A-Za-z0-9._%+-]{1,64}@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}$"
USERNAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{2,31}$"


def _matches(pattern: str, error: str) -> validate.Regexp:
    return validate.Regexp(pattern.removesuffix("$") + r"\Z", error=error)


def username(**options: Any) -> Text:
    """3 to 32 letters, digits, dots, dashes and underscores."""
    return Text(
        validate=_matches(USERNAME, "A username has 3 to 32 letters, digits, dots, dashes and underscores."),
        metadata={"pattern": USERNAME, "examples": ["ada"]},
        **options,
    )


def email(**options: Any) -> Text:
    """An email address of the common form (a subset of RFC 5321)."""
    return Text(
        validate=[
            _matches(EMAIL, "This is not an email address."),
            validate.Length(max=254),
        ],
        metadata={"pattern": EMAIL, "examples": ["ada@example.org"]},
        **options,
    )


def password(**options: Any) -> Text:
    """8 to 128 characters of any kind. The operator may require more than 8."""
    return Text(
        validate=validate.Length(MIN_LENGTH, MAX_LENGTH),
        metadata={"format": "password", "examples": ["correct horse battery staple"]},
        load_only=True,
        **options,
    )


def rows(description: str, **options: Any) -> fields.Integer:
    """A limit on the rows of a day or a month."""
    return fields.Integer(
        strict=True,
        allow_none=True,
        validate=validate.Range(0, MAX_ROWS),
        metadata={"description": description, "format": "int64"},
        **options,
    )


OF_ACCOUNT = "rows the account may score. `null` stands for the setting of the service, and 0 for no limit."
OF_KEY = "rows may be scored with the key. `null` stands for no limit. Your own quotas also apply."


def current_password(description: str, **options: Any) -> Text:
    """The password of the account."""
    return Text(
        load_only=True,
        validate=validate.Length(1, MAX_LENGTH),
        metadata={"format": "password", "description": description},
        **options,
    )


class RegisterSchema(Schema):
    """A new account."""

    username = username(required=True)
    email = email(required=True)
    password = password(required=True)


class SignUpSchema(RegisterSchema):
    """A new account, perhaps with an invitation."""

    invitation = Text(
        load_only=True,
        validate=validate.Length(1, 100),
        metadata={"description": "Required if the service accepts new accounts by invitation only"},
    )


class InvitationSchema(Schema):
    """How long an invitation is valid."""

    expires_in_days = fields.Integer(strict=True, load_default=7, validate=validate.Range(1, 365))


class ResetStartSchema(Schema):
    """How long a password reset is valid."""

    expires_in_hours = fields.Integer(strict=True, load_default=24, validate=validate.Range(1, 24 * 7))


class OneTimeTokenSchema(Schema):
    """A token that can be used once."""

    token = fields.String(required=True, metadata={"description": "It cannot be read again."})
    expires_at = fields.AwareDateTime(required=True, format="iso")


class PasswordSchema(Schema):
    """A new password."""

    password = password(required=True)


class UserSchema(Schema):
    """An account."""

    id = fields.UUID(required=True)
    username = fields.String(required=True)
    email = fields.String(required=True)
    is_active = fields.Boolean(required=True)
    is_superuser = fields.Boolean(required=True)
    history_days = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "How long the history is kept. `null` stands for the setting of the service."},
    )
    rows_per_day = rows(f"How many {OF_ACCOUNT}", required=True)
    rows_per_month = rows(f"How many {OF_ACCOUNT}", required=True)
    created_at = fields.AwareDateTime(required=True, format="iso")
    updated_at = fields.AwareDateTime(required=True, format="iso")


class UserPageSchema(Schema):
    """A page of accounts."""

    items = fields.List(fields.Nested(UserSchema), required=True)
    next_cursor = Cursor(required=True, allow_none=True, metadata={"type": "string"})


class ProfileChangeSchema(Schema):
    """Changes of the caller's own account."""

    username = username()
    email = email()
    password = password()
    history_days = fields.Integer(
        strict=True,
        allow_none=True,
        validate=validate.Range(1, 36_500),
        metadata={
            "description": "How long your history is kept, if that is shorter than the service keeps it. "
            "`null` removes your own limit."
        },
    )
    current_password = current_password("Your password, so that a stolen access token changes nothing", required=True)


class UserChangeSchema(Schema):
    """Changes that an administrator makes to an account."""

    constraints: ClassVar[dict[str, Any]] = {"minProperties": 1}

    is_active = Flag()
    is_superuser = Flag(metadata={"description": "Whether the account is an administrator"})
    rows_per_day = rows(f"How many {OF_ACCOUNT}")
    rows_per_month = rows(f"How many {OF_ACCOUNT}")

    @validates_schema
    def _check_not_empty(self, data: dict[str, Any], **_: Any) -> None:
        if not data:
            raise ValidationError(f"Send at least one of: {', '.join(self.fields)}.")


MAX_NETWORKS, MAX_KEY_DAYS = 20, 3650


def _check_network(text: str) -> None:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValidationError("This is not a network such as 192.0.2.0/24 or 2001:db8::/32.") from None
    if getattr(network.network_address, "ipv4_mapped", None):
        raise ValidationError("Write an IPv4 network in the form 192.0.2.0/24.")


def _check_rate(text: str) -> None:
    try:
        is_rate(text)
    except ConfigValidationError:
        raise ValidationError("This is not a rate such as 100 per minute. The limit is 1,000,000 in 31 days.") from None


class ApiKeyGrantSchema(Schema):
    """A new API key, and what it may be used for."""

    current_password = current_password(
        "Your password, so that a stolen access token cannot create keys", required=True
    )
    name = Text(required=True, validate=validate.Length(1, 100), metadata={"examples": ["nightly import"]})
    scopes = fields.List(
        fields.String(validate=validate.OneOf(list(SCOPES))),
        required=True,
        validate=validate.Length(1, len(SCOPES)),
        metadata={
            "examples": [["score", "tasks"]],
            "description": " ".join(f"`{name}`: {purpose}" for name, purpose in SCOPES.items()),
        },
    )
    networks = fields.List(
        Text(validate=[validate.Length(1, 50), _check_network]),
        load_default=list,
        validate=validate.Length(max=MAX_NETWORKS),
        metadata={"description": "The networks that may use the key, such as 192.0.2.0/24. By default, all networks."},
    )
    rate = Text(
        load_default=None,
        allow_none=True,
        validate=[validate.Length(1, 50), _check_rate],
        metadata={"description": "A rate limit of the key, such as `100 per minute`. Your own rate limits also apply."},
    )
    expires_in_days = fields.Integer(
        strict=True,
        load_default=365,
        allow_none=True,
        validate=validate.Range(1, MAX_KEY_DAYS),
        metadata={"description": "`null` makes a key that does not expire."},
    )
    rows_per_day = rows(f"How many {OF_KEY}", load_default=None)
    rows_per_month = rows(f"How many {OF_KEY}", load_default=None)


def to_grant(body: dict[str, Any]) -> Grant:
    """What a new key may be used for."""
    days = body["expires_in_days"]
    life = None if days is None else timedelta(days=days)
    quotas = {period: body[period] or None for period in ("rows_per_day", "rows_per_month")}
    return Grant(body["name"], body["scopes"], body["networks"], body["rate"], life, **quotas)


class RotationSchema(Schema):
    """How an API key is replaced."""

    current_password = current_password("Your password", required=True)
    overlap_seconds = fields.Integer(
        strict=True,
        load_default=86_400,
        validate=validate.Range(0, 30 * 86_400),
        metadata={"description": "How long the old key stays valid. With 0, it is revoked at once."},
    )


class ApiKeySchema(Schema):
    """An API key, without the key itself."""

    id = fields.UUID(required=True)
    name = fields.String(required=True)
    hint = fields.String(required=True, metadata={"description": "How the key begins", "examples": ["snt_live_8cQf"]})
    scopes = fields.List(fields.String(), required=True)
    networks = fields.List(fields.String(), required=True)
    rate = fields.String(required=True, allow_none=True)
    rows_per_day = rows(f"How many {OF_KEY}", required=True)
    rows_per_month = rows(f"How many {OF_KEY}", required=True)
    created_at = fields.AwareDateTime(required=True, format="iso")
    expires_at = fields.AwareDateTime(required=True, format="iso", allow_none=True)
    last_used_at = fields.AwareDateTime(
        required=True, format="iso", allow_none=True, metadata={"description": "Exact to a minute"}
    )
    revoked_at = fields.AwareDateTime(required=True, format="iso", allow_none=True)


class NewApiKeySchema(ApiKeySchema):
    """A new API key, with the key itself."""

    key = fields.String(required=True, metadata={"description": "Store it now. It cannot be read again."})


class ApiKeyListSchema(Schema):
    """The API keys of a user."""

    items = fields.List(fields.Nested(ApiKeySchema), required=True)


class SessionSchema(Schema):
    """A session that has not ended."""

    id = fields.UUID(required=True)
    created_at = fields.AwareDateTime(required=True, format="iso")
    last_used_at = fields.AwareDateTime(
        required=True, format="iso", allow_none=True, metadata={"description": "When its tokens were last refreshed"}
    )
    expires_at = fields.AwareDateTime(
        required=True, format="iso", metadata={"description": "When it ends, unless its tokens are refreshed before"}
    )
    network = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The IPv4 address or the IPv6 network from which the user signed in"},
    )
    agent = fields.String(required=True, allow_none=True, metadata={"description": "The client's User-Agent header"})
    is_current = fields.Boolean(required=True)


class SessionListSchema(Schema):
    """The sessions of a user."""

    items = fields.List(fields.Nested(SessionSchema), required=True)
