"""A deploy or a rollback fails no request, and a broken release leaves the previous one serving."""

import pytest
from conftest import ROOT

HEAD = max(file.name for file in (ROOT / "migrations/versions").glob("[0-9]*.py"))[:4]


def current(host) -> str:
    return host.run(
        'curl -s --unix-socket /run/sentiment/web-1.sock http://x/version | sed \'s/.*release":"//; s/".*//\''
    ).stdout.strip()


@pytest.mark.everyday
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
    host.run("mkdir /run/deploying && echo ada deploys > /run/deploying/who")
    try:
        out = playbook("deploy", "-e", f"version={repository.release('Too soon')}", check=False)
        assert "ada deploys" in playbook("rollback", check=False)
    finally:
        host.run("rm -r /run/deploying")
    assert "ada deploys" in out


def test_deploy_after_failed_restore_is_refused(host, playbook):
    host.run("mkdir /run/deploying && echo ada restores > /run/deploying/who && touch /run/deploying/stays")
    host.run("touch -d '1 hour ago' /run/deploying")
    try:
        out = playbook("deploy", "-e", f"version={current(host)}", check=False)
    finally:
        host.run("rm -r /run/deploying")
    assert "ada restores" in out


def test_empty_or_unknown_version_deletes_nothing(host, playbook):
    before, there = current(host), host.run("ls /srv/sentiment/releases").stdout
    assert "failed=1" in playbook("deploy", "-e", "version=no-such-thing", check=False)
    playbook("deploy", "-e", "version=", "-e", f"app_release_repository={ROOT}", check=False)
    assert set(there.split()) <= set(host.run("ls /srv/sentiment/releases").stdout.split())
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
        '    found = {"database": "is made up to be away"} or {',
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


EVERYDAY = "a site that Nginx refuses"


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=[pytest.mark.everyday] if fault == EVERYDAY else []) for fault in BROKEN]
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
    assert shown in out
    assert current(host) == before
    assert during.failed == {}
    assert f" refused {release} after {before} " in host.file("/var/log/sentiment-deploys.log").content_string
    assert not host.file(f"/srv/sentiment/releases/{release}").exists
    assert not host.file("/run/deploying").exists


MIGRATION = '''"""A newer one."""
from alembic import op
revision = "9998"
down_revision = "{head}"
def upgrade():
    op.execute("CREATE TABLE newer ()")
def downgrade():
    pass
'''


# The last of these: the database is ahead of every release that is made up from here on.
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
