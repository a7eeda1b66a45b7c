"""The keys of an image's versions: the minute each was published. LXD takes the highest for the newest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

_VERSION_FORMAT = "%Y%m%d_%H%M"
_VERSION_KEY = re.compile("[0-9]{8}_[0-9]{4}")


def next_version_key(existing: Iterable[str], now: datetime) -> str:
    """A key for a version published ``now``, higher than every existing one; minutes are all the format has."""
    newest = max(existing, default="")
    key = now.astimezone(UTC).strftime(_VERSION_FORMAT)
    if key > newest:
        return key
    return (version_time(newest) + timedelta(minutes=1)).strftime(_VERSION_FORMAT)


def is_version_key(text: str) -> bool:
    """Whether LXD would read ``text`` as a version."""
    if not _VERSION_KEY.fullmatch(text):
        return False
    try:
        version_time(text)
    except ValueError:
        return False
    return True


def version_time(key: str) -> datetime:
    """When a version with this key was published."""
    return datetime.fromisoformat(key).replace(tzinfo=UTC)  # several times faster than strptime()
