"""A host that is lost for good: what is kept elsewhere (backups, the log's stream, secrets) makes another one of it."""

import subprocess

from conftest import LANE, ROOT, on_testbed
from test_backups import rows
from test_failures import lost

KEPT = ["var/lib/pgbackrest", "var/lib/postgresql-wal"]


def test_new_host_restores_every_row(host, playbook, load, state):
    with load() as during:
        pass
    assert during.failed == {}
    before = rows(host)
    keep(state / "kept.tar")  # as if these folders were another machine's
    address = LANE.address
    on_testbed("down", LANE.name)
    on_testbed("up", LANE.name)  # bare, as nothing of the old host is left
    assert LANE.address == address
    playbook("site", "-e", f"version={playbook.deployed}")
    assert rows(host).startswith("1|")  # the gate's own
    on_host("rm", "-r", *(f"/{folder}" for folder in KEPT))
    with (state / "kept.tar").open("rb") as kept:
        on_host("tar", "--extract", "--directory=/", stdin=kept)
    playbook("restore")
    assert rows(host) == before
    assert lost(host, during.ids) == 0
    assert host.run("systemctl --failed --no-legend --plain").stdout == ""
    with load() as after:
        pass
    assert after.failed == {}


def keep(file) -> None:
    for go in range(5):
        with file.open("wb") as kept:
            done = on_host("tar", "--create", "--directory=/", *KEPT, stdout=kept, check=go == 4)
        if done.returncode == 0:  # it is 1 where a file changed, or got its last name, while it was read
            return


def on_host(*command: str, check: bool = True, **streams) -> subprocess.CompletedProcess:
    command = (str(ROOT / "scripts/testbed"), "exec", LANE.name, *command)
    return subprocess.run(command, check=check, timeout=120, **streams)
