"""State that lives as long as the application, reached through typed keys.

A module that owns such an object declares its key: `SERVING = AppKey[Serving]("serving")`. `app.create_app` sets the
object, and all other code reads it with `SERVING.get()`. Two applications in one process do not share these objects.
The idea comes from aiohttp's `web.AppKey`.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from flask import Flask, current_app

from sentiment_app.config import Settings

T = TypeVar("T")


class AppKey(Generic[T]):
    """Names an object of type T that an application holds."""

    def __init__(self, name: str) -> None:
        self._name = f"sentiment_app.{name}"

    def set(self, app: Flask, value: T) -> T:
        """Store the object in an application, and return it."""
        app.extensions[self._name] = value
        return value

    def get(self, app: Flask | None = None) -> T:
        """The object of the given application, or else of the current application.

        Raises:
            KeyError: the application has no such object.
        """
        extensions: dict[str, Any] = (app or current_app).extensions
        return cast(T, extensions[self._name])


SETTINGS = AppKey[Settings]("settings")
# Loads the active model. Each process calls it before its first request or job.
START = AppKey[Callable[[], None]]("start")


def settings() -> Settings:
    """The settings of the current application."""
    return SETTINGS.get()
