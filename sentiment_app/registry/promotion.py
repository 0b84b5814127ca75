"""Promotion: activate a release after the promotion check, roll back, retire, reinstate.

candidate ──activate──► active ──activate another──► previous ──rollback──► active
│                                                   │
└────────────────────── retire ─────────────────────┘──► retired (reinstate: candidate)
"""

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from uuid import UUID

import structlog
import uuid_utils.compat as uuid
from sqlalchemy import func, select, text, update

from sentiment_app.errors import ConflictError
from sentiment_app.infrastructure.database import UNSYNCHRONIZED, db, unit_of_work
from sentiment_app.ml.artifact import Manifest
from sentiment_app.ml.runtime import ModelError
from sentiment_app.registry import releases
from sentiment_app.registry.models import ModelEvent, ModelRelease

# How much worse a model may be than the active model on the texts that both were measured on. (Macro recall; sources
# with more texts count more.)
METRIC_TOLERANCE = 0.02
# How many more sentences of the behavioural suite it may score wrongly, as a share.
BEHAVIOUR_TOLERANCE = 0.05

log = structlog.get_logger()


class PromotionError(ConflictError):
    """The promotion check refused to activate a model."""

    kind = "promotion-refused"


class ModelStateError(ConflictError):
    """The model's state does not allow this."""

    kind = "model-state"


def activate(version: str, by: str, *, allow_worse: bool = False) -> None:
    """Activate a version after the promotion check. Every process serves it within MODEL_POLL_SECONDS.

    Raises:
        NotFoundError: the version is not released.
        PromotionError: it is retired, does not load, has no valid signature, or is worse than the active model.
    """
    _promote(version, by, "activated", allow_worse=allow_worse)


def rollback(by: str) -> str:
    """Activate the previous model, and return its version. A second rollback undoes the first.

    Raises:
        ModelStateError: there is no previous model.
        PromotionError: the previous model does not load, or has no valid signature.
    """
    version = next((version for version, state in releases.states().items() if state == "previous"), None)
    if version is None:
        raise ModelStateError("There is no previous model to roll back to.")
    _promote(version, by, "rolled back", allow_worse=True, state="previous")
    return version


def _promote(version: str, by: str, action: str, *, allow_worse: bool, state: str | None = None) -> None:
    """Check a version, and activate it.

    The artifact is loaded and tested before the lock is taken, because that takes seconds. The metrics are compared
    under the lock, with the model that is active then: another model may have been activated meanwhile.
    """
    try:
        _check_state(releases.get(version))
        verified = releases.verify(version)
        _activate(version, by, action, uuid.uuid7(), verified=verified, allow_worse=allow_worse, state=state)
    except ModelError as error:
        releases.note(version, "refused", by, str(error))
        raise PromotionError(f"The model {version} was not activated: {error}.") from None


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
        return  # an earlier attempt was committed, but its answer was lost
    chosen = db.session.get(ModelRelease, version, populate_existing=True)
    if chosen is None:
        raise releases.unknown_version(version)
    _check_state(chosen)
    if chosen.state == "active":
        return
    if state and chosen.state != state:
        raise ModelStateError(f"Another model was activated meanwhile. {version} is no longer the {state} model.")
    if json.loads(chosen.manifest) != verified:
        raise ModelError("it was released again during the check. Activate it again")
    active = db.session.scalar(select(ModelRelease.manifest).where(ModelRelease.state == "active"))
    if active and not allow_worse:
        _check_metrics(verified, json.loads(active))
    # In this order, there is never more than one active and one previous model.
    for old, new in (("previous", "candidate"), ("active", "previous")):
        others = update(ModelRelease).where(ModelRelease.state == old)
        db.session.execute(others.values(state=new), execution_options=UNSYNCHRONIZED)
    chosen.state, chosen.activated_at, chosen.activated_by = "active", func.now(), by
    releases.record_event(event, version, action, by)
    log.info("model_activated", model_version=version, by=by, action=action)


def _lock_releases() -> None:
    """Let only one transaction at a time change the states of models. Each transaction sees all earlier changes."""
    db.session.execute(text("LOCK TABLE model_releases IN SHARE ROW EXCLUSIVE MODE"))


def retire(version: str, by: str) -> None:
    """Retire a model: it can no longer be activated, and requests cannot name it.

    Raises:
        NotFoundError: the version is not released.
        ModelStateError: it is active.
    """
    _move(version, by, "retired", "retired", uuid.uuid7())


def reinstate(version: str, by: str) -> None:
    """Make a retired model a candidate again.

    Raises:
        NotFoundError: the version is not released.
    """
    _move(version, by, "candidate", "reinstated", uuid.uuid7())


@unit_of_work
def _move(version: str, by: str, state: str, action: str, event: UUID) -> None:
    _lock_releases()
    chosen = db.session.get(ModelRelease, version, populate_existing=True)
    if chosen is None:
        raise releases.unknown_version(version)
    if chosen.state == "active":
        raise ModelStateError(f"{version} is active. Activate another model before you retire it.")
    if (chosen.state == "retired") == (state == "retired"):
        return
    chosen.state = state
    releases.record_event(event, version, action, by)


def _check_state(release: ModelRelease) -> None:
    if release.state == "retired":
        raise ModelError("it is retired")


class Comparison(NamedTuple):
    """Texts that two models were measured on, and the macro recall of the candidate and of the active model."""

    texts: str
    candidate: float
    active: float

    @property
    def is_passed(self) -> bool:
        """Whether the candidate is good enough."""
        return self.candidate >= self.active - METRIC_TOLERANCE  # written so that NaN is refused


def compare(version: str) -> list[Comparison]:
    """Compare a version with the active model as the promotion check does; empty if they have no texts in common.

    Raises:
        NotFoundError: the version is not released.
    """
    active = releases.active_version()
    if active in (None, version):
        return []
    return list(_compare(releases.manifest_of(version), releases.manifest_of(active)))


def _check_metrics(candidate: Manifest, active: Manifest) -> None:
    """Compare two models on every set of texts that both were measured on."""
    comparisons = list(_compare(candidate, active))
    if not comparisons and _recalls(active):  # otherwise the active model was not measured either
        raise ModelError(
            f"it has no metrics on the texts of the active model {active['version']}. Compare both models with "
            "'sentiment model evaluate --compare', on texts that neither model was trained on. To activate it "
            "nevertheless, use --allow-worse (in the API allow_worse=true)"
        )
    for comparison in comparisons:
        if not comparison.is_passed:
            raise ModelError(
                f"its macro recall on {comparison.texts} is {comparison.candidate:.3f}, and the active model "
                f"{active['version']} has {comparison.active:.3f}. To activate it nevertheless, use --allow-worse (in "
                "the API allow_worse=true)"
            )
    ours, theirs = _failure_rate(candidate), _failure_rate(active)
    if ours is not None and theirs is not None and ours > theirs + BEHAVIOUR_TOLERANCE:
        raise ModelError(
            f"it fails on {ours:.1%} of the behavioural suite, and the active model {active['version']} fails on "
            f"{theirs:.1%}. To activate it nevertheless, use --allow-worse (in the API allow_worse=true)"
        )


def _failure_rate(manifest: Manifest) -> float | None:
    """The share of the sentences of the behavioural suite that a model scored wrongly."""
    kinds = manifest["metrics"].get("behaviour", [])
    sentences = sum(kind["sentences"] for kind in kinds)
    return sum(kind["failures"] for kind in kinds) / sentences if sentences else None


def _compare(candidate: Manifest, active: Manifest) -> Iterator[Comparison]:
    ours, theirs = _recalls(candidate), _recalls(active)
    common = sorted(ours.keys() & theirs.keys())
    weights = {key: candidate["metrics"]["by_source"][key[0]]["texts"] for key in common}
    if sum(weights.values()):
        mean, floor = (
            sum(recalls[key] * weight for key, weight in weights.items()) / sum(weights.values())
            for recalls in (ours, theirs)
        )
        yield Comparison(", ".join(name for name, _ in common), mean, floor)
    against = candidate["metrics"].get("against", {})
    if against.get("version") == active["version"]:
        texts = f"{against['texts']:,} texts that neither model was trained on"
        yield Comparison(texts, against["macro_recall"], against["its_macro_recall"])


def _recalls(manifest: Manifest) -> Mapping[tuple[str, str], float]:
    """Macro recall by the source of the texts and their digest."""
    measured = manifest["metrics"].get("by_source", {})
    return {(name, source["texts_sha256"]): source["macro_recall"] for name, source in measured.items()}
