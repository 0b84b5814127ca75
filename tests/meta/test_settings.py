"""Lists that must agree: the settings and the environment template."""

import re
from dataclasses import fields
from pathlib import Path

from servers import LOG_SETTINGS

from sentiment_app.config import Settings

TEMPLATE = Path("deploy/sentiment.env.template")


def test_template_lists_every_setting():
    text = TEMPLATE.read_text()
    listed = dict(re.findall(r"^# (.+)\n#?([A-Z_]+)=", text, re.MULTILINE))
    assert {name: doc for doc, name in listed.items()} == {
        entry.name.upper(): entry.metadata["doc"] for entry in fields(Settings)
    }


def test_development_servers_log_as_little_as_production():
    production = Path("ansible/roles/postgresql/templates/settings.conf.j2").read_text()
    assert {
        name: value for name, value in re.findall(r"^(\w+) = (.+)$", production, re.MULTILINE) if name in LOG_SETTINGS
    } == LOG_SETTINGS
