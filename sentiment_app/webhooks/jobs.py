"""The RQ job of webhooks. Queued jobs refer to it by name."""

from uuid import UUID

from sentiment_app.webhooks import outbox


def deliver(delivery_id: str) -> None:
    """Attempt a delivery. Harmless if it runs twice, or too early."""
    outbox.attempt(UUID(delivery_id))
