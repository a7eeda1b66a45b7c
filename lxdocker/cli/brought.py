"""What users bring along from Docker: a command line or a compose file, as an argument, in a file or on stdin."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lxdocker.errors import UsageError
from lxdocker.files.seen import is_file
from lxdocker.reasons import in_words
from lxdocker.text import one_line
from lxdocker.values import home_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lxdocker.docker.service import Service

_MAX_INPUT = 256 * 1024  # bytes; what is larger is no compose file


def read(words: Sequence[str], pool: str, name: str = "") -> tuple[tuple[Service, ...], Path]:
    """The services that the arguments stand for, and the folder that their paths are relative to.

    ``name``: of the instance, where a command has none. Raises UsageError for anything else, SpecError for what is no
    YAML.
    """
    from lxdocker.docker import compose, run
    from lxdocker.docker.interpolate import dotenv
    from lxdocker.docker.words import split

    here, home = Path.cwd(), home_folder(os.environ)
    if len(words) > 1 and words[1].startswith("-") and (words[0] == "-" or _is_file(words[0])):
        raise UsageError(
            f"options after {one_line(words[0], 200)}",
            "what follows the first word is taken for a docker command",
            f"options come first: lxdocker convert {one_line(shlex.join([*words[1:], words[0]]), 200)}",
        )
    if len(words) > 1:  # split by the shell already
        return (run.read(words, here, home, pool, name),), here
    (word,) = words
    words_of_a_command = " " in word.strip() or "\n" in word
    is_command = words_of_a_command and word != "-" and (run.is_command(word) or not _is_file(word))
    if is_command:
        text, label, folder = word, "the command", here
    elif word == "-":
        text, label, folder = _text(sys.stdin.buffer.read(_MAX_INPUT + 1) if sys.stdin else b"", "stdin"), "stdin", here
    else:
        path = Path(word)
        try:
            with path.open("rb") as file:
                text, label = _text(file.read(_MAX_INPUT + 1), word), one_line(word, 200)
        except OSError as error:
            raise UsageError(
                f"cannot read {one_line(word, 200)}",
                error.strerror or in_words(error),
                "give 'docker run ...' in quotes, a compose file, or - for stdin",
            ) from error
        folder = path.absolute().parent
    if run.is_command(text):
        missing: list[str] = []
        service = run.read(split(text, str(here), str(home), os.environ.get, missing.append), here, home, pool, name)
        return (run.without_variables(service, missing),), here
    if is_command:
        raise UsageError("not a docker run command", one_line(text, 60), "give 'docker run ...', or a compose file")
    variables = dict(os.environ)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        # The environment comes first, as with docker compose.
        variables = {**dotenv((folder / ".env").read_text()[:_MAX_INPUT], variables.get), **variables}
    return compose.read(text, label, folder, home, pool, variables.get), folder


def _is_file(word: str) -> bool:
    """Or is meant to be one."""
    return is_file(Path(word)) or bool(re.fullmatch(r"[^\n]+\.ya?ml", word))


def _text(data: bytes, what: str) -> str:
    if len(data) > _MAX_INPUT:
        raise UsageError(f"too much to convert: {one_line(what, 200)}", "at most 256 KiB are read", "split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"not text: {one_line(what, 200)}", in_words(error), "give a compose file") from None
