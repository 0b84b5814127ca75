"""Schemas of the erasure of an account."""

from sentiment_app.users.schemas import current_password
from sentiment_app.web.schemas import Schema


class ErasureSchema(Schema):
    """The confirmation that the caller wants to erase the account."""

    current_password = current_password("Your password", required=True)
