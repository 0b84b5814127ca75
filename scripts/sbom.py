"""Writes requirements.cdx.json, the software bill of materials (CycloneDX 1.6) of requirements.txt."""

import json
import re
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT = Path(__file__).parent.parent
LOCK, SBOM = ROOT / "requirements.txt", ROOT / "requirements.cdx.json"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\n]+)", re.MULTILINE)


def render(requirements: str) -> str:
    """The bill of materials of a lock file, as JSON. It is the same for the same lock file."""
    product = Component(name="sentiment-app", type=ComponentType.APPLICATION, bom_ref="sentiment-app")
    packages = []
    for name, version in PINNED.findall(requirements):
        url = PackageURL("pypi", name=name, version=version)
        packages.append(Component(name=name, version=version, purl=url, bom_ref=url.to_string()))
    bom = Bom(components=packages)
    bom.metadata.component = product
    bom.register_dependency(product, packages)
    content = json.loads(JsonV1Dot6(bom).output_as_string())
    del content["serialNumber"], content["metadata"]["timestamp"]  # they would differ each time
    return json.dumps(content, indent=2) + "\n"


if __name__ == "__main__":
    SBOM.write_text(render(LOCK.read_text()))
