"""What the modules have in common: the ``lxdocker`` program, and the files that they write for it."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

# Of every module.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "config": {"type": "path"},
    "executable": {"type": "str", "default": "lxdocker"},
}
HEADER = "# Written by Ansible: changes will be overwritten.\n"
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Program:
    """``lxdocker`` on the host that Ansible manages."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._path = module.get_bin_path(module.params["executable"], required=True)
        self._config = ["--config", module.params["config"]] if module.params["config"] else []

    def run(self, *arguments: str, stdin: str = "", fails: bool = True, configured: bool = True) -> dict[str, Any]:
        """The document of a command. Ends the module where it fails as a whole, unless ``fails`` is false."""
        argv = [self._path, *arguments, *(self._config if configured else []), "--json"]
        status, out, err = self._module.run_command(argv, data=stdin, cwd="/", environ_update={"LC_ALL": "C.UTF-8"})
        try:
            document: dict[str, Any] = json.loads(out)
        except ValueError:
            self._module.fail_json(msg=f"lxdocker {arguments[0]} has failed: {err.strip()}", rc=status, stdout=out)
        if fails and "error" in document:
            self._module.fail_json(msg=in_words(document["error"]), error=document["error"], rc=status)
        return document

    def setting(self, name: str) -> Any:
        """The value in force."""
        settings = self.run("config")["settings"]
        return next(one["value"] for one in settings if one["name"] == name)


def in_words(error: Mapping[str, Any]) -> str:
    """An error of lxdocker's, as one text."""
    return "".join(
        (error["what"], f": {error['why']}" if error["why"] else "", f" -> {error['do']}" if error["do"] else "")
    )


def as_yaml(value: Mapping[str, Any]) -> str:
    """A mapping as YAML, without a library that the host may not have: every scalar is as in JSON."""
    return HEADER + "".join(f"{line}\n" for line in _lines(value))


def _lines(value: Any) -> Iterator[str]:
    items = (
        [(f"{_key(key)}:", member) for key, member in value.items()]
        if isinstance(value, Mapping)
        else [("-", member) for member in value]
    )
    for begin, member in items:
        if isinstance(member, Mapping | list | tuple) and member:
            yield begin
            yield from (f"  {line}" for line in _lines(member))
        else:
            yield f"{begin} {json.dumps(member, ensure_ascii=False)}"


def _key(key: object) -> str:
    return str(key) if _PLAIN_KEY.fullmatch(str(key)) else json.dumps(str(key), ensure_ascii=False)


class File:
    """A text file that a module is responsible for."""

    def __init__(self, module: AnsibleModule, path: Path) -> None:
        self._module = module
        self.path = path
        self.before = self._read()

    def _read(self) -> str | None:
        try:
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._module.fail_json(msg=f"cannot read {self.path}: {error}")
            raise  # for the type checker: fail_json() has ended the module

    def diff(self, after: str | None) -> dict[str, str]:
        """As Ansible shows it."""
        return {
            "before": self.before or "",
            "after": after or "",
            "before_header": str(self.path) if self.before is not None else "/dev/null",
            "after_header": str(self.path) if after is not None else "/dev/null",
        }

    def put(self, text: str | None) -> None:
        """Makes this its content, at once; None removes it."""
        try:
            if text is None:
                self.path.unlink(missing_ok=True)
                return
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            handle, new = tempfile.mkstemp(dir=self._module.tmpdir)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(new).chmod(0o644)
            self._module.atomic_move(new, str(self.path))
        except OSError as error:
            self._module.fail_json(msg=f"cannot write {self.path}: {error}")

    def restore(self) -> None:
        """Back to what was there."""
        self.put(self.before)


def named(images: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any] | None:
    """The image of that name in a document."""
    return next((dict(image) for image in images if image["name"] == name), None)
