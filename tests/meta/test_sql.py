"""SQL conditions are SQLAlchemy expressions, which have the right precedence. Only whole statements use text().

Once, the fragment text("a OR b") after an AND let a retry reopen the tasks of all users.
"""

import ast
from pathlib import Path

import pytest

STATEMENTS = ("SELECT ", "WITH ", "LOCK TABLE ")


def calls_of_text(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("text", "literal_column")
        ):
            yield node


@pytest.mark.asvs("1.2.4")
def test_sql_text_contains_only_whole_statements():
    found = [
        (path.name, ast.unparse(call)) for path in Path("sentiment_app").rglob("*.py") for call in calls_of_text(path)
    ]
    assert found, "the test found no call of text()"
    fragments = [row for row in found if not row[1].partition("(")[2].strip("\"'").startswith(STATEMENTS)]
    assert fragments == []


@pytest.mark.asvs("1.2.4")
def test_sql_text_is_imported_under_its_own_name():
    aliases = [
        (path.name, name.asname)
        for path in Path("sentiment_app").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
        for name in node.names
        if name.name == "text" and name.asname
    ]
    assert aliases == []
