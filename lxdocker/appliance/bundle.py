"""lxdocker itself, as an archive to unpack in the appliance: this very installation, or a wheel that was named.

With it come the libraries that its Debian lacks. Where the appliance's Python is of this host's version, these are all
libraries, as they are installed here; else only those that Debian does not have, which are pure Python, and Debian's
own packages are the rest.
"""

from __future__ import annotations

import io
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath

import lxdocker
from lxdocker import __version__
from lxdocker.config.resources import resource
from lxdocker.errors import UsageError
from lxdocker.files.seen import is_dir, is_file
from lxdocker.reasons import in_words

# What no Debian has, or not in a version that lxdocker works with.
LACKING = frozenset({"pylxd"})
# lxdocker's other libraries, as packages of Debian; these bring along what they need themselves.
DEBIAN = (
    *("python3-aiohttp", "python3-bcrypt", "python3-cryptography", "python3-dateutil", "python3-jinja2"),
    *("python3-jsonschema", "python3-prometheus-client", "python3-python-multipart", "python3-requests"),
    *("python3-requests-toolbelt", "python3-rich", "python3-sh", "python3-typer", "python3-urllib3"),
    *("python3-websockets", "python3-ws4py", "python3-yaml"),
)
SCRIPT = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/opt/lxdocker/lib")

from lxdocker.__main__ import main  # noqa: E402 - after the path

main()
"""
_DEBIANS = Path("/usr/lib/python3/dist-packages")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)")
_SERVE = re.compile(r"extra\s*==\s*['\"]serve['\"]")
_EXTRA = re.compile(r"extra\s*==")


def own_tag() -> str:
    """This host's Python and machine, as setup.sh names those of the appliance: compiled libraries fit no other.

    Where lxdocker is from Debian's package and uses Debian's libraries, these are no more to be taken along, but
    installed from Debian there, too.
    """
    if Path(str(metadata.distribution("urllib3").locate_file(""))) == _DEBIANS:
        return "debian"
    return f"{sys.version_info.major}.{sys.version_info.minor} {'-'.join(_machine())}"


def _machine() -> Iterator[str]:
    import platform

    yield platform.machine()
    yield platform.libc_ver()[0] or "libc"


def make(tag: str, wheel: Path | None = None) -> bytes:
    """A tar.gz of ``lib/`` and ``bin/lxdocker`` for a Python with this tag. Raises UsageError for a wheel that can't be
    used, and where this installation is incomplete.
    """
    wanted = None if tag == own_tag() else LACKING
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        _add(archive, "bin/lxdocker", SCRIPT.encode(), 0o755)
        for path, content in _of_wheel(wheel) if wheel else _itself():
            _add(archive, f"lib/{path}", content)
        for name in sorted(_libraries()):
            if wanted is None or name in wanted:
                for path, content in _of_distribution(name):
                    _add(archive, f"lib/{path}", content)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def _itself() -> Iterator[tuple[str, bytes]]:
    """The package lxdocker, with its schemas and profiles inside of it, as a wheel has them."""
    package = Path(lxdocker.__file__).parent
    yield from ((f"lxdocker/{path}", content) for path, content in _files(package))
    if not is_dir(package / "schema"):
        for folder, name in (("schema", "config.schema.json"), ("profiles", "builder.yaml")):
            found = resource(folder, name).parent  # type: ignore[arg-type]  # both are
            yield from ((f"lxdocker/{folder}/{path}", content) for path, content in _files(found))


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if is_file(path) and "__pycache__" not in path.parts:
            yield str(path.relative_to(folder)), path.read_bytes()


def _of_wheel(wheel: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            if "lxdocker/__init__.py" not in names:
                raise UsageError(f"cannot use {wheel}", "it is no wheel of lxdocker", "see --package in --help")
            for name in names:
                top = PurePosixPath(name).parts[0]
                if not top.endswith(".data") and ".." not in PurePosixPath(name).parts:
                    yield name, archive.read(name)
    except (OSError, zipfile.BadZipFile) as error:
        why = in_words(error) if isinstance(error, OSError) else "it is no wheel"
        raise UsageError(f"cannot read {wheel}", why, "--package takes lxdocker's .deb or .whl") from error


def _libraries() -> set[str]:
    """The names of all that lxdocker needs, directly or not, as far as it is installed here."""
    found: set[str] = set()
    waiting = [("lxdocker", True)]
    while waiting:
        name, serve = waiting.pop()
        try:
            requirements = metadata.distribution(name).requires or []
        except metadata.PackageNotFoundError:  # for another Python or system
            continue
        if name != "lxdocker":
            found.add(name)
        for line in requirements:
            marker = line.partition(";")[2]
            if _EXTRA.search(marker) and not (serve and _SERVE.search(marker)):
                continue
            if match := _REQUIREMENT.match(line):
                needed = re.sub("[-_.]+", "-", match[1]).lower()
                if needed not in found:
                    waiting.append((needed, False))
    return found


def _of_distribution(name: str) -> Iterator[tuple[str, bytes]]:
    files = metadata.distribution(name).files
    if files is None:
        raise UsageError(
            f"cannot take {name} along to the appliance",
            "this installation does not say which files are its own",
            "name the package of lxdocker: --package FILE.deb",
        )
    for file in files:
        if ".." not in file.parts and "__pycache__" not in file.parts:
            path = Path(str(file.locate()))
            if is_file(path):
                yield str(file), path.read_bytes()


def version_line() -> str:
    """What ``lxdocker --version`` of this very version begins with."""
    return f"lxdocker {__version__}"
