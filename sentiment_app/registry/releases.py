"""Model releases in PostgreSQL, from where every host loads them, and the audit log."""

import hmac
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from sentiment_app.audit import service as audit
from sentiment_app.audit.service import Event
from sentiment_app.errors import NotFoundError
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.ml.artifact import Artifact, Cache, Manifest, open_artifact, served_digest, sign
from sentiment_app.ml.runtime import ModelError
from sentiment_app.registry.models import ModelEvent, ModelRelease

# Artifacts are read from the database in pieces of this size.
PIECE_BYTES = 1024**2
# And written in pieces of this size: the driver takes several times their memory, and a statement has a timeout.
SENT_BYTES = 8 * 1024**2


def release(artifact: Artifact, by: str) -> str:
    """Sign the manifest of a model, store both as a candidate, and return its version.

    A model that is released again keeps its state and gets a new signature.

    Raises:
        ModelError: the artifact is not valid.
    """
    key = settings().model_signing_key
    signed = artifact._replace(signature=sign(artifact.manifest, key))
    manifest, _ = open_artifact(signed, key)
    _store(manifest["version"], signed, by, uuid.uuid7())
    return manifest["version"]


@unit_of_work
def _store(version: str, artifact: Artifact, by: str, event: UUID) -> None:
    values = {
        "version": version,
        "manifest": artifact.manifest,
        "signature": artifact.signature,
        "artifact": artifact.serving[:SENT_BYTES],
        "released_by": by,
    }
    statement = insert(ModelRelease).values(values)
    renewed = {name: statement.excluded[name] for name in ("manifest", "signature", "artifact")}
    db.session.execute(statement.on_conflict_do_update(index_elements=[ModelRelease.version], set_=renewed))
    for start in range(SENT_BYTES, len(artifact.serving), SENT_BYTES):
        piece = ModelRelease.artifact.op("||")(artifact.serving[start : start + SENT_BYTES])
        chosen = update(ModelRelease).where(ModelRelease.version == version)
        db.session.execute(chosen.values(artifact=piece), execution_options=UNSYNCHRONIZED)
    record_event(event, version, "released", by)


@unit_of_work
def states() -> dict[str, str]:
    """The state of every released version."""
    rows = db.session.execute(select(ModelRelease.version, ModelRelease.state))
    return {row.version: row.state for row in rows}


def active_version() -> str | None:
    """The active version; None before the first activation."""
    return next((version for version, state in states().items() if state == "active"), None)


@unit_of_work
def fetch(version: str) -> Artifact:
    """The artifact of a release.

    Raises:
        NotFoundError: the version is not released.
    """
    is_wanted = ModelRelease.version == version
    columns = ModelRelease.manifest, ModelRelease.signature, func.length(ModelRelease.artifact)
    row = db.session.execute(select(*columns).where(is_wanted)).one_or_none()
    if row is None:
        raise unknown_version(version)
    manifest, signature, size = row
    # In pieces, because the driver holds the interpreter lock while it decodes a value.
    pieces = (func.substring(ModelRelease.artifact, start + 1, PIECE_BYTES) for start in range(0, size, PIECE_BYTES))
    content = b"".join(bytes(db.session.scalars(select(piece).where(is_wanted)).one()) for piece in pieces)
    return Artifact(manifest, content, signature)


def fetch_cached(version: str) -> Artifact:
    """The artifact of a release, with the model file from this host's cache if its digest is right.

    Raises:
        NotFoundError: the version is not released.
    """
    cache = Cache(settings().model_cache_dir)
    manifest, signature = _signed_manifest(version)
    serving = cache.get(served_digest(json.loads(manifest)))
    if serving is not None:
        return Artifact(manifest, serving, signature)
    fetched = fetch(version)
    cache.put(fetched.serving)
    return fetched


@unit_of_work
def _signed_manifest(version: str) -> tuple[bytes, str]:
    columns = ModelRelease.manifest, ModelRelease.signature
    row = db.session.execute(select(*columns).where(ModelRelease.version == version)).one_or_none()
    if row is None:
        raise unknown_version(version)
    return row.manifest, row.signature


@unit_of_work
def releases() -> Sequence[ModelRelease]:
    """All releases, newest first."""
    return db.session.scalars(
        select(ModelRelease).order_by(ModelRelease.released_at.desc(), ModelRelease.version)
    ).all()


@unit_of_work
def get(version: str) -> ModelRelease:
    """A release.

    Raises:
        NotFoundError: the version is not released.
    """
    found = db.session.get(ModelRelease, version, populate_existing=True)
    if found is None:
        raise unknown_version(version)
    return found


def record(version: str) -> dict[str, Any]:
    """A release with its manifest.

    Raises:
        NotFoundError: the version is not released.
    """
    found = get(version)
    return {
        **manifest_of(version),
        "state": found.state,
        "released_at": found.released_at,
        "activated_at": found.activated_at,
    }


def manifest_of(version: str) -> Manifest:
    """The manifest of a release.

    Raises:
        NotFoundError: the version is not released.
    """
    manifest: Manifest = json.loads(_signed_manifest(version)[0])
    return manifest


@unit_of_work
def events(version: str | None = None, limit: int = 100) -> Sequence[ModelEvent]:
    """The audit log of one model or of all models, newest first."""
    chosen = select(ModelEvent).order_by(ModelEvent.id.desc()).limit(limit)
    return db.session.scalars(chosen.where(ModelEvent.version == version) if version else chosen).all()


def verify(version: str) -> Manifest:
    """Check the signature, the digest and the golden texts of a release, and return its manifest.

    Raises:
        NotFoundError: the version is not released.
        ModelError: a check failed. The message names it.
    """
    return open_artifact(fetch(version), settings().model_signing_key, version)[0]


def resign(old_key: str, by: str) -> list[str]:
    """Replace all signatures made with an old key, or none of them; returns the versions that were signed again.

    Signatures of the current key stay, so this is safe to repeat.

    Raises:
        ModelError: a model was signed with neither key.
    """
    return _resign(old_key, by, uuid.uuid7())


@unit_of_work
def _resign(old_key: str, by: str, event: UUID) -> list[str]:
    key, signed = settings().model_signing_key, []
    for release in db.session.scalars(select(ModelRelease).order_by(ModelRelease.version).with_for_update()):
        signature = sign(release.manifest, key)
        if hmac.compare_digest(release.signature.encode(), signature.encode()):
            continue
        if not hmac.compare_digest(release.signature.encode(), sign(release.manifest, old_key).encode()):
            raise ModelError(f"{release.version} was signed with neither key. Nothing was changed")
        release.signature = signature
        signed.append(release.version)
    for version in signed:
        record_event(uuid.uuid5(event, version), version, "released", by, "signed with another key")
    return signed


def note(version: str, action: str, by: str, detail: str) -> None:
    """Write an entry to the audit log."""
    _note(uuid.uuid7(), version, action, by, detail)


def note_failure(version: str, host: str, problem: str) -> None:
    """Write to the audit log that a host could not load a model."""
    note(version, "not loaded", host, problem)


@unit_of_work
def _note(event: UUID, version: str, action: str, by: str, detail: str) -> None:
    record_event(event, version, action, by, detail)


def record_event(event: UUID, version: str, action: str, by: str, detail: str | None = None) -> None:
    """Write an entry to the audit log, within the caller's unit of work."""
    values = {"id": event, "version": version, "action": action, "by": by, "detail": detail}
    db.session.execute(insert(ModelEvent).values(values).on_conflict_do_nothing())
    audit.record(Event.MODEL_CHANGED, None, f"{version} {action}")


def unknown_version(version: str) -> NotFoundError:
    """The error for a version that is not released."""
    return NotFoundError(f"The model {version!r} is not released. List the released models, and choose one of them.")
