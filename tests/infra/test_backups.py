"""Disaster recovery: a restore brings back every acknowledged row."""

import time

import pytest
from conftest import LOCK
from test_failures import count_lost_rows


def rows(host) -> str:
    """How many rows there are, and a digest over all of them."""
    sql = "SELECT count(*), md5(string_agg(r::text, '' ORDER BY id)) FROM sentiment_requests r"
    return host.run(f'sudo -u postgres psql -d sentiment -Atc "{sql}"').stdout.strip()


def test_dropped_database_is_restored_to_the_last_row(host, playbook, load):
    with load() as during:
        time.sleep(3)
    assert during.failed == {}
    before = rows(host)
    moment = host.run("date --utc +'%F %T.%N+00'").stdout.strip()
    time.sleep(1)
    # Recovery stops at the first commit after the moment. DROP DATABASE marks the database as invalid before it
    # commits, so another commit must come between. A database in use always has such a commit.
    host.run("systemctl stop 'sentiment-*'")
    host.run("sudo -u postgres psql -c 'CREATE TABLE later ()'; sudo -u postgres dropdb sentiment")
    assert rows(host) == ""
    for _ in range(3):  # so that the stream is some segments ahead of the moment
        host.run("sudo -u postgres psql -c 'SELECT pg_switch_wal()' -c 'CHECKPOINT'")
    playbook("restore", "-e", f"time='{moment}'")
    assert rows(host) == before
    assert count_lost_rows(host, during.ids) == 0
    assert host.run("systemctl start postgresql-backup-check.service").rc == 0  # the log is streamed again


@pytest.mark.parametrize("time", ["2026-11-23", "'2026-11-23 12:00:00'", "'2226-11-23 12:00:00+00'"])
def test_invalid_restore_time_stops_nothing(host, playbook, time):
    assert "is not a time in the past" in playbook("restore", "-e", f"time={time}", check=False)
    assert host.service("sentiment-web@1").is_running
    assert not host.file(LOCK).exists


def test_dead_log_stream_is_reported(host):
    host.run("systemctl stop postgresql-wal.service")
    try:
        assert host.run("systemctl start postgresql-backup-check.service").rc != 0
    finally:
        host.run("systemctl start postgresql-wal.service")
    time.sleep(3)
    assert host.run("systemctl start postgresql-backup-check.service").rc == 0


def test_lost_cluster_is_restored_to_the_last_row(host, playbook, load):
    playbook("backup")
    with load() as during:
        time.sleep(3)
        host.run("pkill -9 -u postgres -x postgres; rm -rf /var/lib/postgresql/17/main/*")
    before = len(during.ids.read_text().split())
    assert before
    playbook("restore")
    assert count_lost_rows(host, during.ids) == 0


def test_age_of_last_backup_is_visible(host):
    assert time.time() - host.file("/var/lib/pgbackrest/last-good").mtime.timestamp() < 3600
