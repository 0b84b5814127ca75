"""Parts of the host die under load: requests do not fail, and no acknowledged row is lost."""

import time

import pytest
from conftest import LANE, main_process, on_testbed


def count_lost_rows(host, ids) -> int:
    """The number of acknowledged rows that are not in the database."""
    acknowledged = ",".join(ids.read_text().split())
    known = "SELECT id FROM sentiment_requests"
    sql = f"SELECT count(*) FROM unnest('{{{acknowledged}}}'::uuid[]) AS id WHERE id NOT IN ({known})"
    host.run("cat > /tmp/lost.sql <<'END'\n" + sql + "\nEND")
    return int(host.run("sudo -u postgres psql -d sentiment -At -f /tmp/lost.sql").stdout)


def count_stored_rows(host) -> int:
    """The number of rows that the account of the load has stored."""
    sql = "SELECT count(*) FROM sentiment_requests JOIN users ON users.id = user_id WHERE username = 'load'"
    return int(host.run(f'sudo -u postgres psql -d sentiment -Atc "{sql}"').stdout)


@pytest.mark.ci
def test_killed_processes_fail_no_request_and_store_no_row_twice(host, load):
    before = count_stored_rows(host)
    with load() as during:
        for _ in range(3):
            host.run(f"kill -9 {main_process(host, 'sentiment-web@1.service')}")
            main_process(host, "sentiment-web@1.service")  # one instance at a time, so that the other instance answers
            host.run(f"pkill -9 -o -P {main_process(host, 'sentiment-web@2.service')}")
            time.sleep(2)
    assert during.failed == {}
    assert count_stored_rows(host) - before == during.result["ok"]


def test_postgresql_restart_fails_no_request(host, load):
    with load() as during:
        host.run("systemctl restart postgresql@17-main.service")
    assert during.failed == {}


def test_postgresql_crash_fails_no_request(host, load):
    with load() as during:
        host.run("kill -9 $(head -n 1 /var/lib/postgresql/17/main/postmaster.pid)")
        time.sleep(8)
    assert during.failed == {}


def test_valkey_outage_of_a_minute_fails_no_request(host, load):
    with load(10) as during:
        host.run("systemctl stop valkey-server.service")
        time.sleep(60)
        host.run("systemctl start valkey-server.service")
    assert during.failed == {}


@pytest.mark.ci
def test_host_recovers_without_loss_after_power_cut(host, load, address):
    with load() as during:
        time.sleep(3)
        on_testbed("kill", LANE.name)
        on_testbed("start", LANE.name)
        time.sleep(10)
    assert during.result["ok"] > 0
    assert count_lost_rows(host, during.ids) == 0
    assert host.run("systemctl --failed --no-legend --plain").stdout == ""
    with load() as after:
        time.sleep(2)
    assert after.failed == {}
