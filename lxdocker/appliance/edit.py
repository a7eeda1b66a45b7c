"""edit: a person's editor on a copy of the specs, which goes back once it is valid."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lxdocker import log
from lxdocker.appliance import inside, look, upgrade
from lxdocker.appliance.machine import Machine
from lxdocker.appliance.wish import ETC, SPECS, Names
from lxdocker.config.spec import load_specs
from lxdocker.errors import LxdockerError, SpecError, UsageError
from lxdocker.files import scratch
from lxdocker.files.seen import exists, is_file
from lxdocker.lxd.api import Lxd
from lxdocker.progress import Say
from lxdocker.reasons import in_words

EDITORS = ("VISUAL", "EDITOR")
EXAMPLE = "# A spec: one image, named like this file. docs/specs.md describes every key.\nimage: \n"


def editor(environ: Mapping[str, str]) -> list[str]:
    """The user's editor, as a command."""
    named = next((environ[name] for name in EDITORS if environ.get(name)), "vi")
    return shlex.split(named) or ["vi"]


def edit(lxd: Lxd, names: Names, files: list[str], again: Callable[[SpecError], bool], say: Say) -> list[str]:
    """Lets the user edit specs. Returns the names of the files that have changed, and are now in the appliance.

    ``files``: names of specs; all, if none is named. ``again``: asked whether to go on after mistakes; if not, nothing
    has changed and SpecError is raised. Raises LxdockerError. What was typed is kept whatever happens: ``say`` is told
    where.
    """
    machine = look.find(lxd, names)
    _check_place(machine)
    with scratch.folder() as copy:
        inside.pull_folder(machine, SPECS, copy)
        before = _contents(copy)
        chosen = _chosen(copy, files)
        with keeping(copy, say):
            _let_edit(copy, chosen, again)
            changed = _changed(before, _contents(copy))
            if changed:
                inside.push_changes(machine, copy, changed, SPECS)
        return changed


def _let_edit(copy: Path, chosen: list[Path], again: Callable[[SpecError], bool]) -> None:
    """Until all is valid. Raises SpecError where the user gives up."""
    while True:
        _run([*editor(os.environ), *map(str, chosen)])
        for path in chosen:
            if exists(path) and path.read_bytes() == EXAMPLE.encode():
                path.unlink()
        try:
            load_specs(copy)
        except SpecError as error:
            if not again(error):
                raise
        else:
            return


@contextmanager
def keeping(copy: Path, say: Say) -> Iterator[None]:
    """Where something fails after files were edited, they stay in a folder of their own."""
    before = _contents(copy)
    try:
        yield
    except BaseException:
        changed = [name for name in _changed(before, _contents(copy)) if exists(copy / name)]
        if changed:
            kept = Path(tempfile.mkdtemp(prefix="lxdocker-edit."))
            for name in changed:
                (kept / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(copy / name, kept / name)
            say(f"what you typed is in {kept}: {', '.join(changed)}")
        raise


def _changed(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _check_place(machine: Machine) -> None:
    if upgrade.specs_of_host(machine):
        raise UsageError("the specs are in a folder of this host", "the appliance only reads them", "edit them there")
    settings = machine.pull(f"{ETC}/config.yaml") or b""
    if any(line.startswith(b"specs_repository:") for line in settings.splitlines()):
        raise UsageError("the specs are in a git repository", "the next sync fetches them", "commit the change there")


def _chosen(folder: Path, files: list[str]) -> list[Path]:
    if not files:
        return sorted(path for path in folder.iterdir() if path.suffix in {".yaml", ".yml"}) or [folder / "NAME.yaml"]
    chosen = []
    for name in files:
        path = folder / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
        if path.parent != folder:
            raise UsageError(f"not the name of a spec: {name[:100]}", "", "give names such as nginx")
        if not exists(path):
            path.write_text(EXAMPLE)
        chosen.append(path)
    return chosen


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if is_file(path)}


def _run(argv: list[str]) -> None:
    log.command(argv)
    try:
        status = subprocess.run(argv, check=False).returncode
    except OSError as error:
        raise UsageError(f"cannot start {argv[0]}", in_words(error), "set EDITOR to another editor") from error
    if status:
        raise LxdockerError(f"{argv[0]} failed", f"exit status {status}", "nothing was changed")
