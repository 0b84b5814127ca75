"""What the tests of a deployment share: a host, playbooks, and a load that counts failed requests.

scripts/test-deploy creates the hosts, and describes them in the folder TEST_STATE.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import testinfra

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NAME = "sentiment.test"
LOCK = "/var/lib/sentiment-deploy.lock"  # of deploys, on the first web host
RATE = 50  # requests a second; the machine's two cores also run the host and Ansible


# The tests in these files request certificates. The authority can reach only one host under the name at a time.
ISSUING = ("test_certificates", "test_new_host")


class Lane:
    """The host of a pytest process. Each test file starts with a copy of the host that scripts/test-deploy deployed.

    Every process has its own folder, with a copy of the files that scripts/test-deploy left in TEST_STATE. In the
    inventory the host is always named app1, also if the test bed gives it another name.
    """

    def __init__(self) -> None:
        given = Path(os.environ["TEST_STATE"])
        self.image = os.environ.get("TEST_IMAGE", "")
        self.name = f"app{int(os.environ.get('TEST_LANE', '0')) + 1}"
        self.state = given / self.name if self.image else given
        self.given = given

    def begin(self) -> None:
        """Give the next test file its host and its state."""
        if not self.image:  # a cluster is created only once
            return
        if self.state.exists():  # not "reset": a test may have replaced the host by a bare host
            on_testbed("down", self.name)
        on_testbed("up", "-i", self.image, self.name)
        self.state.mkdir(exist_ok=True)
        for kept in ("root.pem", "pebble.pem"):
            shutil.copy(self.given / kept, self.state)
        shutil.rmtree(self.state / "secrets", ignore_errors=True)
        shutil.copytree(self.given / "secrets", self.state / "secrets")
        inventory = (self.given / "hosts.yml").read_text()
        (self.state / "hosts.yml").write_text(inventory.replace(os.environ["TEST_ADDRESS"], self.address))

    @property
    def address(self) -> str:
        """The host's address. `testbed status` would also read hosts that other processes are creating."""
        if not self.image:
            return os.environ["TEST_ADDRESS"]
        return (Path(os.environ["TESTBED_DIR"]) / "hosts" / self.name / "addr").read_text().strip()


LANE = Lane()


@pytest.fixture(scope="module", autouse=True)
def fresh_host(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start each test file with a fresh copy of the deployed host."""
    LANE.begin()
    os.environ["TEST_STATE"] = str(LANE.state)  # for the inventories, which read secrets from this folder
    if not LANE.image or request.path.stem not in ISSUING:
        yield
        return
    with (LANE.given / "issuing.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        names = (f"{prefix}{NAME}={LANE.address}" for prefix in ("", "www."))
        run(str(HERE / "pebble"), "ca1", str(LANE.state), *names)
        yield


@pytest.fixture(scope="session")
def state() -> Path:
    """The folder with the files of this process's host."""
    return LANE.state


@pytest.fixture(scope="module")
def host(fresh_host: None, state: Path) -> Any:
    """The host that runs the whole service, through SSH, as root."""
    return reach("app1", state)


def reach(name: str, state: Path) -> Any:
    """A host, through SSH, as root."""
    return testinfra.get_host(f"ansible://{name}?ansible_inventory={state}/hosts.yml&force_ansible=False", sudo=True)


@pytest.fixture(scope="module")
def address(fresh_host: None) -> str:
    """The host's address."""
    return LANE.address


def main_process(host: Any, unit: str) -> str:
    """Wait until a unit runs, and return its process id. Until then systemd reports 0, and `kill 0` hits the caller."""
    for _ in range(600):
        pid: str = host.run(f"systemctl is-active --quiet {unit} && systemctl show -P MainPID {unit}").stdout.strip()
        if pid not in ("", "0"):
            return pid
        time.sleep(0.2)
    pytest.fail(f"{unit} does not start: {host.run(f'systemctl status {unit}').stdout}")


def on_testbed(*arguments: str) -> str:
    """Run a command of the test bed."""
    return run(str(ROOT / "scripts/testbed"), *arguments).stdout


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command, and show its output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=ROOT / "ansible")
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


class Playbooks:
    """The project's playbooks, on the hosts of the test bed."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.deployed = os.environ["TEST_VERSION"]

    def __call__(self, name: str, *arguments: str, check: bool = True) -> str:
        """Run a playbook, and return its output."""
        given = os.environ["TEST_INVENTORIES"].replace("TEST_STATE", os.environ["TEST_STATE"])
        inventories = [f"--inventory={path}" for path in given.split()]
        own = ["-e", f"app_release_repository={self.repository}"]
        done = run("ansible-playbook", *inventories, f"{name}.yml", *own, *arguments, check=check)
        return done.stdout + done.stderr


class Repository:
    """A clone of the project in which tests create releases."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.base = self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        """Run git in the clone."""
        return run(
            "git", "-C", str(self.path), "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments
        ).stdout.strip()

    def release(self, title: str, **files: tuple[str, str]) -> str:
        """Commit a change on top of the base, and return the release's name. `files`: path to (old text, new text)."""
        self.git("checkout", "-q", "--detach", self.base)
        for path, (old, new) in ((name.replace("__", "/"), change) for name, change in files.items()):
            self.edit(path, old, new)
        return self.commit(title)

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text in a file, or create the file if `old` is empty."""
        file = self.path / path
        text = file.read_text() if old else ""
        assert old in text, f"{path} has no {old!r}"
        file.write_text(text.replace(old, new) if old else new)

    def commit(self, title: str) -> str:
        """Commit everything; returns the release's name."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", title)
        return self.git("rev-parse", "HEAD")[:12]


@pytest.fixture(scope="module")
def repository(fresh_host: None, state: Path) -> Repository:
    """A clone of the project for test releases."""
    path = state / "repository"
    if not path.exists():
        run("git", "clone", "-q", str(ROOT), str(path))
    return Repository(path)


@pytest.fixture(scope="module")
def playbook(repository: Repository) -> Playbooks:
    """Runs playbooks."""
    return Playbooks(repository.path)


class Load:
    """A running load, and its result after it has ended."""

    def __init__(self, process: subprocess.Popen[str], ids: Path) -> None:
        self.process = process
        self.ids = ids
        self.result: dict[str, Any] = {}

    def end(self) -> None:
        """Stop the load, and read its result."""
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=60)
        self.result = json.loads(out.splitlines()[-1])
        print({key: value for key, value in self.result.items() if key != "ids"})

    @property
    def failed(self) -> dict[str, int]:
        """The number of failed requests by kind of failure."""
        assert self.result["ok"], "no request succeeded"
        return dict(self.result["failed"])


@pytest.fixture
def load(state: Path, address: str) -> Any:
    """Score texts while the body of a with-statement runs."""

    @contextlib.contextmanager
    def running(rate: int = RATE) -> Iterator[Load]:
        ids = state / "ids"
        command = [sys.executable, str(HERE / "load.py"), NAME, address, str(state / "root.pem"), str(rate), str(ids)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        assert process.stdout.readline() == "loading\n"
        running_load = Load(process, ids)
        time.sleep(1)
        try:
            yield running_load
            time.sleep(1)
        finally:
            running_load.end()

    return running


class Api:
    """A client with its own account, which verifies the certificate."""

    def __init__(self, address: str, ca: Path) -> None:
        self.client = httpx.Client(
            base_url=f"https://{address}",
            headers={"Host": NAME},
            verify=ssl.create_default_context(cafile=str(ca)),
            timeout=120,
            event_hooks={"request": [self._under_its_name]},
        )
        self.account = {"username": f"u{uuid.uuid4().hex[:12]}", "password": "only for the test bed"}
        email = {"email": f"{self.account['username']}@example.org"}
        self.client.post("/api/v1/auth/register", json=self.account | email)
        self.sign_in()
        self.key = {"Idempotency-Key": uuid.uuid4().hex}

    def sign_in(self) -> None:
        """Get a new access token."""
        answer = self.client.post("/api/v1/auth/login", json=self.account).raise_for_status()
        self.client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    @staticmethod
    def _under_its_name(request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = NAME

    @staticmethod
    def name(number: int) -> str:
        """The custom_id of a row."""
        return f"row-{number}"

    def upload(self, rows: int) -> str:
        """Upload a file with this number of rows, and return the task's id."""
        lines = (
            json.dumps({"text": f"A lovely day, number {entry}.", "custom_id": self.name(entry)})
            for entry in range(rows)
        )
        answer = self.client.post(
            "/api/v1/sentiment/tasks",
            content="\n".join(lines).encode(),
            headers={"Content-Type": "application/x-ndjson"},
        )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def wait(
        self, task: str, until: Callable[[dict[str, Any]], bool] | None = None, seconds: int = 120
    ) -> dict[str, Any]:
        """Poll a task until it has ended, or until the condition `until` holds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self.client.get(f"/api/v1/sentiment/tasks/{task}")
            shown: dict[str, Any] = answer.raise_for_status().json()
            if until(shown) if until else shown["status"] not in ("queued", "running"):
                return shown
            time.sleep(0.5)
        pytest.fail(f"The task did not reach the expected state in {seconds} s: {shown}")

    def results(self, task: str) -> list[str]:
        """The results as lines of NDJSON."""
        path = f"/api/v1/sentiment/tasks/{task}/results"
        return self.client.get(path, headers={"Accept": "application/x-ndjson"}).raise_for_status().text.splitlines()


@pytest.fixture
def api(state: Path, address: str) -> Api:
    """A new caller."""
    return Api(address, state / "root.pem")
