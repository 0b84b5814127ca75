"""Alert rules fire when they should, and alerts, the dashboard and the runbook name metrics that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy/alerts.yml"
DASHBOARD = ROOT / "deploy/grafana/sentiment.json"


@pytest.mark.parametrize("name", ["alerts.yml", "alerts_week.yml"])
def test_alerts_fire_when_they_should(name, tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    tests = (Path(__file__).parent / name).read_text().replace("[ALERTS]", f"[{ALERTS}]")
    (tmp_path / name).write_text(tests)
    done = subprocess.run([promtool, "test", "rules", tmp_path / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def existing(client, as_ada):
    """The names of all samples that an instance exposes."""
    client.post("/api/v1/sentiment/analyze", json={"text": "I love it"}, headers=as_ada)
    families = text_string_to_metric_families(scrape(client))
    return {sample.name for family in families for sample in family.samples} | {"sentiment_task_rows"}


def scrape(client):
    address = SimpleNamespace(getsockname=lambda: ("127.0.0.1", 9464))
    answer = client.get("/metrics", environ_overrides={"gunicorn.socket": address})
    assert answer.status_code == 200
    return answer.text


def names(text):
    return set(re.findall(r"\bsentiment_[a-z_]+", text))


def test_alerts_use_existing_metrics(existing):
    used = names(ALERTS.read_text())
    assert "sentiment_queue_oldest_wait_seconds" in used
    assert used <= existing


def test_dashboard_uses_existing_metrics(existing):
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(expressions) > 20
    assert names("\n".join(expressions)) <= existing


def test_dashboard_shows_every_metric(existing):
    def family(name):
        return re.sub("_(bucket|sum|count|created|total)$", "", name)

    shown = {family(name) for name in names(DASHBOARD.read_text())}
    assert {family(name) for name in existing if name.startswith("sentiment_")} <= shown
