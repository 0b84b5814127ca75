"""Ansible module: creates folders, files and links of a host in one task.

A loop over `ansible.builtin.template` connects to the host twice for each file. This module connects once for all.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: file_tree
short_description: Create folders, files and links in one task
description:
  - Creates folders first, then files, then links, each in the given order.
  - Files are replaced atomically, and only if their content differs. Supports check mode and diffs.
options:
  folders:
    description: Folders to create, with their parents.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {type: path, required: true, description: The folder.}
      mode: {type: str, default: "0755", description: Its mode.}
      owner: {type: str, default: root, description: Its owner.}
      group: {type: str, default: root, description: Its group.}
  files:
    description: Files to write.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {type: path, required: true, description: The file.}
      content: {type: str, required: true, description: Its content, for example from a template lookup.}
      mode: {type: str, default: "0644", description: Its mode.}
      owner: {type: str, default: root, description: Its owner.}
      group: {type: str, default: root, description: Its group.}
  links:
    description: Symbolic links to create. Their targets need not exist.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {type: path, required: true, description: The link.}
      target: {type: str, required: true, description: Its target.}
"""

EXAMPLES = r"""
- name: Configure the service
  file_tree:
    folders:
      - path: /etc/example
    files:
      - path: /etc/example/example.conf
        content: "{{ lookup('ansible.builtin.template', 'example.conf.j2') }}"
"""

RETURN = r"""
changed_paths:
  description: The paths that were changed, or would be changed in check mode.
  type: list
  elements: str
  returned: always
"""

Entry = dict[str, Any]


class Tree:
    """Makes the changes, and remembers them."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.changed: list[str] = []
        self.diffs: list[dict[str, str]] = []

    def folder(self, wanted: Entry) -> None:
        """Create a folder with its mode and owner."""
        folder = Path(wanted["path"])
        if not folder.is_dir():
            self._note(wanted["path"], "absent", "folder")
            if not self.module.check_mode:
                folder.mkdir(parents=True)
        self._attributes(wanted)

    def file(self, wanted: Entry) -> None:
        """Write a file if its content differs."""
        before = _read(Path(wanted["path"]))
        if before != wanted["content"]:
            self._note(wanted["path"], before or "", wanted["content"])
            if not self.module.check_mode:
                self._replace(wanted)
        self._attributes(wanted)

    def link(self, wanted: Entry) -> None:
        """Create a link. It replaces an existing link or file."""
        link, target = Path(wanted["path"]), wanted["target"]
        before = str(link.readlink()) if link.is_symlink() else ""
        if before != target:
            self._note(wanted["path"], before, target)
            if not self.module.check_mode:
                beside = link.with_name(f"{link.name}.{os.getpid()}")
                beside.symlink_to(target)
                beside.replace(link)

    def _replace(self, wanted: Entry) -> None:
        """Write a temporary file beside the file, and rename it. Nobody can read a secret before it has its mode."""
        path = Path(wanted["path"])
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                file.write(wanted["content"])
            self._set_attributes({**wanted, "path": temporary})
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink()
            raise

    def _set_attributes(self, wanted: Entry) -> bool:
        attributes = {name: wanted[name] for name in ("path", "mode", "owner", "group")}
        common = self.module.load_file_common_arguments({**attributes, "attributes": None, "seuser": None})
        return bool(self.module.set_fs_attributes_if_different(common, changed=False))

    def _attributes(self, wanted: Entry) -> None:
        if not Path(wanted["path"]).exists():  # in check mode
            return
        if self._set_attributes(wanted):
            self._note(wanted["path"], "other owner or mode", f"{wanted['owner']} {wanted['group']} {wanted['mode']}")

    def _note(self, path: str, before: str, after: str) -> None:
        if path not in self.changed:
            self.changed.append(path)
        self.diffs.append({"before_header": path, "after_header": path, "before": before, "after": after})


def _read(file: Path) -> str | None:
    try:
        return file.read_bytes().decode(errors="surrogateescape")
    except OSError:
        return None


def _entries(default_mode: str, **own: Entry) -> Entry:
    attributes = {"mode": {"type": "str", "default": default_mode}}
    attributes |= {name: {"type": "str", "default": "root"} for name in ("owner", "group")}
    path = {"path": {"type": "path", "required": True}}
    options = {**path, **own, **attributes} if default_mode else {**path, **own}
    return {"type": "list", "elements": "dict", "default": [], "options": options}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "folders": _entries("0755"),
            "files": _entries("0644", content={"type": "str", "required": True}),
            "links": _entries("", target={"type": "str", "required": True}),
        },
        supports_check_mode=True,
    )
    tree = Tree(module)
    for kind, bring in (("folders", tree.folder), ("files", tree.file), ("links", tree.link)):
        for wanted in module.params[kind]:
            try:
                bring(wanted)
            except OSError as error:
                module.fail_json(msg=f"{wanted['path']}: {error.strerror}", changed_paths=tree.changed)
    module.exit_json(changed=bool(tree.changed), changed_paths=tree.changed, diff=tree.diffs)


if __name__ == "__main__":
    main()
