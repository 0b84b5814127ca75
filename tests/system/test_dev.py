"""scripts/dev, from the first start to the last process gone."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from product import ROOT, call, free_port


@pytest.fixture(scope="module")
def checkout():
    """A copy of the source as git sees it, with this environment's .venv."""
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_serves_and_leaves_no_process_behind(checkout, number):
    port = free_port()
    with (checkout / "dev.log").open("wb") as log:
        clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG") or "PIP" in name}
        dev = subprocess.Popen(
            ["scripts/dev", "--port", str(port)], cwd=checkout, env=clean, stdout=log, stderr=log, process_group=0
        )
    deadline = time.monotonic() + 90
    while call(f"http://127.0.0.1:{port}/readyz", timeout=2)[0] != 200:
        assert dev.poll() is None, (checkout / "dev.log").read_text()
        assert time.monotonic() < deadline, (checkout / "dev.log").read_text()
        time.sleep(0.2)
    family = psutil.Process(dev.pid).children(recursive=True)
    for part in ("gunicorn", "sentiment_app.worker", "reconcile"):  # whatever is killed comes back
        next(one for one in family if part in " ".join(one.cmdline()) and one.name() != "bash").kill()
    # Its servers too: they have sessions of their own, and this folder in their command lines.
    for part in ("valkey-server", "bin/postgres"):
        next(one for one in servers_of(checkout) if part in " ".join(one.cmdline())).kill()
    deadline = time.monotonic() + 60
    while call(f"http://127.0.0.1:{port}/readyz", timeout=2)[0] != 200 or not has_worker(dev.pid):
        assert dev.poll() is None, (checkout / "dev.log").read_text()
        assert time.monotonic() < deadline, (checkout / "dev.log").read_text()
        time.sleep(0.2)
    family = psutil.Process(dev.pid).children(recursive=True)
    dev.send_signal(number)
    assert dev.wait(40) == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    assert not servers_of(checkout)
    assert f"http://127.0.0.1:{port}/docs" in (checkout / "dev.log").read_text()


def servers_of(checkout):
    return [one for one in psutil.process_iter(["cmdline"]) if str(checkout) in " ".join(one.info["cmdline"] or [])]


def has_worker(dev):
    for process in psutil.Process(dev).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # gone by now
            if process.cmdline()[1:] == ["-m", "sentiment_app.worker"]:
                return True
    return False


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--port", "x"], ["--nope"]])
def test_a_wrong_option_is_told(checkout, arguments):
    done = subprocess.run(["scripts/dev", *arguments], cwd=checkout, capture_output=True, text=True, timeout=10)
    assert done.returncode == 2
    assert done.stderr.startswith("scripts/dev: ")
