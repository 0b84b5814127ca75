"""The models that this process serves: looked up in the registry, loaded beside the old one, then switched to."""

import contextlib
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple, cast

import structlog
from flask import Flask, current_app
from sqlalchemy.exc import SQLAlchemyError

from sentiment_app.errors import NotFoundError, UnavailableError
from sentiment_app.ml.artifact import Artifact, Manifest, open_artifact
from sentiment_app.ml.runtime import ModelError, TextScorer
from sentiment_app.turnstile import Turnstile

# Models that requests asked for by name, beside the active one: each takes some 20 MB.
PINNED = 2

log = structlog.get_logger()


class NoModelError(UnavailableError):
    """No model has been activated yet."""

    kind = "no-model"
    detail = "No model is active on this server yet."


class UnknownModelError(NotFoundError):
    """A request names a model that is not released, or is retired."""

    kind = "unknown-model"

    def __init__(self, version: str, why: str) -> None:
        detail = f"The model {version!r} {why}."
        super().__init__(detail, [{"in": "body", "pointer": "/model", "detail": detail}])


class UnusableModelError(UnavailableError):
    """A request names a released model that does not load here."""

    kind = "unusable-model"


class BusyError(UnavailableError):
    """Others are having models loaded."""

    kind = "models-loading"
    detail = "Models that requests named are being loaded; ask again in a moment."


class Served(NamedTuple):
    """A loaded model. An answer takes it once, so that it never mixes two versions."""

    version: str
    scorer: TextScorer
    manifest: Manifest


class Serving:
    """Holds the models of a process.

    Args:
        states: asks the registry for the state of each version.
        fetch: gets a version's artifact from the registry.
        note_failure: puts into the audit which version this host could not load, and why.
        key: the key with which released manifests are signed.
        poll_seconds: how often the registry is asked in the background; 0 asks before each use instead.
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
        self._lock = threading.Lock()  # of the pinned ones; never held while something is loaded
        self._refreshing = threading.Lock()
        self.loading = Turnstile(1, 2, BusyError)
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
            raise NoModelError(f"No model is served here: {self.problem}." if self.problem else "")
        return self._served

    def pinned(self, version: str) -> Served:
        """The model of that version, whether it is active or not.

        Raises:
            UnknownModelError: it is not released, or retired.
            UnusableModelError: it does not load.
            BusyError: too many are being loaded.
        """
        with contextlib.suppress(NoModelError):  # a named model needs no active model
            served = self.current()
            if served.version == version:
                return served
        found = self._take_pinned(version)
        if found:
            return found
        if not _may_serve(self._states(), version):  # before the turn: unknown names must not keep others waiting
            raise UnknownModelError(version, "is not released here")
        with self.loading.turn():  # a model that is loaded already waits for nobody
            return self._take_pinned(version) or self._pin(self._load_pinned(version))

    def _take_pinned(self, version: str) -> Served | None:
        with self._lock:
            if version in self._pinned:
                self._pinned.move_to_end(version)
            return self._pinned.get(version)

    def _pin(self, served: Served) -> Served:
        with self._lock:
            self._pinned[served.version] = served
            while len(self._pinned) > PINNED:
                self._pinned.popitem(last=False)
        return served

    def refresh(self) -> None:
        """Switch to the registry's active model if another model is served; on any failure go on with the old model.

        Unless the old model is retired. A process that has no model to go on with serves the registry's previous model
        until the active one loads. If that fails too, it serves none.
        """
        with self._refreshing:
            version, states = None, dict[str, str]()
            try:
                states = self._states()
                with self._lock:
                    for gone in [one for one in self._pinned if not _may_serve(states, one)]:
                        del self._pinned[gone]
                version = next((version for version, state in states.items() if state == "active"), None)
                if version and (self._served is None or self._served.version != version):
                    self._served = self._load(version)
                    log.info("model_switched", model_version=version)
                self.problem = None
            except Exception as error:  # noqa: BLE001  # whatever a model does at loading, the old one serves on
                self._failed(version, error)
                is_retired = self._served and states and not _may_serve(states, self._served.version)
                if self._served is None or is_retired:
                    self._served = self._load_previous(states)  # loaded first: until then the old model answers

    def _load_previous(self, states: dict[str, str]) -> Served | None:
        version = next((version for version, state in states.items() if state == "previous"), None)
        previous = None
        if version:
            with contextlib.suppress(Exception):  # what is wrong with the active model is what counts
                previous = self._load(version)
        log.warning("previous_model_served", model_version=previous and version)
        return previous

    def check(self) -> str | None:
        """Why no model is served."""
        try:
            self.current()
        except NoModelError:
            return self.problem or "none is active"
        return None

    def check_switch(self) -> str | None:
        """Why the registry's active model is not the one that is served."""
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

    def _load(self, version: str) -> Served:
        manifest, scorer = open_artifact(self._fetch(version), self._key)  # its golden texts have warmed it up
        return Served(version, scorer, manifest)

    def _load_pinned(self, version: str) -> Served:
        try:
            return self._load(version)
        except ModelError as error:
            raise UnusableModelError(f"The model {version!r} cannot be used here: {error}") from None

    def _failed(self, version: str | None, error: Exception) -> None:
        if isinstance(error, ModelError):
            problem = str(error)
        elif isinstance(error, SQLAlchemyError):
            problem = "the registry cannot be reached"
        else:
            problem = f"it does not load: {type(error).__name__}"
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


def serving() -> Serving:
    """What the running application serves."""
    return cast(Serving, current_app.extensions["serving"])


def _may_serve(states: dict[str, str], version: str) -> bool:
    return states.get(version, "retired") != "retired"
