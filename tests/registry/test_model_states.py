"""Stateful test of the model registry: random actions of operators, two serving processes, and corrupt artifacts."""

import json

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import delete, select, update
from stateful import PARTS, run_machine

from sentiment_app.errors import NotFoundError
from sentiment_app.infrastructure.app_state import settings
from sentiment_app.infrastructure.database import db
from sentiment_app.ml.artifact import Artifact
from sentiment_app.registry import promotion, releases
from sentiment_app.registry.models import ModelEvent, ModelRelease
from sentiment_app.registry.serving import NoModelError, Serving, UnknownModelError, UnusableModelError

VERSIONS = st.sampled_from(["m1", "m2", "m3", "m4"])
RECALLS = {"m1": 0.70, "m2": 0.71, "m3": 0.80, "m4": 0.90}
PROCESSES = st.integers(0, 1)
REFUSALS = (promotion.PromotionError, promotion.ModelStateError, NotFoundError)


class Models(RuleBasedStateMachine):
    """The registry as operators use it, and two processes that follow it at their own pace."""

    artifact = None

    def __init__(self):
        super().__init__()
        for table in (ModelEvent, ModelRelease):
            db.session.execute(delete(table))
        db.session.commit()
        self.processes = [self.start() for _ in range(2)]
        self.refreshed = [dict[str, str]()] * 2
        self.corrupted = set()

    @staticmethod
    def start():
        return Serving(
            states=releases.states,
            fetch=releases.fetch,
            note_failure=releases.note_failure,
            key=settings().model_signing_key,
            poll_seconds=3600,
        )

    @rule(version=VERSIONS)
    def release(self, version):
        manifest = json.loads(self.artifact.manifest) | {"version": version}
        manifest["metrics"] = {
            "by_source": {"tweets": {"macro_recall": RECALLS[version], "texts_sha256": "x", "texts": 1000}}
        }
        releases.release(Artifact(json.dumps(manifest).encode(), self.artifact.serving), by="tests")
        self.corrupted.discard(version)

    @rule(version=VERSIONS, allow_worse=st.booleans())
    def activate(self, version, allow_worse):
        before = releases.states()
        active = next((name for name, state in before.items() if state == "active"), None)
        is_worse = active and RECALLS[version] < RECALLS[active] - promotion.METRIC_TOLERANCE
        is_fit = before.get(version, "retired") != "retired" and version not in self.corrupted
        try:
            promotion.activate(version, by="tests", allow_worse=allow_worse)
        except REFUSALS:
            assert releases.states() == before
            assert not is_fit or (is_worse and not allow_worse)
            return
        assert is_fit
        assert allow_worse or not is_worse
        after = releases.states()
        assert after[version] == "active"
        if active and active != version:
            assert after[active] == "previous"

    @rule(version=VERSIONS, better=VERSIONS)
    def activate_while_another_is_activated(self, version, better):
        """Another model is activated between the check of a model and the switch to it."""
        verify = releases.verify

        def verify_and_lose(name):
            releases.verify = verify
            manifest = verify(name)
            self.activate(better, True)
            return manifest

        releases.verify = verify_and_lose
        try:
            promotion.activate(version, by="tests")
        except REFUSALS:
            return
        finally:
            releases.verify = verify
        previous = next((name for name, state in releases.states().items() if state == "previous"), version)
        assert RECALLS[version] >= RECALLS[previous] - promotion.METRIC_TOLERANCE or previous != better

    @rule()
    def roll_back(self):
        before = releases.states()
        previous = next((name for name, state in before.items() if state == "previous"), None)
        try:
            version = promotion.rollback(by="tests")
        except REFUSALS:
            assert releases.states() == before
            assert previous is None or previous in self.corrupted
            return
        assert (version, releases.states()[version]) == (previous, "active")

    @rule(version=VERSIONS)
    def retire(self, version):
        before = releases.states()
        try:
            promotion.retire(version, by="tests")
        except REFUSALS:
            assert before.get(version, "active") == "active"

    @rule(version=VERSIONS)
    def reinstate(self, version):
        before = releases.states()
        try:
            promotion.reinstate(version, by="tests")
        except REFUSALS:
            assert before.get(version, "active") == "active"

    @rule(version=VERSIONS)
    def corrupt(self, version):
        corrupted = update(ModelRelease).where(ModelRelease.version == version).values(artifact=b"rotten")
        db.session.execute(corrupted)
        db.session.commit()
        self.corrupted.add(version)

    @rule(process=PROCESSES)
    def poll(self, process):
        self.processes[process].refresh()
        self.refreshed[process] = releases.states()

    @rule(process=PROCESSES)
    def restart(self, process):
        self.processes[process] = self.start()
        self.poll(process)

    @rule(process=PROCESSES, version=VERSIONS)
    def request_by_name(self, process, version):
        """A request that names a model."""
        states = releases.states()
        if self.processes[process].version() is None:  # it reads the registry first
            self.refreshed[process] = states
        try:
            served = self.processes[process].pinned(version)
        except UnknownModelError:
            assert states.get(version, "retired") == "retired"
        except (UnusableModelError, NoModelError):
            pass
        else:
            assert served.version == version
            known = self.refreshed[process]  # a retired model is served until the next poll
            assert states.get(version, "retired") != "retired" or known.get(version, "retired") != "retired"

    @invariant()
    def one_model_is_active_and_one_is_previous_at_most(self):
        states = list(releases.states().values())
        assert states.count("active") <= 1
        assert states.count("previous") <= 1

    @invariant()
    def no_process_serves_a_model_that_was_retired_when_it_polled(self):
        for process, states in zip(self.processes, self.refreshed, strict=True):
            served = process.version()
            if states:
                assert served is None or states[served] != "retired"
                active = next((name for name, state in states.items() if state == "active"), None)
                assert served == active or process.problem

    @invariant()
    def the_audit_agrees_with_the_states(self):
        activated = select(ModelEvent.version).where(ModelEvent.action.in_(("activated", "rolled back")))
        newest = db.session.scalars(activated.order_by(ModelEvent.at.desc(), ModelEvent.id.desc()).limit(1)).first()
        assert newest == releases.active_version()


@pytest.fixture
def artifact(app, model):
    assert releases.states()  # the test deletes these models, and the rollback restores them
    return model[0]


@pytest.mark.no_cover
@pytest.mark.parametrize("part", PARTS)
def test_models_keep_invariants_under_random_actions(part, artifact):
    run_machine(type("ModelsOfOneRegistry", (Models,), {"artifact": artifact}))
