#!/usr/bin/env python3
"""Download the wheels of a lock file with hashes for the Python of another machine.

    wheelhouse.py LOCK FOLDER PYTHON ARCHITECTURE        such as: wheelhouse.py requirements.txt wheels 3.13.5 x86_64

`pip download --python-version` downloads wheels for the other Python, but evaluates markers with its own Python. So
this script evaluates the markers, and gives pip a lock file without them. This file stays beside the wheels as
requirements.txt.
"""

import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

GLIBC = range(17, 42)  # Debian 13 has 2.41


def entries(lock: str) -> list[list[str]]:
    """The lock's requirements, each with its hashes."""
    lines = [line for line in lock.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: list[list[str]] = []
    for line in lines:
        if line[0].isspace():
            found[-1].append(line.strip(" \\"))
        else:
            found.append([line.strip(" \\")])
    return found


def main(lock: Path, folder: Path, python: str, architecture: str) -> None:
    """Download the wheels into the folder."""
    short = ".".join(python.split(".")[:2])
    environment = {
        "python_version": short,
        "python_full_version": python,
        "platform_machine": architecture,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    kept = []
    for first, *hashes in entries(lock.read_text()):
        requirement = Requirement(first)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            requirement.marker = None
            kept.append(" ".join([str(requirement), *hashes]))
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder / "requirements.txt"
    plain.write_text("\n".join(kept) + "\n")
    platforms = [f"manylinux_2_{minor}_{architecture}" for minor in reversed(GLIBC)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--python-version", short, "--implementation", "cp"]
    command += [f"--abi={abi}" for abi in (f"cp{short.replace('.', '')}", "abi3", "none")]
    command += [f"--platform={entry}" for entry in [*platforms, f"manylinux2014_{architecture}", "any"]]
    subprocess.run([*command, "--dest", str(folder), "--requirement", str(plain)], check=True)  # noqa: S603  # pip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
