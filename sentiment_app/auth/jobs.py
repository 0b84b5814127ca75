"""Work of signing in that can wait for a worker."""

from uuid import UUID

from sentiment_app.extensions import enqueue
from sentiment_app.users import sessions


def tidy_later(user_id: UUID) -> None:
    """Have a user's expired sessions deleted; where Redis is away, the next sign-in has it done."""
    enqueue(forget_expired_sessions, str(user_id))


def forget_expired_sessions(user_id: str) -> int:
    """Delete a user's expired sessions; harmless when run twice."""
    return sessions.forget_expired(UUID(user_id))
