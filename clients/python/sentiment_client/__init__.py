"""A client of the sentiment-scoring service."""

from sentiment_client.async_client import AsyncClient, AsyncTask
from sentiment_client.client import Client, Task
from sentiment_client.errors import (
    ApiError,
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServiceUnreachableError,
    TaskFailedError,
    UnavailableError,
)
from sentiment_client.types import Analysis, FieldError, Progress, Row, Scores
from sentiment_client.webhooks import WebhookError, verify_webhook

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "ApiError",
    "AsyncClient",
    "AsyncTask",
    "AuthenticationError",
    "Client",
    "ConflictError",
    "FieldError",
    "InvalidRequestError",
    "NotFoundError",
    "PermissionDeniedError",
    "Progress",
    "RateLimitedError",
    "Row",
    "Scores",
    "ServiceUnreachableError",
    "Task",
    "TaskFailedError",
    "UnavailableError",
    "WebhookError",
    "verify_webhook",
]
