"""The model that this process serves: looked up in the registry, loaded beside the old one, then switched to."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple, cast

import structlog
from flask import Flask, current_app
from sqlalchemy.exc import SQLAlchemyError

from sentiment_app.errors import UnavailableError
from sentiment_app.ml.artifact import Artifact, Manifest, open_artifact
from sentiment_app.ml.runtime import ModelError, TextScorer

log = structlog.get_logger()


class NoModelError(UnavailableError):
    """No model has been activated yet."""

    kind = "no-model"
    detail = "No model is active on this server yet."


class Served(NamedTuple):
    """A loaded model. An answer takes it once, so that it never mixes two versions."""

    version: str
    scorer: TextScorer
    manifest: Manifest


class Serving:
    """Holds the active model of a process.

    Args:
        active_version: asks the registry which version is active; None for none.
        fetch: gets a version's artifact from the registry.
        key: the key with which released manifests are signed.
        poll_seconds: how often the registry is asked in the background; 0 asks before each use instead.
    """

    def __init__(
        self,
        *,
        active_version: Callable[[], str | None],
        fetch: Callable[[str], Artifact],
        key: str,
        poll_seconds: float,
    ) -> None:
        self._active_version = active_version
        self._fetch = fetch
        self._key = key
        self._poll_seconds = poll_seconds
        self._served: Served | None = None
        self._lock = threading.Lock()
        self._is_following = False
        self.problem: str | None = None

    def start(self, app: Flask) -> None:
        """Load the active model now, and follow the registry from now on."""
        with app.app_context():
            self.refresh()
        self._is_following = self._poll_seconds > 0
        if self._is_following:
            threading.Thread(target=self._follow, args=(app,), name="model-follower", daemon=True).start()

    def current(self) -> Served:
        """The active model.

        Raises:
            NoModelError: there is none.
        """
        if not self._is_following and (self._served is None or not self._poll_seconds):
            self.refresh()
        if self._served is None:
            raise NoModelError
        return self._served

    def refresh(self) -> None:
        """Switch to the registry's active model if it is another one; on any failure go on with the old one."""
        with self._lock:
            try:
                version = self._active_version()
                if version and (self._served is None or self._served.version != version):
                    manifest, scorer = open_artifact(self._fetch(version), self._key)
                    self._served = Served(version, scorer, manifest)
                    log.info("model_switched", model_version=version)
                self.problem = None
            except Exception as error:  # noqa: BLE001  # whatever a model does at loading, the old one serves on
                self._failed(error)

    def check(self) -> str | None:
        """What is wrong with the model: why there is none, or why a newer one is not served."""
        try:
            self.current()
        except NoModelError:
            return self.problem or "none is active"
        return self.problem

    def version(self) -> str | None:
        """The version that is served, if any."""
        return self._served and self._served.version

    def age(self) -> float | None:
        """Seconds since the served model was trained."""
        if self._served is None:
            return None
        created = datetime.fromisoformat(self._served.manifest["created_at"])
        return (datetime.now(UTC) - created).total_seconds()

    def _failed(self, error: Exception) -> None:
        if isinstance(error, ModelError):
            problem = str(error)
        elif isinstance(error, SQLAlchemyError):
            problem = "the registry cannot be reached"
        else:
            problem = f"it does not load: {type(error).__name__}"
        if problem != self.problem:
            log.error("model_not_switched", problem=problem)
        self.problem = problem

    def _follow(self, app: Flask) -> None:
        pause = threading.Event()
        while not pause.wait(self._poll_seconds):
            with app.app_context():
                self.refresh()


def serving() -> Serving:
    """What the running application serves."""
    return cast(Serving, current_app.extensions["serving"])
