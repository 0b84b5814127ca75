"""Alert rules fire when they should and reach somebody, and the dashboard and the rules name metrics that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy/alerts.yml"
PROMETHEUS, ALERTMANAGER = ROOT / "deploy/prometheus.yml", ROOT / "deploy/alertmanager.yml"
BLACKBOX = ROOT / "deploy/blackbox.yml"
DASHBOARD = ROOT / "deploy/grafana/sentiment.json"


@pytest.mark.parametrize("name", ["alerts.yml", "alerts_week.yml"])
def test_alerts_fire_when_they_should(name, tmp_path):
    tests = (Path(__file__).parent / name).read_text().replace("[ALERTS]", f"[{ALERTS}]")
    (tmp_path / name).write_text(tests)
    check("promtool", "prometheus", "test", "rules", tmp_path / name)


def check(tool, package, *arguments):
    """Runs a tool, which must find nothing, and returns its output."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed: apt-get install {package}")
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules():
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def test_every_alert_has_a_unit_test():
    tests = "".join((Path(__file__).parent / name).read_text() for name in ("alerts.yml", "alerts_week.yml"))
    assert [rule["alert"] for rule in rules() if f'alertname="{rule["alert"]}"' not in tests] == []


def test_configuration_of_prometheus_is_valid():
    check("promtool", "prometheus", "check", "config", PROMETHEUS)


def test_rules_name_jobs_that_are_scraped():
    scraped = {job["job_name"] for job in yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]}
    assert set(re.findall(r'\bjob="([^"]+)"', ALERTS.read_text())) <= scraped


def test_configuration_of_the_blackbox_exporter_is_valid():
    check("prometheus-blackbox-exporter", "prometheus-blackbox-exporter", "--config.check", f"--config.file={BLACKBOX}")


def test_probes_use_modules_that_exist():
    jobs = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]
    used = {module for job in jobs for module in job.get("params", {}).get("module", [])}
    assert used == yaml.safe_load(BLACKBOX.read_text())["modules"].keys()


def test_configuration_of_alertmanager_is_valid():
    check("amtool", "prometheus-alertmanager", "check-config", ALERTMANAGER)


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=Watchdog", "severity=none"], "dead-mans-switch"),
        (["alertname=UnitNotActive", "severity=page"], "on-call"),
        (["alertname=TimerMissed", "severity=ticket"], "operators"),
        (["alertname=Unknown"], "operators"),
    ],
)
def test_alert_reaches_its_receiver(labels, receiver):
    config = f"--config.file={ALERTMANAGER}"
    check(
        "amtool",
        "prometheus-alertmanager",
        "config",
        "routes",
        "test",
        config,
        f"--verify.receivers={receiver}",
        *labels,
    )


def test_every_alert_has_a_severity_that_is_routed():
    assert {rule["labels"]["severity"] for rule in rules() if rule["alert"] != "Watchdog"} == {"page", "ticket"}


def test_sign_of_life_is_sent_every_minute():
    (route,) = [
        r for r in yaml.safe_load(ALERTMANAGER.read_text())["route"]["routes"] if r["receiver"] == "dead-mans-switch"
    ]
    assert route["repeat_interval"] == route["group_interval"] == "1m"
    (watchdog,) = [rule for rule in rules() if rule["alert"] == "Watchdog"]
    assert watchdog["expr"] == "vector(1)"
    assert "for" not in watchdog


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
