"""A deploy or a rollback fails no request, and a broken release leaves the previous one serving."""

import pytest
from conftest import ROOT

HEAD = max(file.name for file in (ROOT / "migrations/versions").glob("[0-9]*.py"))[:4]


def current(host) -> str:
    return host.run(
        'curl -s --unix-socket /run/sentiment/web-1.sock http://x/version | sed \'s/.*release":"//; s/".*//\''
    ).stdout.strip()


def test_a_deploy_and_a_rollback_under_load_fail_no_request(host, playbook, repository, load):
    before = current(host)
    repository.git("tag", "--force", "good", before)
    release = repository.release("Another release")
    with load() as during:
        playbook("deploy", "-e", f"version={release}")
        assert current(host) == release
        playbook("rollback", "-e", "version=good")
        assert current(host) == before
    assert during.failed == {}


def test_two_do_not_deploy_at_once(host, playbook, repository):
    host.run("mkdir /run/deploying && echo ada deploys > /run/deploying/who")
    try:
        out = playbook("deploy", "-e", f"version={repository.release('Too soon')}", check=False)
        assert "ada deploys" in playbook("rollback", check=False)
    finally:
        host.run("rm -r /run/deploying")
    assert "ada deploys" in out


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
        "sentiment_app/health.py",
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
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_release_leaves_the_one_before_it_serving(host, playbook, repository, load, fault):
    path, old, new, told = BROKEN[fault]
    before = current(host)
    repository.git("checkout", "-q", "--detach", repository.base)
    repository.edit(path, old, new)
    release = repository.commit(f"Broken: {fault}")
    with load() as during:
        out = playbook("deploy", "-e", f"version={release}", check=False)
    assert "failed=1" in out
    assert told in out
    assert current(host) == before
    assert during.failed == {}
    assert f" refused {release} after {before} " in host.file("/var/log/sentiment-deploys.log").content_string
    assert not host.file(f"/srv/sentiment/releases/{release}").exists
    assert not host.file("/run/deploying").exists
