"""Schemas of accounts."""

from typing import Any, ClassVar

from marshmallow import ValidationError, fields, validate, validates_schema

from sentiment_app.users.passwords import MAX_LENGTH, MIN_LENGTH
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
    """8 to 128 characters of any kind."""
    return Text(
        validate=validate.Length(MIN_LENGTH, MAX_LENGTH),
        metadata={"format": "password", "examples": ["correct horse battery staple"]},
        load_only=True,
        **options,
    )


class RegisterSchema(Schema):
    """A new account."""

    username = username(required=True)
    email = email(required=True)
    password = password(required=True)


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
    created_at = fields.AwareDateTime(required=True, format="iso")
    updated_at = fields.AwareDateTime(required=True, format="iso")


class UserPageSchema(Schema):
    """A page of accounts."""

    items = fields.List(fields.Nested(UserSchema), required=True)
    next_cursor = Cursor(required=True, allow_none=True, metadata={"type": ["string", "null"]})


class ProfileChangeSchema(Schema):
    """Changes of the caller's own account."""

    constraints: ClassVar = {"dependentRequired": {"password": ["current_password"]}}

    username = username()
    email = email()
    password = password()
    current_password = Text(
        load_only=True,
        validate=validate.Length(1, MAX_LENGTH),
        metadata={"format": "password", "description": "Required to change the password"},
    )

    @validates_schema
    def _require_current_password(self, data: dict[str, Any], **_: Any) -> None:
        if "password" in data and "current_password" not in data:
            raise ValidationError("The current password is required to change the password.", "current_password")


class UserChangeSchema(Schema):
    """Changes that an administrator makes to an account."""

    is_active = Flag(required=True)
