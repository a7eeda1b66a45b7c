"""lxdocker as an archive: runs where nothing but Python and Debian's libraries are."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from lxdocker.appliance import bundle
from lxdocker.errors import UsageError


def unpacked(content: bytes, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert all(not name.startswith("/") and ".." not in name for name in archive.getnames())
    # Not extractall(), whose argument `filter` is required by some versions of Python and unknown to others.
    folder.mkdir(exist_ok=True)
    subprocess.run(["tar", "-xzC", folder], input=content, check=True)
    return folder


def test_for_the_same_python_it_is_complete(tmp_path: Path) -> None:
    place = unpacked(bundle.make(bundle.own_tag()), tmp_path)
    script = (place / "bin/lxdocker").read_text().replace("/opt/lxdocker/lib", str(place / "lib"))
    (tmp_path / "lxdocker").write_text(script)
    # Without this installation's own packages.
    argv = [sys.executable, "-I", "-S", str(tmp_path / "lxdocker")]
    done = subprocess.run([*argv, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(bundle.version_line())
    for command in ("serve", "sync"):
        assert subprocess.run([*argv, command, "--help"], capture_output=True, check=True).stdout
    check = f"import sys; sys.path.insert(0, {str(place / 'lib')!r}); import lxdocker.serve.server, pylxd"
    subprocess.run([sys.executable, "-I", "-S", "-c", check], check=True)
    assert (place / "lib/lxdocker/profiles/appliance.yaml").is_file()
    assert (place / "lib/lxdocker/schema/config.schema.json").is_file()


def test_for_another_python_nothing_compiled_is_in_it(tmp_path: Path) -> None:
    place = unpacked(bundle.make("3.99 x86_64-glibc"), tmp_path)
    assert list(place.rglob("*.so")) == []
    packages = {path.name for path in (place / "lib").iterdir() if "." not in path.name}
    assert packages == {"lxdocker", *bundle.LACKING}


def test_a_wheel_that_was_named_comes_instead(tmp_path: Path) -> None:
    wheel = tmp_path / "lxdocker-9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("lxdocker/__init__.py", "__version__ = '9'\n")
        archive.writestr("lxdocker-9.data/data/share/x", "")
    place = unpacked(bundle.make("3.99 x", wheel), tmp_path / "place")
    assert [path.name for path in (place / "lib/lxdocker").iterdir()] == ["__init__.py"]
    assert not (place / "lib/lxdocker-9.data").exists()


def test_what_is_no_wheel_of_lxdocker_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_text("x")
    with zipfile.ZipFile(tmp_path / "y.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    for name in ("x.whl", "y.whl", "z.whl"):
        with pytest.raises(UsageError, match=r"cannot (read|use)"):
            bundle.make("3.99 x", tmp_path / name)
