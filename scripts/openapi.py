"""Prints the OpenAPI document of the service, for linters and generators of clients."""

import os
import secrets
import sys

NAMES = ("JWT_SECRET_KEY", "API_KEY_HASH_KEY", "MODEL_SIGNING_KEY")


def main() -> None:
    """Build the application with settings that connect to nothing."""
    urls = {"DATABASE_URL": "postgresql://nowhere/none", "REDIS_URL": "redis://nowhere"}
    os.environ |= {"ENVIRONMENT": "testing", "LOG_LEVEL": "ERROR", **urls}
    os.environ |= {name: secrets.token_urlsafe(48) for name in NAMES}
    from sentiment_app.app import create_app  # noqa: PLC0415  # it reads the environment

    sys.stdout.write(create_app().test_client().get("/openapi.json").text)


if __name__ == "__main__":
    main()
