"""The repository contains the product, but no downloaded data and no trained models."""

import ast
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import sbom

FOLDERS = {".ci", "ansible", "clients", "deploy", "docs", "migrations", "scripts", "sentiment_app", "tests"}
LARGEST = 2_000_000  # the largest file is Swagger UI's script; data and models are larger


@pytest.fixture(scope="module")
def tracked():
    if not (shutil.which("git") and Path(".git").exists()):
        pytest.skip("this is not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True, text=True)
    return [path for path in map(Path, listing.stdout.split("\0")[:-1]) if path.exists()]


def test_repository_has_only_known_folders(tracked):
    assert {path.parts[0] for path in tracked if len(path.parts) > 1} == FOLDERS


def test_no_data_or_model_is_committed(tracked):
    kinds = {".csv", ".npz", ".joblib", ".gz", ".parquet", ".ndjson"}
    # The corpus has small files with texts of our own.
    assert [path for path in tracked if path.suffix in kinds and path.parent.name != "corpus"] == []
    assert [path for path in tracked if path.stat().st_size > LARGEST] == []


def test_bill_of_materials_lists_the_locked_packages():
    written = Path("requirements.cdx.json").read_text()
    assert written == sbom.render(Path("requirements.txt").read_text())
    assert {component["name"] for component in json.loads(written)["components"]} >= {"flask", "psycopg2-binary", "rq"}


@pytest.mark.asvs("1.3.2")
@pytest.mark.parametrize("folder", ["sentiment_app", "scripts", "deploy"])
def test_no_text_is_run_as_code(folder):
    found = []
    for path in Path(folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                has_shell = any(keyword.arg == "shell" for keyword in node.keywords)
                if called in ("eval", "exec", "compile", "__import__", "os.system", "os.popen") or has_shell:
                    found.append((str(path), node.lineno, called))
    assert found == []
