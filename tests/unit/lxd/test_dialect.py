"""The one thing that is known of an LXD by its version."""

from __future__ import annotations

import pytest

from lxdocker.lxd.dialect import Dialect


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("4.24", ""),  # which lxdocker does not work with anyway
        ("5.0.1", "LXD 5.0.1 lacks the fix of CVE-2026-23954"),
        ("5.0.2", ""),  # Debian's, which may well have it
        ("5.0.4", "LXD 5.0.4 lacks"),
        ("5.0.5", "LXD 5.0.5 may lack"),
        ("5.0.6", ""),
        ("5.0.9", ""),
        ("5.9", "LXD 5.9 lacks"),
        ("5.20", "LXD 5.20 lacks"),
        ("5.21.3", "LXD 5.21.3 lacks"),
        ("5.21.4", "LXD 5.21.4 may lack"),
        ("5.21.5", ""),
        ("5.21.7", ""),
        ("6.1", "LXD 6.1 lacks"),
        ("6.6", "LXD 6.6 may lack"),
        ("6.7", ""),
        ("6.10", ""),
        ("7.0", ""),
        ("of an unknown version", ""),
    ],
)
def test_what_an_lxd_is_known_to_lack(version: str, said: str) -> None:
    weakness = Dialect.of({"environment": {"server": "lxd", "server_version": version}}).weakness
    assert weakness.startswith(said)
    assert bool(weakness) is bool(said)
    assert not Dialect.of({"environment": {"server": "incus", "server_version": version}}).weakness
