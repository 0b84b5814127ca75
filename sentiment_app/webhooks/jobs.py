"""The job of webhooks, by the name under which it is queued."""

from uuid import UUID

from sentiment_app.webhooks import outbox


def deliver(delivery_id: str) -> None:
    """Attempt a delivery. Harmless if it runs twice, or too early."""
    outbox.attempt(UUID(delivery_id))
