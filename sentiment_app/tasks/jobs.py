"""The RQ job of batch scoring. Queued jobs refer to it by name."""

from uuid import UUID

from sentiment_app.tasks import executor


def score_chunk(chunk_id: str) -> None:
    """Score a chunk. Harmless if it runs twice."""
    executor.score_chunk(UUID(chunk_id))
