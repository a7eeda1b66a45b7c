"""Where lxdocker's own data files are: its schemas and its LXD profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lxdocker.errors import LxdockerError
from lxdocker.files.seen import is_file

_PACKAGE = Path(__file__).resolve().parents[1]


def resource(folder: Literal["schema", "profiles"], name: str) -> Path:
    """The file ``folder/name``: inside the package in a wheel, beside it in a checkout.

    Raises LxdockerError where neither has it: the installation is incomplete.
    """
    for base in (_PACKAGE, _PACKAGE.parent):
        path = base / folder / name
        if is_file(path):
            return path
    raise LxdockerError(
        f"missing file of lxdocker: {folder}/{name}",
        f"it is neither in {_PACKAGE} nor in {_PACKAGE.parent}",
        "reinstall lxdocker",
    )
