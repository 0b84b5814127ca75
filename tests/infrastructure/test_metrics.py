"""Metrics that several processes write, also when processes end and start."""

import os
import subprocess
import sys

COUNT = """
import sys
from sentiment_app.infrastructure import metrics
metrics.limiter_fallbacks.inc()
print("counted", flush=True)
sys.stdin.read()
"""
SHOW = """
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
registry = CollectorRegistry()
MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def start_counting_process(folder):
    """Start a process that increments the counter, and runs until its input ends."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    command = [sys.executable, "-c", COUNT]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "counted\n"
    return process


def total(folder):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    shown = subprocess.run([sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, check=True)
    return next(line for line in shown.stdout.splitlines() if line.startswith("sentiment_rate_limiter_fallbacks_total"))


def test_successor_continues_counters_of_dead_process(tmp_path):
    first, second = start_counting_process(tmp_path), start_counting_process(tmp_path)
    first.communicate("")
    third = start_counting_process(tmp_path)
    for process in (second, third):
        process.communicate("")
    assert total(tmp_path) == "sentiment_rate_limiter_fallbacks_total 3.0"
    assert sorted(path.name for path in tmp_path.glob("counter_*")) == ["counter_1.db", "counter_2.db"]
