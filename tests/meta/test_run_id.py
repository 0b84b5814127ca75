"""The deployment lock names a run of Ansible, and knows whether the run has ended."""

import os
import subprocess
from pathlib import Path

RUN_ID = Path(__file__).parents[2] / "ansible/roles/app_release/files/run-id"


def identify_own_process():
    """As ansible-playbook does: a process that it has started asks."""
    return subprocess.check_output(["sh", "-c", f"{RUN_ID} $$; true"], text=True).strip()


def has_ended(run):
    return subprocess.run([RUN_ID, "--ended", run], check=False).returncode == 0


def test_running_process_has_not_ended():
    run = identify_own_process()
    assert run.split()[:2] == [os.uname().nodename, str(os.getpid())]
    assert identify_own_process() == run
    assert not has_ended(run)


def test_process_that_ended_has_ended():
    inner = f"import subprocess; print(subprocess.check_output(['sh', '-c', '{RUN_ID} $$; true'], text=True))"
    run = subprocess.check_output(["python3", "-c", inner], text=True).strip()
    assert has_ended(run)


def test_other_process_with_the_same_number_is_another_run():
    host, pid, start = identify_own_process().split()
    assert has_ended(f"{host} {pid} {int(start) - 1}")


def test_run_on_another_controller_has_not_ended():
    assert not has_ended("elsewhere 4194304 1")
