"""The documentation agrees with the code: links, file names, settings and error types."""

import importlib
import pkgutil
import re
from dataclasses import fields
from pathlib import Path

import pytest

import sentiment_app
from sentiment_app.config import Settings
from sentiment_app.errors import AppError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "deploy/README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOP_LEVEL = "sentiment_app|migrations|deploy|scripts|tests|ansible|docs|clients"
# These paths are created by users or at run time.
NOT_IN_GIT = ("ansible/secrets/", "ansible/inventories/YOURS")
ANSWERED_WITHOUT_A_CLASS = {"not-ready", "internal", "https-required"}


def page_id(page):
    return str(page.relative_to(ROOT))


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_existing_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page_id(page)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page_id(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_named_files_exist(page):
    for name in re.findall(rf"`((?:{TOP_LEVEL})/[\w./-]+)`", page.read_text()):
        if not name.startswith(NOT_IN_GIT):
            assert (ROOT / name).exists(), f"{page_id(page)} names {name}"


def test_every_error_type_has_a_section():
    for module in pkgutil.walk_packages(sentiment_app.__path__, "sentiment_app."):
        importlib.import_module(module.name)
    classes, kinds = [AppError], set()
    while classes:
        found = classes.pop().__subclasses__()
        classes += found
        kinds |= {error.kind for error in found}
    sections = set(re.findall(r"^### (\S+)$", (ROOT / "docs/errors.md").read_text(), re.MULTILINE))
    assert sections == kinds | ANSWERED_WITHOUT_A_CLASS


def test_every_setting_is_documented():
    rows = re.findall(r"^\| `([A-Z_]+)` \| .* \| (.+) \|$", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    assert dict(rows) == {field.name.upper(): field.metadata["doc"] for field in fields(Settings)}


def test_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 800
