"""An image's configuration as its spec changes it."""

from __future__ import annotations

from typing import Any

import pytest

from lxdocker.config.changes import HealthOverride, Overrides
from lxdocker.image.overrides import overridden
from lxdocker.source.oci import OciConfig

CONFIG = OciConfig(
    entrypoint=("/entrypoint",),
    cmd=("serve", "all"),
    env=(("PATH", "/bin"), ("DEBUG", "1")),
    working_dir="/app",
    user="app",
    stop_signal="SIGQUIT",
    volumes=("/data",),
    exposed_ports=("80/tcp",),
    labels={"version": "1", "vendor": "x"},
    healthcheck={"Test": ["CMD", "check"], "Interval": 5_000_000_000, "Retries": 2},
    created=7,
    architecture="amd64",
)


def test_nothing_changes_nothing() -> None:
    assert overridden(CONFIG, Overrides()) == CONFIG


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (
            Overrides(environment=(("DEBUG", None), ("NEW", ""), ("PATH", "/usr/bin"))),
            {"env": (("PATH", "/usr/bin"), ("NEW", ""))},
        ),
        (Overrides(entrypoint=("a", "b c")), {"entrypoint": ("a", "b c"), "cmd": ()}),
        (Overrides(entrypoint="a b"), {"entrypoint": ("/bin/sh", "-c", "a b"), "cmd": ()}),
        (Overrides(entrypoint=("a",), cmd=("b",)), {"entrypoint": ("a",), "cmd": ("b",)}),
        (Overrides(entrypoint=()), {"entrypoint": (), "cmd": ()}),
        (Overrides(cmd=("x",)), {"cmd": ("x",)}),
        (Overrides(cmd=()), {"cmd": ()}),
        (Overrides(user="0"), {"user": "0"}),
        (Overrides(working_dir="/srv"), {"working_dir": "/srv"}),
        (Overrides(volumes=()), {"volumes": ()}),
        (Overrides(ports=("53/udp",)), {"exposed_ports": ("53/udp",)}),
        (Overrides(labels=(("vendor", None), ("version", "2"))), {"labels": {"version": "2"}}),
        (Overrides(stop_signal="TERM"), {"stop_signal": "TERM"}),
        (Overrides(healthcheck="none"), {"healthcheck": None}),
        (
            Overrides(healthcheck=HealthOverride(interval=1.5, retries=9)),
            {"healthcheck": {"Test": ["CMD", "check"], "Interval": 1_500_000_000, "Retries": 9}},
        ),
    ],
)
def test_what_a_spec_puts_in_place_of_it(overrides: Overrides, changed: dict[str, Any]) -> None:
    found = overridden(CONFIG, overrides)
    for key in CONFIG.__slots__:
        expected = changed.get(key, getattr(CONFIG, key))
        actual = getattr(found, key)
        assert (dict(actual) if isinstance(expected, dict) else actual) == expected, key


def test_text_is_for_the_image_s_own_shell() -> None:
    config = OciConfig(shell=("/busybox/sh", "-c"))  # noqa: S604 - a key of the image
    assert overridden(config, Overrides(cmd="x y")).cmd == ("/busybox/sh", "-c", "x y")


def test_a_health_check_of_its_own() -> None:
    own = HealthOverride(test=("CMD-SHELL", "true"), timeout=3, start_period=10, start_interval=1)
    assert overridden(OciConfig(), Overrides(healthcheck=own)).healthcheck == {
        "Test": ["CMD-SHELL", "true"],
        "Timeout": 3_000_000_000,
        "StartPeriod": 10_000_000_000,
        "StartInterval": 1_000_000_000,
    }
