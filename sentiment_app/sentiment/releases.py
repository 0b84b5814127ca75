"""The registry of models: released, activated, rolled back, retired. PostgreSQL keeps it, so every host has it."""

import json
from collections.abc import Sequence

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from sentiment_app.errors import ConflictError, NotFoundError
from sentiment_app.extensions import db, settings, unit_of_work
from sentiment_app.ml.artifact import Artifact, Manifest, open_artifact, sign
from sentiment_app.ml.runtime import ModelError
from sentiment_app.sentiment.models import ModelRelease

log = structlog.get_logger()


class GateError(ConflictError):
    """A model that may not be activated, and why."""

    kind = "gate"


def release(artifact: Artifact, by: str) -> str:
    """Sign a model's manifest and store both as a candidate; returns its version.

    Released again, it keeps its state and gets a new signature: that is how models outlive a change of the key.

    Raises:
        ModelError: the artifact is not sound.
    """
    key = settings().model_signing_key
    signed = artifact._replace(signature=sign(artifact.manifest, key))
    manifest, _ = open_artifact(signed, key)
    _store(manifest["version"], signed, by)
    return manifest["version"]


@unit_of_work
def _store(version: str, artifact: Artifact, by: str) -> None:
    values = {
        "version": version,
        "manifest": artifact.manifest,
        "signature": artifact.signature,
        "artifact": artifact.serving,
        "released_by": by,
    }
    renewed = {name: values[name] for name in ("manifest", "signature", "artifact")}
    statement = insert(ModelRelease).values(values)
    db.session.execute(statement.on_conflict_do_update(index_elements=[ModelRelease.version], set_=renewed))


@unit_of_work
def active_version() -> str | None:
    """The version that is to be served; None before the first activation."""
    return db.session.scalar(select(ModelRelease.version).where(ModelRelease.state == "active"))


@unit_of_work
def fetch(version: str) -> Artifact:
    """A released artifact.

    Raises:
        NotFoundError: no such version was released.
    """
    columns = ModelRelease.manifest, ModelRelease.artifact, ModelRelease.signature
    row = db.session.execute(select(*columns).where(ModelRelease.version == version)).one_or_none()
    if row is None:
        raise NotFoundError(f"No model {version!r} was released.")
    return Artifact(*row)


@unit_of_work
def releases() -> Sequence[ModelRelease]:
    """All releases, the newest first."""
    return db.session.scalars(
        select(ModelRelease).order_by(ModelRelease.released_at.desc(), ModelRelease.version)
    ).all()


@unit_of_work
def manifest_of(version: str) -> Manifest:
    """What is known of a released model.

    Raises:
        NotFoundError: no such version was released.
    """
    found = db.session.scalar(select(ModelRelease.manifest).where(ModelRelease.version == version))
    if found is None:
        raise NotFoundError(f"No model {version!r} was released.")
    manifest: Manifest = json.loads(found)
    return manifest


def activate(version: str, by: str) -> None:
    """Have every process serve a version, once it has passed the gate.

    Raises:
        NotFoundError: no such version was released.
        GateError: it is retired, or does not load, or is not what was signed.
    """
    try:
        open_artifact(fetch(version), settings().model_signing_key)
    except ModelError as error:
        raise GateError(f"{version} was not activated: {error}.") from None
    _activate(version, by)
    log.info("model_activated", model_version=version, by=by)


@unit_of_work
def _activate(version: str, by: str) -> None:
    chosen = db.session.get(ModelRelease, version, with_for_update=True)
    if chosen is None or chosen.state == "retired":
        raise GateError(f"{version} is retired.")
    if chosen.state == "active":
        return
    db.session.execute(update(ModelRelease).where(ModelRelease.state == "active").values(state="previous"))
    chosen.state, chosen.activated_at, chosen.activated_by = "active", func.now(), by
