#!/usr/bin/python
"""A spec, and the image that lxdocker builds from it."""

from __future__ import annotations

DOCUMENTATION = """
module: lxdocker_image
short_description: Manage a spec of lxdocker, and its image
description:
  - Writes or removes a spec in the folder of specs, and has lxdocker build, update or remove its image in LXD and in
    the published tree.
  - A spec that lxdocker refuses is not left behind.
options:
  name:
    description: The image's name, which is also the spec's.
    type: str
    required: true
  state:
    description:
      - V(present) writes the spec.
      - V(absent) removes it.
    type: str
    choices: [present, absent]
    default: present
  spec:
    description: The keys of the spec, such as C(image). Required with O(state=present).
    type: dict
  specs:
    description: Folder of specs. By default the one that lxdocker uses.
    type: path
  sync:
    description:
      - Whether to have lxdocker bring the image up to date, or remove it, now instead of by its next sync.
      - When the last spec of a folder is removed, this removes all images built from this folder.
    type: bool
    default: true
  config:
    description: Configuration file of lxdocker. By default the one that lxdocker uses.
    type: path
  executable:
    description: The program, if it is not in C(PATH).
    type: str
    default: lxdocker
requirements: [lxdocker]
attributes:
  check_mode:
    description: The registry is asked, but nothing is written or built.
    support: full
  diff_mode:
    description: Shows the spec.
    support: full
author: [the lxdocker authors]
"""

EXAMPLES = """
- name: nginx as an LXD image
  lxdocker.lxdocker.lxdocker_image:
    name: web
    spec:
      image: library/nginx:1.27
      environment: {TZ: Europe/Berlin}

- name: No longer needed
  lxdocker.lxdocker.lxdocker_image:
    name: old
    state: absent
"""

RETURN = """
file:
  description: The spec.
  returned: always
  type: str
image:
  description:
    - What the sync says of the image, as in lxdocker's JSON for programs, with C(fingerprint) and C(outcome).
    - Null without O(sync), or if there is nothing to say.
  returned: always
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxdocker.lxdocker.plugins.module_utils.program import (
    ARGUMENTS,
    File,
    Program,
    as_yaml,
    in_words,
    named,
)


class Image:
    """The image of one name."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.name: str = module.params["name"]
        self.program = Program(module)
        self.folder = Path(module.params["specs"] or self.program.setting("specs"))
        self.spec = File(module, self.folder / f"{self.name}.yaml")

    def present(self) -> dict[str, Any]:
        """Writes the spec, and syncs."""
        wanted = as_yaml(self.module.params["spec"])
        changed = wanted != self.spec.before
        result = {"changed": changed, "file": str(self.spec.path), "diff": self.spec.diff(wanted), "image": None}
        if changed and not self.module.check_mode:
            self.spec.put(wanted)
            self._validate()
        if not self.module.params["sync"] or (changed and self.module.check_mode):
            return result
        rehearsal = ["--dry-run"] if self.module.check_mode else []
        document = self.program.run("sync", self.name, "--specs", str(self.folder), *rehearsal)
        image = named(document["images"], self.name)
        if image and image["error"]:
            self.module.fail_json(msg=in_words(image["error"]), error=image["error"], image=image)
        did = image["action" if rehearsal else "outcome"] if image else None
        return {**result, "changed": changed or did not in {None, "keep", "unchanged"}, "image": image}

    def _validate(self) -> None:
        document = self.program.run("validate", self.name, "--specs", str(self.folder), fails=False)
        if "error" in document:
            self.spec.restore()
            self.module.fail_json(msg=in_words(document["error"]), error=document["error"])

    def absent(self) -> dict[str, Any]:
        """Removes the spec, and then what nothing names any more."""
        changed = self.spec.before is not None
        result = {"changed": changed, "file": str(self.spec.path), "diff": self.spec.diff(None), "image": None}
        if changed and not self.module.check_mode:
            self.spec.put(None)
        if not self.module.params["sync"] or (changed and self.module.check_mode):
            return result
        # lxdocker suspects a folder without any spec to be a mistake; here it is none.
        everything = [] if any(self.folder.glob("[!_.]*.y*ml")) else ["--all"]
        how = ["--dry-run"] if self.module.check_mode else ["--yes"]
        document = self.program.run("prune", "--specs", str(self.folder), *everything, *how)
        image = named(document["images"], self.name)
        return {**result, "changed": changed or image is not None, "image": image}


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "spec": {"type": "dict"},
            "specs": {"type": "path"},
            "sync": {"type": "bool", "default": True},
            **ARGUMENTS,
        },
        required_if=[("state", "present", ["spec"])],
        supports_check_mode=True,
    )
    image = Image(module)
    module.exit_json(**(image.present() if module.params["state"] == "present" else image.absent()))


if __name__ == "__main__":
    main()
