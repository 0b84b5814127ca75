"""How tests of state machines run: some hundred steps every day, and as many as STATEFUL_STEPS says in a long run."""

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

STEPS = 40
DAILY = 400


def run_machine(machine, daily=DAILY):
    """Run a RuleBasedStateMachine. The daily run is the same each time: only a change of the code makes it fail."""
    asked = os.environ.get("STATEFUL_STEPS")
    steps = int(asked) if asked else daily
    chosen = settings(
        max_examples=max(1, steps // STEPS),
        stateful_step_count=STEPS,
        derandomize=not asked,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if asked else (Phase.generate,),
    )
    run_state_machine_as_test(machine, settings=chosen)
