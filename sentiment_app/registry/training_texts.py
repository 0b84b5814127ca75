"""Where training gets the feedback of users from. A higher layer stores it, and `app.create_app` sets this key."""

from collections.abc import Callable, Iterable

from sentiment_app.infrastructure.app_state import AppKey

# Reads the text and the label of all feedback, newest first.
FEEDBACK = AppKey[Callable[[], Iterable[tuple[str, str]]]]("feedback")
