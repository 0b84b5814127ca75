"""Every secret can be rotated while the service is in use."""

import pytest
from conftest import LOCK


@pytest.mark.parametrize(
    ("secret", "file"),
    [
        ("redis_password", "redis_url"),
        ("smoke_test_password", "smoke_test_password"),
        ("model_signing_key", "model_signing_key"),
        ("backup_passphrase", None),
    ],
)
def test_secret_is_rotated_without_failed_requests(host, state, playbook, load, secret, file):
    before = (state / "secrets" / secret).read_text()
    with load(10) as during:
        playbook("rotate-secrets", "-e", f"secret={secret}")
    assert during.failed == {}
    after = (state / "secrets" / secret).read_text()
    assert after != before
    if file:
        assert after.strip() in host.file(f"/etc/sentiment/credentials/{file}").content_string
    assert not (state / "secrets" / f"{secret}.before").exists()


def test_rotation_during_deploy_is_refused(host, state, playbook):
    before = (state / "secrets" / "smoke_test_password").read_text()
    host.run(f"printf 'elsewhere 1 then\\ngrace deploys 1.2 since noon\\n' >{LOCK}")
    try:
        out = playbook("rotate-secrets", "-e", "secret=smoke_test_password", check=False)
    finally:
        host.run(f"rm {LOCK}")
    assert "grace deploys 1.2 since noon" in out
    assert (state / "secrets" / "smoke_test_password").read_text() == before


def test_controller_without_secrets_creates_no_new_secrets(host, playbook, tmp_path):
    before = host.file("/etc/sentiment/credentials/jwt_secret_key").content_string
    out = playbook("provision", "-e", f"secrets_dir={tmp_path}/none", check=False)
    assert "has secrets, but" in out
    assert host.file("/etc/sentiment/credentials/jwt_secret_key").content_string == before
    assert not (tmp_path / "none").exists()


def test_rotation_of_api_key_hash_key_ends_all_api_keys(playbook, host, api):
    made = host.run(f"sentiment user create-key {api.account['username']} --name test --scope read")
    key = {"Authorization": f"Bearer {made.stdout.strip()}"}
    me = "/api/v1/users/me"
    assert api.client.get(me, headers=key).status_code == 200
    playbook("rotate-secrets", "-e", "secret=api_key_hash_key")
    assert api.client.get(me, headers=key).status_code == 401
    assert api.client.get(me).status_code == 200


def test_rotation_of_jwt_key_ends_all_sessions(playbook, api):
    me = "/api/v1/users/me"
    assert api.client.get(me).status_code == 200
    playbook("rotate-secrets", "-e", "secret=jwt_secret_key")
    assert api.client.get(me).status_code == 401
    api.sign_in()
    assert api.client.get(me).status_code == 200


def test_service_works_with_rotated_secrets(host):
    release = host.run("basename $(readlink /srv/sentiment/current)").stdout.strip()
    assert host.run(f"/srv/sentiment/current/deploy/smoke_test.py sentiment.test {release}").rc == 0
    assert host.run("sentiment model verify").rc == 0
    assert host.run("sudo -u postgres pgbackrest info").rc == 0
