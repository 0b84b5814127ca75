"""docs/asvs.md lists the requirements of ASVS that tests prove."""

import asvs_table


def test_table_is_up_to_date():
    _, written = asvs_table.DOCS.read_text().split("-->\n\n")
    assert written == asvs_table.table(), "run: python tests/meta/asvs_table.py"


def test_each_requirement_has_a_test_and_each_marker_a_requirement():
    assert asvs_table.marked_tests().keys() == asvs_table.REQUIREMENTS.keys()
    assert len(asvs_table.REQUIREMENTS) >= 60
