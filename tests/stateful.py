"""How tests of state machines run: some hundred steps every day, and as many as STATEFUL_STEPS says in a long run.

A long run is cut into parts, each with a transaction of its own: what one transaction has deleted slows it down.
"""

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

STEPS = 40
DAILY, PART = 240, 2_000
asked = int(os.environ.get("STATEFUL_STEPS") or 0)
PARTS = range(max(1, asked // PART))


def run_machine(machine):
    """Run a RuleBasedStateMachine. The daily run is the same each time: only a change of the code makes it fail."""
    chosen = settings(
        max_examples=(min(asked, PART) or DAILY) // STEPS,
        stateful_step_count=STEPS,
        derandomize=not asked,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if asked else (Phase.generate,),
    )
    run_state_machine_as_test(machine, settings=chosen)
