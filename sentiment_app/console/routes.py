"""The blueprint of the console, with the views of all its pages."""

from sentiment_app.console import (  # noqa: F401  # they add their views
    account,
    feedback,
    models,
    scoring,
    sign_in,
    tasks,
    team,
    uploads,
)
from sentiment_app.console.pages import blueprint, init_app

__all__ = ["blueprint", "init_app"]
