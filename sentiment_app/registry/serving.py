"""The models that this process serves. A new model is loaded beside the old model before the process switches."""

import contextlib
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import structlog
from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from sentiment_app.errors import NotFoundError, UnavailableError
from sentiment_app.infrastructure.app_state import AppKey
from sentiment_app.infrastructure.concurrency import ConcurrencyLimit
from sentiment_app.ml.artifact import Artifact, Manifest, open_artifact
from sentiment_app.ml.runtime import ModelError, Scorer, TextScorer

# How many models, besides the active model, are kept because requests named them. Each takes about 20 MB.
MAX_PINNED = 2

log = structlog.get_logger()


class NoModelError(UnavailableError):
    """No model is active."""

    kind = "no-model"
    detail = "No model is active on this server yet. Ask the operator to activate a model."


class UnknownModelError(NotFoundError):
    """A request names a model that is not released, or is retired."""

    kind = "unknown-model"

    def __init__(self, version: str) -> None:
        super().__init__(f"The model {version!r} is not released, or it is retired.", field="model")


class UnusableModelError(UnavailableError):
    """A request names a released model that does not load."""

    kind = "unusable-model"


class ModelsLoadingError(UnavailableError):
    """Too many models are being loaded for requests that name them."""

    kind = "models-loading"
    detail = "Too many models are being loaded. Retry in a few seconds."


class Served(NamedTuple):
    """A loaded model. Each request uses one Served object, so that its answer never mixes two versions."""

    version: str
    scorer: TextScorer
    manifest: Manifest

    @property
    def is_fast(self) -> bool:
        """Whether a text takes microseconds: the model is a table, and not an imported pipeline."""
        return isinstance(self.scorer, Scorer)


class Serving:
    """The models of a process.

    Args:
        states: gets the state of each version from the registry.
        fetch: gets a version's artifact from the registry.
        note_failure: writes to the audit log which version this host could not load, and why.
        key: the key that signs the manifests of releases.
        poll_seconds: how often the registry is asked in the background. 0 asks before each use instead.
    """

    def __init__(
        self,
        *,
        states: Callable[[], dict[str, str]],
        fetch: Callable[[str], Artifact],
        note_failure: Callable[[str, str, str], None],
        key: str,
        poll_seconds: float,
    ) -> None:
        self._states = states
        self._fetch = fetch
        self._note_failure = note_failure
        self._key = key
        self._poll_seconds = poll_seconds
        self._served: Served | None = None
        self._pinned: OrderedDict[str, Served] = OrderedDict()
        self._lock = threading.Lock()  # for the pinned models; never held while a model is loaded
        self._refreshing = threading.Lock()
        self.loading = ConcurrencyLimit(1, ModelsLoadingError, waiting=2)
        self._is_following = False
        self.problem: str | None = None

    def start(self, app: Flask) -> None:
        """Load the active model, and follow the registry from now on."""
        with app.app_context():
            self.refresh()
        self._is_following = self._poll_seconds > 0
        if self._is_following:
            threading.Thread(target=self._follow, args=(app,), name="model-follower", daemon=True).start()

    def current(self) -> Served:
        """The active model.

        Raises:
            NoModelError
        """
        if not self._is_following and (self._served is None or not self._poll_seconds):
            self.refresh()
        if self._served is None:
            raise NoModelError(f"This process serves no model: {self.problem}." if self.problem else "")
        return self._served

    def pinned(self, version: str) -> Served:
        """The model with this version, whether it is active or not.

        Raises:
            UnknownModelError: it is not released, or is retired.
            UnusableModelError: it does not load.
            ModelsLoadingError: too many models are being loaded.
        """
        with contextlib.suppress(NoModelError):  # a named model needs no active model
            served = self.current()
            if served.version == version:
                return served
        found = self._find_pinned(version)
        if found:
            return found
        if not _may_serve(self._states(), version):  # before the limit: unknown names must not keep others waiting
            raise UnknownModelError(version)
        with self.loading.acquire():
            return self._find_pinned(version) or self._pin(self._load_pinned(version))

    def _find_pinned(self, version: str) -> Served | None:
        with self._lock:
            if version in self._pinned:
                self._pinned.move_to_end(version)
            return self._pinned.get(version)

    def _pin(self, served: Served) -> Served:
        with self._lock:
            self._pinned[served.version] = served
            while len(self._pinned) > MAX_PINNED:
                self._pinned.popitem(last=False)
        return served

    def refresh(self) -> None:
        """Switch to the registry's active model if another model is served.

        If the active model does not load, the process keeps serving the old model, unless that model is retired.
        Without an old model it serves the registry's previous model until the active model loads.
        """
        with self._refreshing:
            version, states = None, dict[str, str]()
            try:
                states = self._states()
                with self._lock:
                    for retired in [name for name in self._pinned if not _may_serve(states, name)]:
                        del self._pinned[retired]
                version = next((version for version, state in states.items() if state == "active"), None)
                if version and (self._served is None or self._served.version != version):
                    self._served = self._load(version)
                    log.info("model_switched", model_version=version)
                self.problem = None
            except Exception as error:  # noqa: BLE001  # whatever happens while a model loads, the old model is served
                self._report(version, error)
                is_retired = self._served and states and not _may_serve(states, self._served.version)
                if self._served is None or is_retired:
                    self._served = self._load_previous(states)  # until it is loaded, the old model answers

    def _load_previous(self, states: dict[str, str]) -> Served | None:
        version = next((version for version, state in states.items() if state == "previous"), None)
        previous = None
        if version:
            with contextlib.suppress(Exception):  # only the problem with the active model is reported
                previous = self._load(version)
        log.warning("previous_model_served", model_version=previous and version)
        return previous

    def check(self) -> str | None:
        """Why this process serves no model; None if it serves one."""
        try:
            self.current()
        except NoModelError:
            return self.problem or "no model is active"
        return None

    def check_switch(self) -> str | None:
        """Why this process does not serve the active model; None if it does."""
        return self.problem

    def version(self) -> str | None:
        """The version that this process serves; None if it serves no model."""
        return self._served and self._served.version

    def age(self) -> float | None:
        """Seconds since the served model was trained."""
        if self._served is None:
            return None
        created = datetime.fromisoformat(self._served.manifest["created_at"])
        return (datetime.now(UTC) - created).total_seconds()

    def _load(self, version: str) -> Served:
        # The check of its golden texts also warms it up.
        manifest, scorer = open_artifact(self._fetch(version), self._key, version)
        return Served(version, scorer, manifest)

    def _load_pinned(self, version: str) -> Served:
        try:
            return self._load(version)
        except ModelError as error:
            raise UnusableModelError(f"The model {version!r} does not load: {error}.") from None

    def _report(self, version: str | None, error: Exception) -> None:
        if isinstance(error, ModelError):
            problem = str(error)
        elif isinstance(error, SQLAlchemyError):
            problem = "the registry does not answer"
        else:
            problem = f"the active model does not load: {type(error).__name__}"
        if problem != self.problem:
            log.error("model_not_switched", model_version=version, problem=problem)
            if version:
                with contextlib.suppress(SQLAlchemyError):
                    self._note_failure(version, socket.gethostname(), problem)
        self.problem = problem

    def _follow(self, app: Flask) -> None:
        pause = threading.Event()
        while not pause.wait(self._poll_seconds):
            with app.app_context():
                self.refresh()


SERVING = AppKey[Serving]("serving")


def serving() -> Serving:
    """The models of the current application."""
    return SERVING.get()


def _may_serve(states: dict[str, str], version: str) -> bool:
    return states.get(version, "retired") != "retired"
