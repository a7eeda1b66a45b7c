"""Packages by the image's own manager: which one it is, how it is called, and what is removed afterwards.

The managers are scripts that note how they are called.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lxdocker.builder import changes
from lxdocker.config.changes import Changes, Packages
from lxdocker.source.oci import OciConfig
from tests.chroots import Root, needs_namespaces

pytestmark = needs_namespaces
MANAGER = '#!/busybox-lxd sh\necho "${0##*/} $*" >>/called\n[ "$1" != fail ] && [ "$2" != fail ]\n'


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.make(tmp_path / "root")


def call(root: Root, install: tuple[str, ...] = (), remove: tuple[str, ...] = ()) -> tuple[int, list[str], str]:
    """The status, how the manager was called, and what was said."""
    (running,) = changes.commands(Changes(packages=Packages(install, remove)), OciConfig())
    done = root.run(*running.argv, env={"PATH": "/usr/bin:/sbin"})
    called = root / "called"
    return done.returncode, called.read_text().splitlines() if called.exists() else [], done.stderr


@pytest.mark.parametrize(
    ("manager", "path", "expected"),
    [
        (
            "apt-get",
            "/usr/bin",
            [
                "apt-get -q update",
                "apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-confold install a b=1.2~3",
                "apt-get -q -y --purge --autoremove remove c",
                "apt-get -q clean",
            ],
        ),
        ("apk", "/sbin", ["apk add --no-cache a b=1.2~3", "apk del --no-cache c"]),
        (
            "dnf",
            "/usr/bin",
            ["dnf -y --setopt=install_weak_deps=False install a b=1.2~3", "dnf -y remove c", "dnf -q clean all"],
        ),
        (
            "microdnf",
            "/usr/bin",
            [
                "microdnf -y --setopt=install_weak_deps=0 install a b=1.2~3",
                "microdnf -y remove c",
                "microdnf -q clean all",
            ],
        ),
    ],
)
def test_the_image_s_own_manager_is_called(root: Root, manager: str, path: str, expected: list[str]) -> None:
    root.write(f"{path}/{manager}", MANAGER, 0o755)
    assert call(root, ("a", "b=1.2~3"), ("c",)) == (0, expected, "")


def test_only_what_is_asked_for_is_done(root: Root) -> None:
    root.write("/sbin/apk", MANAGER, 0o755)
    assert call(root, ("a",))[1] == ["apk add --no-cache a"]
    (root / "called").unlink()
    assert call(root, remove=("c",))[1] == ["apk del --no-cache c"]


def test_lists_caches_and_logs_go(root: Root) -> None:
    root.write("/usr/bin/apt-get", MANAGER, 0o755)
    gone = ["/var/lib/apt/lists/x", "/var/cache/apt/pkgcache.bin", "/var/log/apt/history.log", "/var/log/dpkg.log"]
    kept = ["/var/lib/dpkg/status", "/var/log/other.log"]
    for path in (*gone, *kept):
        root.write(path, "x")
    assert call(root, ("a",))[0] == 0
    assert [path for path in (*gone, *kept) if (root / path).exists()] == kept


def test_an_image_without_any_is_refused_with_the_known_ones(root: Root) -> None:
    assert call(root, ("a",)) == (1, [], "the image has no package manager that lxdocker knows (apt, apk, dnf)\n")


def test_a_manager_that_fails_fails_the_build(root: Root) -> None:
    root.write("/sbin/apk", '#!/busybox-lxd sh\necho "apk $*" >>/called\nexit 3\n', 0o755)
    status, called, _ = call(root, ("a",), ("c",))
    assert (status, called) == (3, ["apk add --no-cache a"])


def test_packages_have_a_network_and_are_root_s() -> None:
    (running,) = changes.commands(Changes(packages=Packages(("a",))), OciConfig(user="app", working_dir="/srv"))
    assert (running.network, running.user, running.folder) == (True, "0:0", "/")
