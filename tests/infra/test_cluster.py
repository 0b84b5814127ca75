"""Seven hosts: firewalls, TLS, jobs on both workers, and lost hosts that fail no batch."""

import re

import pytest
from conftest import Api, on_testbed, reach

ROWS = 300_000
HOSTS = ("lb", "web1", "web2", "worker1", "worker2", "db", "redis")


@pytest.fixture
def on(state):
    return lambda name: reach(name, state)


@pytest.fixture(scope="module")
def addresses():
    return {line.split()[0]: line.split()[1] for line in on_testbed("status").splitlines()}


def test_second_run_changes_nothing(playbook):
    out = playbook("site", "-e", f"version={playbook.deployed}")
    for name in HOSTS:
        assert re.search(rf"^{name} .*changed=0 .*failed=0", out, re.MULTILINE), out


@pytest.mark.parametrize(
    ("source", "target", "port", "is_open"),
    [
        ("lb", "web1", 8001, True),
        ("lb", "db", 5432, False),
        ("lb", "redis", 6379, False),
        ("web1", "db", 5432, True),
        ("web1", "redis", 6379, True),
        ("web1", "web2", 8001, False),
        ("worker1", "db", 5432, True),
        ("worker1", "redis", 6379, True),
        ("worker1", "web1", 8001, False),
        ("ca1", "web1", 8001, False),
        ("ca1", "db", 5432, False),
        ("ca1", "redis", 6379, False),
        ("ca1", "lb", 443, True),
    ],
)
def test_firewall_admits_only_required_hosts(on, addresses, source, target, port, is_open):
    done = on(source).run(f"timeout 2 bash -c 'exec 3<>/dev/tcp/{addresses[target]}/{port}'")
    assert (done.rc == 0) is is_open


def test_hosts_connect_with_tls(on):
    sql = "SELECT count(*) FILTER (WHERE NOT ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
    plain, all_of_them = (
        on("db").run(f'sudo -u postgres psql -Atc "{sql} WHERE client_addr IS NOT NULL"').stdout.split("|")
    )
    assert int(plain) == 0
    assert int(all_of_them) > 0


@pytest.mark.parametrize("unit", ["sentiment-web@1", "sentiment-worker@1", "sentiment-reconcile"])
def test_services_are_sandboxed(on, unit):
    host = on("web1" if "web" in unit else "worker1")
    line = host.run(f"systemd-analyze security --no-pager {unit}.service | tail -n 1").stdout
    print(line)
    assert float(re.search(r": ([0-9.]+)", line).group(1)) <= 1.5, line


def worker_cpu_seconds(host) -> float:
    """CPU seconds that a host's worker has used."""
    ticks = host.run("awk '{ print $14 + $15 }' /proc/$(systemctl show -P MainPID sentiment-worker@1)/stat").stdout
    return int(ticks) / 100


def test_file_is_scored_by_both_workers(on, api):
    workers = [on("worker1"), on("worker2")]
    before = [worker_cpu_seconds(entry) for entry in workers]
    ended = api.wait(api.upload(ROWS))
    assert (ended["status"], ended["request_counts"]["completed"]) == ("completed", ROWS)
    took = [worker_cpu_seconds(entry) - earlier for entry, earlier in zip(workers, before, strict=True)]
    print(took)
    assert min(took) > sum(took) / 4


def test_deploy_and_rollback_under_load_fail_no_request(playbook, repository, load):
    with load() as during:
        playbook("deploy", "-e", f"version={repository.release('Another release')}")
        playbook("rollback")
    assert during.failed == {}


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("postgresql_owner_password", set()),
        # A process without the new password cannot open more connections, so some requests are answered with 503.
        ("postgresql_password", {"503"}),
    ],
)
def test_postgresql_password_is_rotated_under_load(playbook, load, state, on, secret, shown):
    before = (state / "secrets-cluster" / secret).read_text()
    with load(10) as during:
        playbook("rotate-secrets", "-e", f"secret={secret}")
    assert {kind.split()[0] for kind in during.failed} <= shown
    assert during.result["ok"] > 0.95 * during.result["sent"]
    assert (state / "secrets-cluster" / secret).read_text() != before
    assert on("web1").run("SENTIMENT_OWNER=1 sentiment db current").rc == 0


def test_release_that_fails_on_last_host_is_removed_everywhere(on, playbook, repository):
    before = on("web1").run("readlink /srv/sentiment/current").stdout
    repository.git("checkout", "-q", "--detach", repository.base)
    repository.edit("deploy/nginx/sentiment.conf", "http2 on;", "http2 sideways;")
    out = playbook("deploy", "-e", f"version={repository.commit('Broken')}", check=False)
    assert "site is not valid" in out
    assert {on(name).run("readlink /srv/sentiment/current").stdout for name in HOSTS[:5]} == {before}


def test_batches_complete_after_loss_of_web_host_and_worker(api, address, state):
    task = api.upload(ROWS)
    begun = api.wait(task, lambda shown: shown["request_counts"]["completed"] > 0)
    on_testbed("kill", "web2", "worker2")
    try:
        assert begun["request_counts"]["completed"] < ROWS
        assert api.wait(task)["request_counts"]["completed"] == ROWS
        another = Api(address, state / "root.pem")
        assert another.wait(another.upload(1000))["status"] == "completed"
    finally:
        on_testbed("start", "web2", "worker2")
