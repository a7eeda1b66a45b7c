"""What is in a volume, podman's or LXD's, so that the two can be compared."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tests.lxd.rig import describe


def seen(root: Path, owner: int = 0) -> dict[bytes, tuple[object, ...]]:
    """All that a volume holds, and its own folder as ``.``; ``owner``: the host's id of the root that it is for."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path, what in {**describe(root), b".": ""}.items():
        file = os.path.join(os.fsencode(root), path)  # noqa: PTH118 - bytes
        status = os.lstat(file)
        names = os.listxattr(file, follow_symlinks=False)
        attributes = {name: os.getxattr(file, name, follow_symlinks=False) for name in names}
        if len(capability := attributes.get("security.capability", b"")) == 24:  # for that root alone
            attributes["security.capability"] = b"\x01\0\0\x02" + capability[4:20]
        ids = status.st_uid - owner, status.st_gid - owner
        links = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
        content = what.split(" ", 3)[3:]
        found[path] = (stat.filemode(status.st_mode), *ids, int(status.st_mtime), links, content, attributes)
    return found


def told(root: Path, owner: int, *, of_image: bool) -> dict[str, str]:
    """The same as text; where the image has no such folder, that is as old as the container."""
    return {
        path.decode(errors="surrogateescape"): " ".join(
            [str(mode), f"{uid}:{gid}"]
            if path == b"." and not of_image
            else [str(mode), f"{uid}:{gid}", *map(str, rest)]
        )
        for path, (mode, uid, gid, *rest) in seen(root, owner).items()
    }
