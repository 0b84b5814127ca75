"""Runs stateful tests: some hundred steps in the daily run, and STATEFUL_STEPS steps in a long run.

A long run is divided into parts, each with its own transaction: the rows that a transaction deletes slow it down.
"""

import os
from uuid import UUID

import uuid_utils.compat as uuid
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

STEPS = 40
DAILY, PART = 240, 2_000
asked = int(os.environ.get("STATEFUL_STEPS") or 0)
PARTS = range(max(1, asked // PART))


class CountingIds:
    """Replaces random UUIDs by a counter, so that Hypothesis can replay a failed run."""

    def __init__(self, monkeypatch):
        self.restart()
        for name in ("uuid4", "uuid7"):
            monkeypatch.setattr(uuid, name, self.next)

    def restart(self):
        """Begin another example."""
        self._count = 0

    def next(self):
        """The next id."""
        self._count += 1
        return UUID(int=self._count)


def run_machine(machine):
    """Run a RuleBasedStateMachine. The daily run always has the same steps, so only changed code can make it fail."""
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
