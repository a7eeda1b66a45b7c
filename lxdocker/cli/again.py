"""Commands of lxdocker in what is printed: with those options of the running command that say where it is at work, so
that they are about the same folder, tree and LXD when they are pasted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lxdocker.log import shell

# The parameters that say where; others say what is done, which differs from command to command.
PLACES = ("config", "specs", "tree", "project", "builder_project", "remote")
_COMMAND = re.compile(r"\blxdocker((?: [a-z][a-z-]*)+)")
_KEYS = {"do", "commands"}  # of a JSON document, which hold such texts


def repeating(ctx: Any) -> Callable[[str], str] | None:
    """What adds the options to a text; None if none was given. ``ctx``: typer's, of the running command."""
    given: dict[str, tuple[str, str]] = {}
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name)
        if parameter.name in PLACES and source is not None and source.name == "COMMANDLINE":
            given[parameter.name] = (parameter.opts[0], str(ctx.params[parameter.name]))
    if not given:
        return None
    root = ctx.find_root().command

    def repeat(text: str) -> str:
        return _COMMAND.sub(lambda found: _with_options(found, root, given), text)

    return repeat


def _with_options(found: re.Match[str], root: Any, given: dict[str, tuple[str, str]]) -> str:
    node, path = root, ["lxdocker"]
    words = found[1].split()
    while words and words[0] in getattr(node, "commands", {}):
        node = node.commands[words[0]]
        path.append(words.pop(0))
    if len(path) == 1 or hasattr(node, "commands"):
        return found[0]
    takes = {parameter.name for parameter in node.params}
    rest = found.string[found.start() :].partition("\n")[0].split()
    more = [option for name, option in given.items() if name in takes and option[0] not in rest]
    return " ".join([*path, *(shell(option) for option in more), *words])


def in_document(value: Any, repeat: Callable[[str], str], key: str = "") -> Any:
    """A JSON document in which the texts have the options, too."""
    if isinstance(value, dict):
        return {name: in_document(item, repeat, name) for name, item in value.items()}
    if isinstance(value, list):
        return [in_document(item, repeat, key) for item in value]
    return repeat(value) if isinstance(value, str) and key in _KEYS else value
