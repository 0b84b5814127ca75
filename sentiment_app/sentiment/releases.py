"""The registry of models: released, activated, rolled back, retired. PostgreSQL keeps it, so every host has it.

candidate ──activate──► active ──activate another──► previous ──rollback──► active
│                                                   │
└────────────────────── retire ─────────────────────┘──► retired (reinstated: candidate)
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog
import uuid_utils.compat as uuid
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from sentiment_app.errors import ConflictError, NotFoundError
from sentiment_app.extensions import db, settings, unit_of_work
from sentiment_app.ml.artifact import Artifact, Cache, Manifest, open_artifact, served_digest, sign
from sentiment_app.ml.runtime import ModelError
from sentiment_app.sentiment.models import ModelEvent, ModelRelease

# A model may be this much worse than the active one on the texts that both were judged on (mean macro recall).
METRIC_TOLERANCE = 0.02
PIECE_BYTES = 1024**2

log = structlog.get_logger()


class GateError(ConflictError):
    """A model that may not be activated, and why."""

    kind = "gate"


class StateError(ConflictError):
    """Not from the state in which the model is."""

    kind = "model-state"


def release(artifact: Artifact, by: str) -> str:
    """Sign a model's manifest and store both as a candidate; returns its version.

    Released again, it keeps its state and gets a new signature.

    Raises:
        ModelError: the artifact is not sound.
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
        "artifact": artifact.serving,
        "released_by": by,
    }
    renewed = {name: values[name] for name in ("manifest", "signature", "artifact")}
    statement = insert(ModelRelease).values(values)
    db.session.execute(statement.on_conflict_do_update(index_elements=[ModelRelease.version], set_=renewed))
    _record(event, version, "released", by)


@unit_of_work
def states() -> dict[str, str]:
    """The state of every released version."""
    rows = db.session.execute(select(ModelRelease.version, ModelRelease.state))
    return {row.version: row.state for row in rows}


def active_version() -> str | None:
    """The version that is to be served; None before the first activation."""
    return next((version for version, state in states().items() if state == "active"), None)


@unit_of_work
def fetch(version: str) -> Artifact:
    """A released artifact as the registry has it.

    Raises:
        NotFoundError: no such version was released.
    """
    one = ModelRelease.version == version
    columns = ModelRelease.manifest, ModelRelease.signature, func.length(ModelRelease.artifact)
    row = db.session.execute(select(*columns).where(one)).one_or_none()
    if row is None:
        raise _unknown(version)
    manifest, signature, size = row
    # In pieces, as the driver decodes each while no other thread can run.
    pieces = (func.substring(ModelRelease.artifact, start + 1, PIECE_BYTES) for start in range(0, size, PIECE_BYTES))
    content = b"".join(bytes(db.session.scalars(select(piece).where(one)).one()) for piece in pieces)
    return Artifact(manifest, content, signature)


def fetch_cached(version: str) -> Artifact:
    """The same, its large part from this host's cache where that has the right digest.

    Raises:
        NotFoundError: no such version was released.
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
        raise _unknown(version)
    return row.manifest, row.signature


@unit_of_work
def releases() -> Sequence[ModelRelease]:
    """All releases, the newest first."""
    return db.session.scalars(
        select(ModelRelease).order_by(ModelRelease.released_at.desc(), ModelRelease.version)
    ).all()


@unit_of_work
def get(version: str) -> ModelRelease:
    """One release.

    Raises:
        NotFoundError: no such version was released.
    """
    found = db.session.get(ModelRelease, version, populate_existing=True)
    if found is None:
        raise _unknown(version)
    return found


def record(version: str) -> dict[str, Any]:
    """A release and its manifest together.

    Raises:
        NotFoundError: no such version was released.
    """
    found = get(version)
    return {
        **manifest_of(version),
        "state": found.state,
        "released_at": found.released_at,
        "activated_at": found.activated_at,
    }


def manifest_of(version: str) -> Manifest:
    """What is known of a released model.

    Raises:
        NotFoundError: no such version was released.
    """
    manifest: Manifest = json.loads(_signed_manifest(version)[0])
    return manifest


@unit_of_work
def events(version: str | None = None, limit: int = 100) -> Sequence[ModelEvent]:
    """The audit, of one model or of all, the newest first."""
    chosen = select(ModelEvent).order_by(ModelEvent.id.desc()).limit(limit)
    return db.session.scalars(chosen.where(ModelEvent.version == version) if version else chosen).all()


def verify(version: str) -> Manifest:
    """Check a release as the gate does: signature, digest, golden texts.

    Raises:
        NotFoundError: no such version was released.
        ModelError: naming the check that failed.
    """
    return open_artifact(fetch(version), settings().model_signing_key)[0]


def activate(version: str, by: str, *, allow_worse: bool = False) -> None:
    """Have every process serve a version, once it has passed the gate.

    Raises:
        NotFoundError: no such version was released.
        GateError: it is retired, does not load, is not what was signed, or measured worse than the active one.
    """
    _promote(version, by, "activated", allow_worse=allow_worse)


def rollback(by: str) -> str:
    """Have the previous model served again; returns its version. Done twice, it returns to where it was.

    Raises:
        StateError: there is no previous model.
        GateError: it does not load, or is not what was signed.
    """
    version = next((version for version, state in states().items() if state == "previous"), None)
    if version is None:
        raise StateError("No model was active before this one.")
    _promote(version, by, "rolled back", allow_worse=True, state="previous")
    return version


def sign_anew(old_key: str, by: str) -> list[str]:
    """Replace the signatures made with the key of before by ours: all of them, or none; returns whose.

    Those that are ours already stay, so this may be done again.

    Raises:
        ModelError: a model was signed with neither key.
    """
    return _sign_anew(old_key, by, uuid.uuid7())


@unit_of_work
def _sign_anew(old_key: str, by: str, event: UUID) -> list[str]:
    key, signed = settings().model_signing_key, []
    for one in db.session.scalars(select(ModelRelease).with_for_update()):
        ours = sign(one.manifest, key)
        if hmac.compare_digest(one.signature, ours):
            continue
        if not hmac.compare_digest(one.signature, sign(one.manifest, old_key)):
            raise ModelError(f"{one.version} was signed with neither key; nothing is changed")
        one.signature = ours
        signed.append(one.version)
    for version in signed:
        _record(uuid.uuid5(event, version), version, "released", by, "signed with another key")
    return signed


def _promote(version: str, by: str, action: str, *, allow_worse: bool, state: str | None = None) -> None:
    """Check a version, and have it served.

    The artifact is loaded and tried before the lock is taken, as that takes seconds. The measures are compared under
    the lock, with the model that is active then: a check against a model that was active a moment ago says nothing.
    """
    try:
        _check_state(get(version))
        verified = verify(version)
        _activate(version, by, action, uuid.uuid7(), verified=verified, allow_worse=allow_worse, state=state)
    except ModelError as error:
        _note(uuid.uuid7(), version, "refused", by, str(error))
        raise GateError(f"{version} was not activated: {error}.") from None


@unit_of_work
def _activate(
    version: str,
    by: str,
    action: str,
    event: UUID,
    *,
    verified: Manifest,
    allow_worse: bool = False,
    state: str | None = None,
) -> None:
    _lock_releases()
    if db.session.get(ModelEvent, event):
        return  # a first run, whose answer was lost, has done it
    chosen = db.session.get(ModelRelease, version, populate_existing=True)
    if chosen is None:
        raise _unknown(version)
    _check_state(chosen)
    if chosen.state == "active":
        return
    if state and chosen.state != state:
        raise StateError(f"Another model was activated meanwhile; {version} is no longer the {state} one.")
    if json.loads(chosen.manifest) != verified:
        raise ModelError("it was released again while it was checked; activate it again")
    active = db.session.scalar(select(ModelRelease.manifest).where(ModelRelease.state == "active"))
    if active and not allow_worse:
        _check_measures(verified, json.loads(active))
    # In this order: of either state there is never more than one.
    for old, new in (("previous", "candidate"), ("active", "previous")):
        others = update(ModelRelease).where(ModelRelease.state == old)
        db.session.execute(others.values(state=new), execution_options={"synchronize_session": False})
    chosen.state, chosen.activated_at, chosen.activated_by = "active", func.now(), by
    _record(event, version, action, by)
    log.info("model_activated", model_version=version, by=by, action=action)


def _lock_releases() -> None:
    """Let one unit of work at a time change states of models; each sees what the one before it did."""
    db.session.execute(text("LOCK TABLE model_releases IN SHARE ROW EXCLUSIVE MODE"))


def retire(version: str, by: str) -> None:
    """Withdraw a model: it is neither activated nor answers requests that name it.

    Raises:
        NotFoundError: no such version was released.
        StateError: it is the active one.
    """
    _move(version, by, "retired", "retired", uuid.uuid7())


def reinstate(version: str, by: str) -> None:
    """Make a retired model a candidate again.

    Raises:
        NotFoundError: no such version was released.
    """
    _move(version, by, "candidate", "reinstated", uuid.uuid7())


@unit_of_work
def _move(version: str, by: str, state: str, action: str, event: UUID) -> None:
    _lock_releases()
    chosen = db.session.get(ModelRelease, version, populate_existing=True)
    if chosen is None:
        raise _unknown(version)
    if chosen.state == "active":
        raise StateError(f"{version} is active; activate another one first.")
    if (chosen.state == "retired") == (state == "retired"):
        return
    chosen.state = state
    _record(event, version, action, by)


def note_failure(version: str, host: str, problem: str) -> None:
    """Put into the audit that a host could not load a model."""
    _note(uuid.uuid7(), version, "not loaded", host, problem)


@unit_of_work
def _note(event: UUID, version: str, action: str, by: str, detail: str) -> None:
    _record(event, version, action, by, detail)


def _record(event: UUID, version: str, action: str, by: str, detail: str | None = None) -> None:
    values = {"id": event, "version": version, "action": action, "by": by, "detail": detail}
    db.session.execute(insert(ModelEvent).values(values).on_conflict_do_nothing())


def _check_state(release: ModelRelease) -> None:
    if release.state == "retired":
        raise ModelError("it is retired")


def _check_measures(candidate: Manifest, active: Manifest) -> None:
    ours, theirs = _recalls(candidate), _recalls(active)
    common = ours.keys() & theirs.keys()
    against = candidate["metrics"].get("against", {})
    if common:
        mean, floor = (sum(one[name] for name in common) / len(common) for one in (ours, theirs))
        texts = ", ".join(name for name, _ in sorted(common))
    elif against.get("version") == active["version"]:
        mean, floor = against["macro_recall"], against["its_macro_recall"]
        texts = f"{against['texts']:,} texts that neither learned from"
    elif not theirs:
        return  # nothing is known of the active one either
    else:
        raise ModelError(
            f"it was not measured on any texts that the active {active['version']} was measured on; compare them with "
            "'flask model evaluate --compare' on texts that neither learned from, and --allow-worse (in the API "
            "allow_worse=true) activates it all the same"
        )
    if not mean >= floor - METRIC_TOLERANCE:  # so that NaN is refused
        raise ModelError(
            f"its macro recall on {texts} is {mean:.3f}, that of the active {active['version']} {floor:.3f}; "
            "--allow-worse (in the API allow_worse=true) activates it all the same"
        )


def _recalls(manifest: Manifest) -> Mapping[tuple[str, str], float]:
    """By the source of the texts, and their digest."""
    measured = manifest["metrics"].get("by_source", {})
    return {(name, one["texts_sha256"]): one["macro_recall"] for name, one in measured.items()}


def _unknown(version: str) -> NotFoundError:
    return NotFoundError(f"No model {version!r} was released.")
