"""The properties of a provisioned and deployed host, checked on the host and from outside."""

import json
import re
import socket
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
from conftest import NAME, reach


@pytest.mark.ci
def test_second_run_changes_nothing_and_prints_a_link_to_the_console(playbook, api):
    out = playbook("site", "-e", f"version={playbook.deployed}")
    assert re.search(r"app1 .*changed=0 .*failed=0", out), out
    path = re.search(r"https://[^/]+(/console/password\?token=[\w-]+)", out)[1]
    page = api.client.get(path)
    token = re.search(r'csrf_token" value="(\w+)"', page.text)[1]
    form = {"csrf_token": token, "token": path.partition("=")[2], "password": "only for the test bed"}
    same_site = {"Origin": f"https://{NAME}", "Sec-Fetch-Site": "same-origin"}
    assert api.client.post("/console/password", data=form, headers=same_site).status_code == 303
    assert "Team" in api.client.get("/console").text
    file = {"file": ("reviews.csv", b"text\nA lovely day.\n", "text/csv")}
    token = {"X-CSRF-Token": re.search(r'"X-CSRF-Token": "(\w+)"', api.client.get("/console").text)[1]}
    answer = api.client.post("/console/files", data={"column": ""}, files=file, headers={**same_site, **token})
    assert answer.status_code == 303


def test_files_of_interrupted_run_take_effect_in_next_run(host, playbook):
    def started():
        return host.run("systemctl show -P ExecMainStartTimestampMonotonic sentiment-web@1 sentiment-worker@1").stdout

    before = started()
    host.run("touch /etc/sentiment/credentials/jwt_secret_key")  # as if a run ended after writing the file
    assert re.search(r"app1 .*failed=0", playbook("provision"))
    assert all(new != old for new, old in zip(started().split(), before.split(), strict=True))
    before = started()
    assert re.search(r"app1 .*changed=0 .*failed=0", playbook("provision"))
    assert started() == before


def test_unknown_setting_is_refused(playbook):
    out = playbook("provision", "-e", '{"app_host_settings": {"HISTORY_DAY": 30}}', check=False)
    assert "HISTORY_DAY in app_host_settings" in out


def test_check_mode_succeeds_on_deployed_host(playbook):
    assert re.search(r"app1 .*failed=0", playbook("site", "--check", "--diff"))


@pytest.mark.asvs("13.2.2", "15.2.5")
@pytest.mark.parametrize(
    ("unit", "max_exposure"),
    [
        ("sentiment-web@1", 0.5),
        ("sentiment-web@2", 0.5),
        ("sentiment-worker@1", 0.5),
        ("sentiment-reconcile", 0.5),
        ("sentiment-purge", 0.5),
        ("sentiment-webhooks", 1.5),
        ("certbot", 2.0),
        ("nginx", 2.0),
        ("postgresql@17-main", 2.0),
        ("postgresql-backup", 2.0),
        ("postgresql-backup-check", 2.0),
        ("postgresql-wal", 2.0),
        ("certificate-check", 2.0),
    ],
)
def test_services_are_sandboxed(host, unit, max_exposure):
    line = host.run(f"systemd-analyze security --no-pager {unit}.service | tail -n 1").stdout
    print(line)
    assert float(re.search(r": ([0-9.]+)", line).group(1)) <= max_exposure, line


def test_instances_and_metrics_are_added_and_removed(host, playbook, address, state):
    bridge = address.rpartition(".")[0] + ".1"
    more = json.dumps({"app_host_web_instances": 3, "app_host_worker_instances": 2, "app_host_metrics_from": [bridge]})
    try:
        playbook("provision", "-e", more)
        assert host.service("sentiment-web@3").is_running
        assert host.service("sentiment-worker@2").is_running
        assert "web-3.sock" in host.file("/etc/nginx/sentiment/http.conf").content_string
        for instance in (1, 2, 3):
            shown = httpx.get(f"http://{address}:946{instance}/metrics", timeout=10).text
            assert "sentiment_http_requests_total" in shown
        elsewhere = reach("ca1", state)
        assert elsewhere.run(f"timeout 3 bash -c '</dev/tcp/{address}/443'").rc == 0
        assert elsewhere.run(f"timeout 3 bash -c '</dev/tcp/{address}/9461'").rc != 0
        score = host.run("systemd-analyze security --no-pager metrics@1.service | tail -n 1").stdout
        assert float(re.search(r": ([0-9.]+)", score).group(1)) <= 0.5, score
        again = playbook("provision", "-e", more)
        assert re.search(r"app1 .*changed=0 .*failed=0", again), again
    finally:
        playbook("provision")
    assert not host.service("sentiment-web@3").is_running
    assert not host.service("sentiment-worker@2").is_running
    assert host.service("sentiment-web@1").is_running
    assert "web-3.sock" not in host.file("/etc/nginx/sentiment/http.conf").content_string
    assert not is_open(address, 9461)


@pytest.mark.ci
def test_no_unit_has_failed(host):
    assert host.run("systemctl --failed --no-legend --plain").stdout == ""


def is_open(address: str, port: int) -> int:
    """The port if it accepts connections, otherwise 0."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return port if probe.connect_ex((address, port)) == 0 else 0


@pytest.mark.asvs("12.2.1")
def test_only_ssh_and_web_ports_are_open(address):
    with ThreadPoolExecutor(512) as pool:
        opened = [port for port in pool.map(partial(is_open, address), range(1, 65536)) if port]
    assert opened == [22, 80, 443]


def test_no_other_service_listens_publicly(host):
    listening = host.run("ss --tcp --udp --listening --no-header --numeric").stdout.splitlines()
    ports = {line.split()[4].rpartition(":")[2] for line in listening}
    assert ports <= {"22", "80", "443"}


@pytest.mark.asvs("13.3.2")
def test_only_root_can_read_secrets(host, state):
    for name in ("jwt_secret_key", "model_signing_key", "redis_url", "database_url", "smoke_test_password"):
        file = host.file(f"/etc/sentiment/credentials/{name}")
        assert (file.user, file.mode) == ("root", 0o400)
    assert host.run("sudo -u www-data cat /etc/sentiment/credentials/jwt_secret_key").rc != 0
    secrets = [file.read_text().strip() for file in (state / "secrets").iterdir()]
    assert len(secrets) >= 4
    for command in (
        "journalctl --no-pager",
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ",
        "cat /var/log/nginx/*",
        "systemctl show '*'",
    ):
        output = host.run(f"{command} 2>/dev/null | tr '\\0' ' '").stdout
        assert not [secret for secret in secrets if secret in output], command


@pytest.mark.asvs("14.2.2", "16.2.5")
@pytest.mark.ci
def test_no_customer_value_reaches_a_log(host, api):
    canary = f"canary{api.account['username']}"
    lock = "BEGIN; LOCK TABLE sentiment_requests, users; SELECT pg_sleep(4); COMMIT"
    host.run(f'systemd-run --unit=lock --uid=postgres psql -d sentiment -c "{lock}"')
    host.run("until pgrep -f pg_sleep; do sleep 0.1; done")
    text = api.client.post("/api/v1/sentiment/analyze", json={"text": f"A wonderful {canary}."})
    other = {**api.account, "email": f"{canary}@example.org"}  # a used name: PostgreSQL's DETAIL would quote it
    taken = api.client.post("/api/v1/auth/register", json=other)
    assert (text.status_code, taken.status_code) == (200, 409)
    host.run("until ! systemctl is-active lock; do sleep 0.1; done")
    assert "duplicate key value" in host.run("cat /var/log/postgresql/*.log").stdout
    wanted = f'{canary[:3]}""{canary[3:]}'  # otherwise sudo's journal line with this command would match
    written = host.run(
        f"{{ journalctl --no-pager; grep -rh '' /var/log /var/lib/valkey; }} 2>/dev/null | grep -a {wanted}"
    )
    assert written.stdout == ""
    slow = "SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%INSERT INTO sentiment_requests%'"
    assert int(host.run(f'sudo -u postgres psql -d sentiment -Atc "{slow}"').stdout) >= 1


@pytest.mark.asvs("13.2.2")
def test_service_cannot_change_its_tables(host):
    sql = "psql -d 'postgresql://sentiment@/sentiment?host=/run/postgresql' -c"
    assert host.run(f"sudo -u sentiment {sql} 'DROP TABLE users'").rc != 0
    assert host.run(f"sudo -u sentiment {sql} 'CREATE TABLE mine (id int)'").rc != 0
    assert host.run(f"sudo -u sentiment {sql} 'SELECT count(*) FROM users'").rc == 0
    assert host.run("sudo -u postgres psql -Atc 'SHOW data_checksums'").stdout.strip() == "on"


def curl(state, address, *arguments: str) -> str:
    command = [
        "curl",
        "-si",
        "--max-time",
        "10",
        "--cacert",
        f"{state}/root.pem",
        "--resolve",
        f"{NAME}:443:{address}",
        "--resolve",
        f"{NAME}:80:{address}",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.asvs("4.1.2", "12.2.1")
def test_http_redirects_pages_and_refuses_the_api(state, address):
    page = curl(state, address, f"http://{NAME}/docs?x=1")
    assert "308 Permanent Redirect" in page
    assert f"Location: https://{NAME}/docs?x=1" in page
    api = curl(state, address, f"http://{NAME}/api/v1/users/me")
    assert "403 Forbidden" in api
    assert "application/problem+json" in api


def test_https_sends_hsts(state, address):
    page = curl(state, address, f"https://{NAME}/docs")
    assert page.startswith("HTTP/2 200")
    assert "strict-transport-security: max-age=63072000" in page


def test_large_body_is_refused_with_problem(state, address):
    (state / "large").write_bytes(b"x" * 2**21)
    answer = curl(state, address, "--data-binary", f"@{state}/large", f"https://{NAME}/api/v1/sentiment/analyze")
    assert answer.startswith("HTTP/2 413")
    assert "application/problem+json" in answer
    assert "x-request-id: " in answer


LARGE = f"X-Long: {'x' * 10_000}"  # over HTTP/2, Nginx closes the connection instead


@pytest.mark.asvs("4.1.4", "12.2.1", "13.4.4", "13.4.5")
@pytest.mark.parametrize(
    ("options", "url", "status"),
    [
        (["--header", "Host:"], "https://{}/livez", 400),
        (["--request", "no method"], "https://{}/livez", 400),
        ([], "http://{}:443/livez", 400),
        ([], "https://{}/metrics", 404),
        (["--request", "TRACE"], "https://{}/livez", 405),
        ([], "https://{}/" + "x" * 9_000, 414),
        (["--header", LARGE], "https://{}/livez", 431),
        (["--header", "Transfer-Encoding: words"], "https://{}/livez", 501),
    ],
)
def test_nginx_errors_are_problems(state, address, options, url, status):
    answer = curl(state, address, "--http1.1", *options, url.format(NAME))
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert "Content-Type: application/problem+json" in answer
    problem = json.loads(answer.split("\n\n", 1)[1])
    assert problem["status"] == status
    assert f"X-Request-ID: {problem['request_id']}" in answer


def test_maintenance_answers_503(host, state, address):
    host.run("touch /etc/nginx/sentiment/maintenance")
    try:
        api = curl(state, address, f"https://{NAME}/api/v1/users/me")
        keyed = ["--header", "Idempotency-Key: 1", "--json", "{}"]
        repeatable = curl(state, address, *keyed, f"https://{NAME}/api/v1/sentiment/analyze/batch")
        page = curl(state, address, f"https://{NAME}/docs")
    finally:
        host.run("rm /etc/nginx/sentiment/maintenance")
    for answer in (api, repeatable):
        assert answer.startswith("HTTP/2 503")
        assert "application/problem+json" in answer
        assert "retry-after: " in answer
    assert page.startswith("HTTP/2 503")
    assert "Back soon" in page


def test_gixy_finds_no_weakness_in_nginx(host):
    configuration = host.check_output("nginx -T 2>/dev/null")
    done = subprocess.run(["gixy", "-"], input=configuration, capture_output=True, text=True, check=False)
    assert "server_name sentiment.test" in configuration
    assert "No issues found" in done.stdout, done.stdout + done.stderr


def test_access_log_contains_no_query(host, state, address):
    curl(state, address, f"https://{NAME}/version?token=never-log-this")
    log = host.run("tail -n 5 /var/log/nginx/sentiment.json").stdout
    assert '"path":"/version"' in log
    assert "never-log-this" not in log


@pytest.mark.asvs("12.1.1")
@pytest.mark.parametrize(
    ("offered", "works"),
    [
        ("-tls1_1", False),
        ("-tls1_2", True),
        ("-tls1_3", True),
        ("-groups=X25519", True),
        ("-groups=P-384", True),
        ("-groups=P-521", False),
        ("-groups=X448", False),
    ],
)
def test_tls_matches_mozilla_intermediate(address, offered, works):
    command = ["openssl", "s_client", "-connect", f"{address}:443", "-servername", NAME, *offered.split("=")]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert ("Cipher is (NONE)" not in done.stdout and done.returncode == 0) is works


@pytest.mark.asvs("12.1.1")
def test_tls_offers_post_quantum_key_exchange(host):
    """On the host, because the OpenSSL of the test machine may not know this group."""
    shown = host.run(f"openssl s_client -connect 127.0.0.1:443 -servername {NAME} -groups X25519MLKEM768 </dev/null")
    assert "Negotiated TLS1.3 group: X25519MLKEM768" in shown.stdout, shown.stdout + shown.stderr


def test_client_cannot_write_long_lines_to_the_access_log(host, state, address):
    long = "x" * 4000
    curl(state, address, "--user-agent", f"bounded-{long}", f"https://{NAME}/{long}")
    curl(state, address, "--http1.1", "--request", "X" * 4000, f"https://{NAME}/bounded-method")
    lines = host.run("grep bounded- /var/log/nginx/sentiment.json").stdout.splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) < 1000


def test_failures_write_no_query_to_the_journal(host, state, address):
    token = uuid.uuid4().hex
    host.run("systemctl stop 'sentiment-web@*'")
    try:
        answer = curl(state, address, f"https://{NAME}/version?token=secret-{token}")
    finally:
        host.run("systemctl start sentiment-web@1 sentiment-web@2")
    assert answer.startswith("HTTP/2 502")
    # Sudo writes this command to the journal, too, so the command must not contain what it searches for.
    assert host.run(f"journalctl --no-pager | grep -F secret-''{token}").stdout == ""


def test_logs_are_rotated(host):
    assert host.service("logrotate.timer").is_enabled
    host.run("head -c 101M /dev/zero | tr '\\0' x >>/var/log/nginx/sentiment.json")
    assert host.run("systemctl start logrotate.service").rc == 0
    assert host.file("/var/log/nginx/sentiment.json").size < 10_000_000
    assert host.file("/var/log/nginx/sentiment.json.1").size > 100_000_000
    assert "/var/log/postgresql/" in host.run("cat /etc/logrotate.d/*").stdout
