"""scripts/dev, from the first start until its last process has ended."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from harness import ROOT, call, free_port

slow_test = pytest.mark.skipif("CHAOS_SECONDS" not in os.environ, reason="half a minute; CHAOS_SECONDS=60 runs it")


@pytest.fixture(scope="module")
def checkout():
    """A copy of the files that git tracks or would add, with this environment's .venv."""
    with tempfile.TemporaryDirectory(prefix="sentiment-dev-") as directory:
        Path(directory).chmod(0o755)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in listed.stdout.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (Path(directory) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, Path(directory) / name)
        (Path(directory) / ".venv").symlink_to(ROOT / ".venv")
        yield Path(directory)


@pytest.fixture
def start(checkout):
    """Starts scripts/dev, and stops it if a failed test has left it running."""
    started = []

    def begin(*around):
        started.append(Dev(checkout, *around))
        return started[-1]

    yield begin
    for dev in started:
        if dev.process.poll() is None:
            dev.process.terminate()
            dev.process.wait(90)


class Dev:
    """A running scripts/dev."""

    def __init__(self, checkout, *around):
        self.checkout, self.port, self.log = checkout, free_port(), checkout / "dev.log"
        clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG") or "PIP" in name}
        command = ["scripts/dev", "--port", str(self.port)]
        command = [*around, " ".join(command)] if around else command
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=checkout, env=clean, stdout=log, stderr=log, process_group=0)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def child_processes(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def has_worker(self):
        for process in self.child_processes():
            with contextlib.suppress(psutil.Error):  # gone by now
                if process.cmdline()[1:] == ["-m", "sentiment_app.worker"]:
                    return True
        return False

    def first_model(self):
        (manifest,) = self.checkout.glob(".dev/models/*/manifest.json")
        return json.loads(manifest.read_text())

    def has_printed_welcome(self):
        """Whether the welcome text was printed. From then on, the API must answer."""
        if "Ctrl-C stops" not in self.log.read_text():
            return False
        assert call(f"http://127.0.0.1:{self.port}/livez")[0] == 200
        return True

    def is_ready(self):
        status, shown = call(f"http://127.0.0.1:{self.port}/readyz", timeout=2)
        return status == 200 and shown["status"] == "ok"

    def wait_until_it_serves(self):
        deadline = time.monotonic() + 240
        while not (self.has_printed_welcome() and self.is_ready() and self.has_worker()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=slow_test)])
def test_dev_starts_serves_and_leaves_no_process(checkout, start, number):
    dev = start()
    dev.wait_until_it_serves()
    measures = dev.first_model()["metrics"]  # a second start keeps this model
    assert measures["by_source"]["reviews"]["accuracy"] > 0.85
    assert measures["all"]["macro_recall"] > 0.65
    child_processes = dev.child_processes()
    assert not [entry for entry in child_processes if entry.status() == psutil.STATUS_ZOMBIE]
    dev.process.send_signal(number)
    assert dev.process.wait(90) == 0
    _, alive = psutil.wait_procs(child_processes, timeout=60)
    assert not [entry for entry in alive if entry.status() != psutil.STATUS_ZOMBIE]
    assert not servers_of(checkout)
    assert f"http://127.0.0.1:{dev.port}/docs" in dev.log.read_text()


@slow_test
def test_killed_process_restarts(checkout, start):
    dev = start()
    dev.wait_until_it_serves()
    child_processes = dev.child_processes()
    for part in ("gunicorn", "sentiment_app.worker", "reconcile"):
        next(entry for entry in child_processes if part in " ".join(entry.cmdline()) and entry.name() != "bash").kill()
    for part in ("valkey-server", "bin/postgres"):
        next(entry for entry in servers_of(checkout) if part in " ".join(entry.cmdline())).kill()
    time.sleep(2)
    dev.wait_until_it_serves()
    dev.process.terminate()
    assert dev.process.wait(90) == 0
    assert not servers_of(checkout)


@slow_test
def test_new_start_reuses_servers_of_killed_start(checkout, start):
    dev = start()
    dev.wait_until_it_serves()
    child_processes = dev.child_processes()
    refused = subprocess.run(
        ["scripts/dev", "--port", str(free_port())], cwd=checkout, capture_output=True, text=True, timeout=90
    )
    assert (refused.returncode, "does scripts/dev run already?" in refused.stderr) == (1, True)
    dev.kill()
    psutil.wait_procs([entry for entry in child_processes if entry.name() != "valkey-server"], timeout=90)
    assert {entry.name() for entry in servers_of(checkout)} == {"postgres", "valkey-server"}
    dev = start()
    dev.wait_until_it_serves()
    dev.process.terminate()
    assert dev.process.wait(90) == 0
    assert not servers_of(checkout)


@slow_test
def test_closed_terminal_stops_everything(checkout, start):
    heard = ("env", "--default-signal=HUP")  # otherwise they would ignore SIGHUP if the tests run under nohup
    dev = start(*heard, "script", "--quiet", "--flush", "--log-out", "/dev/null", "--command")
    dev.wait_until_it_serves()
    child_processes = dev.child_processes()
    dev.kill()  # this process is the terminal
    _, alive = psutil.wait_procs(child_processes, timeout=90)
    assert not alive
    assert not servers_of(checkout)


def servers_of(checkout):
    """The servers of a checkout: processes whose command lines contain its folder."""
    return [
        entry for entry in psutil.process_iter(["cmdline"]) if str(checkout) in " ".join(entry.info["cmdline"] or [])
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_port_in_use_is_reported(checkout, which):
    port = free_port()
    with socket.create_server(("127.0.0.1", port + which)):
        done = subprocess.run(
            ["scripts/dev", f"--port={port}"], cwd=checkout, capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, f"port {port + which} is in use" in done.stderr) == (1, True)


def test_path_with_spaces_is_refused(checkout, tmp_path):
    elsewhere = tmp_path / "with spaces"
    shutil.copytree(checkout / "scripts", elsewhere / "scripts")
    done = subprocess.run(["scripts/dev"], cwd=elsewhere, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "path with spaces" in done.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--port", "x"], ["--nope"]])
def test_unknown_option_is_reported(checkout, arguments):
    done = subprocess.run(["scripts/dev", *arguments], cwd=checkout, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("scripts/dev: ")
