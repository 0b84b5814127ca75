"""The jobs of batch scoring, by the names under which they are queued."""

from uuid import UUID

from sentiment_app.batch import engine, webhooks


def score_chunk(chunk_id: str) -> None:
    """Score a chunk; harmless when run twice."""
    engine.score_chunk(UUID(chunk_id))


def deliver_webhook(delivery_id: str) -> None:
    """Attempt a delivery; harmless when run twice, or too early."""
    webhooks.deliver(UUID(delivery_id))
