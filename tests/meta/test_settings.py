"""Lists that must agree: the settings and the environment template."""

import re
from dataclasses import fields
from pathlib import Path

from sentiment_app.config import Settings

TEMPLATE = Path("deploy/sentiment.env.template")


def test_the_template_lists_every_setting_with_its_meaning():
    text = TEMPLATE.read_text()
    listed = dict(re.findall(r"^# (.+)\n#?([A-Z_]+)=", text, re.MULTILINE))
    assert {name: doc for doc, name in listed.items()} == {
        one.name.upper(): one.metadata["doc"] for one in fields(Settings)
    }
