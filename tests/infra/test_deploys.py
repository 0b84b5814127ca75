"""A deploy or a rollback fails no request, and a broken release leaves the previous release active."""

import os

import pytest
from conftest import LOCK, ROOT

HEAD = max(file.name for file in (ROOT / "migrations/versions").glob("[0-9]*.py"))[:4]


def current(host) -> str:
    return host.run(
        'curl -s --unix-socket /run/sentiment/web-1.sock http://x/version | sed \'s/.*release":"//; s/".*//\''
    ).stdout.strip()


def started(host) -> list[str]:
    """When the web instances and the worker were started."""
    units = "sentiment-web@1 sentiment-web@2 sentiment-worker@1"
    return host.run(f"systemctl show -P ExecMainStartTimestampMonotonic {units}").stdout.split()


def last_line(host) -> str:
    """The last line of the deployment log."""
    return host.run("tail -n 1 /var/log/sentiment-deploys.log").stdout


@pytest.mark.ci
def test_deploy_and_rollback_under_load_fail_no_request(host, playbook, repository, load):
    before = current(host)
    repository.git("tag", "--force", "good", before)
    release = repository.release("Another release")
    with load() as during:
        playbook("deploy", "-e", f"version={release}")
        assert current(host) == release
        playbook("rollback", "-e", "version=good")
        assert current(host) == before
    assert during.failed == {}


def test_concurrent_deploy_is_refused(host, playbook, repository):
    host.run(f"printf 'elsewhere 1 then\\nada deploys\\n' >{LOCK}")
    try:
        out = playbook("deploy", "-e", f"version={repository.release('Too soon')}", check=False)
        assert "ada deploys" in playbook("rollback", check=False)
    finally:
        host.run(f"rm {LOCK}")
    assert "ada deploys" in out


def test_deploy_after_failed_restore_is_refused(host, playbook):
    ended = f"{os.uname().nodename} 4194304 Thu Jan 1 00:00:00 1970"
    host.run(f"printf '{ended}\\nada restores\\nstays\\n' >{LOCK}")
    try:
        out = playbook("deploy", "-e", f"version={current(host)}", check=False)
    finally:
        host.run(f"rm {LOCK}")
    assert "ada restores" in out


def test_lock_of_ended_run_is_removed(host, playbook):
    ended = f"{os.uname().nodename} 4194304 Thu Jan 1 00:00:00 1970"
    host.run(f"printf '{ended}\\nada deploys\\n' >{LOCK}")
    before = started(host)
    playbook("deploy", "-e", f"version={current(host)}")
    assert not host.file(LOCK).exists
    # A deploy of the active release restarts it, for example after an upgrade of libraries.
    assert all(new != old for new, old in zip(started(host), before, strict=True))
    assert f" restarted {current(host)} " in last_line(host)


def test_activation_by_hand_is_tested_and_logged(host):
    release = current(host)
    done = host.run(f"/srv/sentiment/releases/{release}/deploy/activate")
    assert done.rc == 0, done.stderr
    assert f"{release} answers" in done.stdout
    assert f" activated {release} after {release} by " in last_line(host)


def test_empty_or_unknown_version_deletes_nothing(host, playbook):
    before, existing = current(host), host.run("ls /srv/sentiment/releases").stdout
    assert "failed=1" in playbook("deploy", "-e", "version=no-such-thing", check=False)
    playbook("deploy", "-e", "version=", "-e", f"app_release_repository={ROOT}", check=False)
    assert set(existing.split()) <= set(host.run("ls /srv/sentiment/releases").stdout.split())
    playbook("deploy", "-e", f"version={before}")
    assert current(host) == before


def test_invalid_settings_are_not_written(host, playbook):
    before = host.file("/etc/sentiment/sentiment.env").content_string
    wrong = '{"app_host_settings": {"HISTORY_DAYS": "abc"}}'
    assert "HISTORY_DAYS" in playbook("provision", "-e", wrong, check=False)
    assert host.file("/etc/sentiment/sentiment.env").content_string == before


def test_deploy_works_during_maintenance(host, playbook, repository, api):
    before = current(host)
    host.run("touch /etc/nginx/sentiment/maintenance")
    try:
        playbook("deploy", "-e", f"version={repository.release('Under maintenance')}")
        playbook("rollback")
        answers = [api.client.get(path) for path in ("/", "/api/v1/users/me", "/api/v1/sentiment/tasks")]
    finally:
        host.run("rm /etc/nginx/sentiment/maintenance")
    assert [entry.status_code for entry in answers] == [503] * 3
    assert api.client.get("/api/v1/users/me").status_code == 200
    assert current(host) == before


BROKEN = {
    "a syntax error": ("sentiment_app/app.py", "API = ", "API = = ", "SyntaxError"),
    "a setting that is missing": (
        "sentiment_app/config.py",
        "    environment: str = _setting(",
        '    greeting: str = _setting("says hello")\n    environment: str = _setting(',
        "GREETING",
    ),
    "a migration that fails": (
        "migrations/versions/9999_broken.py",
        "",
        (
            '"""Broken."""\nfrom alembic import op\nrevision = "9999"\ndown_revision = "'
            + HEAD
            + '"\ndef upgrade():\n    op.execute("SELECT no_such_thing()")\ndef downgrade():\n    pass\n'
        ),
        "no_such_thing",
    ),
    "a process that is never ready": (
        "sentiment_app/web/health.py",
        "    found = {",
        '    found = {"database": "fails in this test"} or {',
        "not ready",
    ),
    "a site that Nginx refuses": ("deploy/nginx/sentiment.conf", "http2 on;", "http2 sideways;", "site is not valid"),
    "a unit that cannot start": (
        "deploy/systemd/sentiment-web@.service",
        "bin/gunicorn -c",
        "bin/no-such-program -c",
        "does not start",
    ),
    "a worker that crashes after its start": (
        "sentiment_app/worker.py",
        "    notify_ready()\n",
        '    notify_ready()\n    sys.exit("no luck today")\n',
        "no luck today",
    ),
}


CI_FAULT = "a site that Nginx refuses"


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=[pytest.mark.ci] if fault == CI_FAULT else []) for fault in BROKEN]
)
def test_broken_release_leaves_previous_release_serving(host, playbook, repository, load, fault):
    path, old, new, shown = BROKEN[fault]
    before = current(host)
    repository.git("checkout", "-q", "--detach", repository.base)
    repository.edit(path, old, new)
    release = repository.commit(f"Broken: {fault}")
    with load() as during:
        out = playbook("deploy", "-e", f"version={release}", check=False)
    assert "failed=1" in out
    assert shown in out, out[-4000:]
    assert current(host) == before
    assert during.failed == {}
    assert f" refused {release} after {before} " in host.file("/var/log/sentiment-deploys.log").content_string
    assert not host.file(f"/srv/sentiment/releases/{release}").exists
    assert not host.file(LOCK).exists


MIGRATION = '''"""A newer migration."""
from alembic import op
revision = "9998"
down_revision = "{head}"
def upgrade():
    op.execute("CREATE TABLE newer ()")
def downgrade():
    pass
'''


# This must be the last test of the file: after it, the database has a newer schema than every test release.
def test_release_with_migration_can_be_rolled_back(host, playbook, repository, load):
    before = current(host)
    repository.git("tag", "--force", "good", before)
    repository.git("checkout", "-q", "--detach", repository.base)
    repository.edit("migrations/versions/9998_newer.py", "", MIGRATION.replace("{head}", HEAD))
    release = repository.commit("A new migration")
    repository.edit("deploy/nginx/sentiment.conf", "http2 on;", "http2 sideways;")
    broken = repository.commit("A site that Nginx refuses, after its migration")
    with load() as during:
        assert "failed=1" in playbook("deploy", "-e", f"version={broken}", check=False)
        assert current(host) == before
        playbook("deploy", "-e", f"version={release}")
        assert current(host) == release
        playbook("rollback")
        assert current(host) == before
        playbook("deploy", "-e", f"version={release}")
        playbook("deploy", "-e", "version=good")  # the database is ahead of it
        assert current(host) == before
    assert during.failed == {}
