"""Writes docs/asvs.md from the tests with the marker `asvs`. Usage: python tests/meta/asvs_table.py"""

import ast
import json
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs/asvs.md"
REQUIREMENTS = json.loads((ROOT / "tests/meta/asvs.json").read_text())


def marked_tests():
    """The tests with the marker, by requirement."""
    found = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for mark in getattr(node, "decorator_list", []):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.asvs":
                    for requirement in mark.args:
                        found[requirement.value].append(f"{path.relative_to(ROOT / 'tests')}: `{node.name}`")
    return found


def table():
    """The table, in Markdown."""
    tests = marked_tests()
    lines = ["| id | requirement | tests |", "|---|---|---|"]
    lines += [f"| {id_} | {text} | {'<br>'.join(tests[id_])} |" for id_, text in REQUIREMENTS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCS.write_text(DOCS.read_text().split("-->")[0] + "-->\n\n" + table())
