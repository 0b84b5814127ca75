"""The blueprint of the console, with the views of all its pages."""

from sentiment_app.console import account, models, scoring, sign_in, tasks, team, uploads  # noqa: F401  # they add their views
from sentiment_app.console.pages import blueprint, init_app

__all__ = ["blueprint", "init_app"]
