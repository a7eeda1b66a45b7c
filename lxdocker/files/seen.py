"""What is at a path, as far as this user can see.

``Path.exists()`` and its like raise where a folder is closed to this user, or a name is too long for any file (before
Python 3.14; from then on, they also take a disk that fails for an empty one). Nothing is there for this user, and
whoever opens it hears the reason. All other errors are raised.
"""

from __future__ import annotations

import errno
import stat
from pathlib import Path

_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG}


def exists(path: Path) -> bool:
    return bool(_mode(path))


def is_file(path: Path) -> bool:
    return stat.S_ISREG(_mode(path))


def is_dir(path: Path) -> bool:
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    """0 for none."""
    try:
        return path.stat().st_mode
    except ValueError:  # a NUL byte
        return 0
    except OSError as error:
        if error.errno in _NOTHING:
            return 0
        raise
