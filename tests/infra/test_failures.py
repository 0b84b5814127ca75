"""What callers notice when a part of the host dies under load: nothing that was acknowledged is lost."""

import time

import pytest
from conftest import LANE, main_process, on_testbed


def lost(host, ids) -> int:
    """How many acknowledged rows are not in the database."""
    acknowledged = ",".join(ids.read_text().split())
    known = "SELECT id FROM sentiment_requests"
    sql = f"SELECT count(*) FROM unnest('{{{acknowledged}}}'::uuid[]) AS id WHERE id NOT IN ({known})"
    host.run("cat > /tmp/lost.sql <<'END'\n" + sql + "\nEND")
    return int(host.run("sudo -u postgres psql -d sentiment -At -f /tmp/lost.sql").stdout)


def stored(host) -> int:
    """How many rows the account of the load has."""
    sql = "SELECT count(*) FROM sentiment_requests JOIN users ON users.id = user_id WHERE username = 'load'"
    return int(host.run(f'sudo -u postgres psql -d sentiment -Atc "{sql}"').stdout)


@pytest.mark.everyday
def test_killed_processes_fail_no_request_and_store_no_row_twice(host, load):
    before = stored(host)
    with load() as during:
        for _ in range(3):
            host.run(f"kill -9 {main_process(host, 'sentiment-web@1.service')}")
            main_process(host, "sentiment-web@1.service")  # an instance at a time, as the other answers meanwhile
            host.run(f"pkill -9 -o -P {main_process(host, 'sentiment-web@2.service')}")
            time.sleep(2)
    assert during.failed == {}
    assert stored(host) - before == during.result["ok"]


def test_postgresql_restart_fails_no_request(host, load):
    with load() as during:
        host.run("systemctl restart postgresql@17-main.service")
    assert during.failed == {}


def test_postgresql_crash_fails_no_request(host, load):
    with load() as during:
        host.run("kill -9 $(head -n 1 /var/lib/postgresql/17/main/postmaster.pid)")
        time.sleep(8)
    assert during.failed == {}


def test_minute_without_valkey_fails_no_request(host, load):
    with load(10) as during:
        host.run("systemctl stop valkey-server.service")
        time.sleep(60)
        host.run("systemctl start valkey-server.service")
    assert during.failed == {}


@pytest.mark.everyday
def test_everything_is_back_after_power_cut(host, load, address):
    with load() as during:
        time.sleep(3)
        on_testbed("kill", LANE.name)
        on_testbed("start", LANE.name)
        time.sleep(10)
    assert during.result["ok"] > 0
    assert lost(host, during.ids) == 0
    assert host.run("systemctl --failed --no-legend --plain").stdout == ""
    with load() as after:
        time.sleep(2)
    assert after.failed == {}
