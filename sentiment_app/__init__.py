"""A self-hosted sentiment-scoring service. Compose it with `sentiment_app.app.create_app`."""

__version__ = "0.1.0"
