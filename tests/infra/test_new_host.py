"""A new host replaces a lost host, restored from backups, the log stream and secrets that were kept elsewhere."""

import subprocess

from conftest import LANE, ROOT, on_testbed
from test_backups import rows
from test_failures import count_lost_rows

BACKUP_FOLDERS = ["var/lib/pgbackrest", "var/lib/postgresql-wal"]


def test_new_host_restores_every_row(host, playbook, load, state):
    with load() as during:
        pass
    assert during.failed == {}
    before = rows(host)
    save_backup_folders(state / "kept.tar")  # as if these folders were on another machine
    address = LANE.address
    on_testbed("down", LANE.name)
    on_testbed("up", LANE.name)  # a bare host, without anything from the old host
    assert LANE.address == address
    playbook("site", "-e", f"version={playbook.deployed}")
    assert rows(host).startswith("2|")  # the rows of the smoke tests through Nginx, without and with a task
    run_on_host("rm", "-r", *(f"/{folder}" for folder in BACKUP_FOLDERS))
    with (state / "kept.tar").open("rb") as kept:
        run_on_host("tar", "--extract", "--directory=/", stdin=kept)
    playbook("restore")
    assert rows(host) == before
    assert count_lost_rows(host, during.ids) == 0
    assert host.run("systemctl --failed --no-legend --plain").stdout == ""
    with load() as after:
        pass
    assert after.failed == {}


def save_backup_folders(file) -> None:
    for attempt in range(5):
        with file.open("wb") as kept:
            done = run_on_host("tar", "--create", "--directory=/", *BACKUP_FOLDERS, stdout=kept, check=attempt == 4)
        if done.returncode == 0:  # tar exits with 1 if a file changed or was renamed while tar read it
            return


def run_on_host(*command: str, check: bool = True, **streams) -> subprocess.CompletedProcess:
    command = (str(ROOT / "scripts/testbed"), "exec", LANE.name, *command)
    return subprocess.run(command, check=check, timeout=120, **streams)
