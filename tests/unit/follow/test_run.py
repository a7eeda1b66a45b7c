"""What a follower does about each image, as far as no daemon is needed to tell; the rest is in tests/lxd."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from lxdocker.errors import MirrorError
from lxdocker.follow.run import Held, Todo, alias_owners, decide, newest
from lxdocker.image.origin import Origin
from lxdocker.lxd.api import StoredImage
from lxdocker.tree.server import Listed
from lxdocker.values import Arch, ImageName
from tests.examples import fingerprint, provenance

SERVER = "https://shop.example:8444"
KEYS = ("20260101_0000", "20260102_0000", "20260103_0000")


def listed(name: str = "web", number: int = 0, *aliases: str, arch: Arch = Arch.X86_64) -> Listed:
    """The version ``number`` of an image on the server."""
    return Listed(
        ImageName(name),
        arch,
        KEYS[number],
        fingerprint(f"{name} {number}"),
        MappingProxyType({}),
        frozenset(),
        (name, *aliases),
    )


def brought(
    name: str = "web", number: int = 0, *aliases: str, given: Iterable[str] = (), server: str = SERVER
) -> StoredImage:
    """It in the store, with the aliases that came with it and those that a user gave it."""
    origin = Origin(server, ImageName(name), KEYS[number], (name, *aliases))
    return StoredImage(fingerprint(f"{name} {number}"), origin.to_properties(), (name, *aliases, *given), 1, "")


def foreign(image: StoredImage, *aliases: str, cached: bool = False) -> StoredImage:
    """The same image, but somebody else put it there."""
    return replace(image, properties={"lxdocker.name": "web"}, aliases=aliases, cached=cached)


def todo(wanted: Listed, *store: StoredImage, others: Iterable[Listed] = ()) -> Todo:
    owners = alias_owners({one.name: one for one in (wanted, *others)})
    return decide(wanted, owners, Held.of(store, SERVER), SERVER, "lxc image alias delete")


def taken(wanted: Listed, *store: StoredImage, others: Iterable[Listed] = ()) -> MirrorError:
    with pytest.raises(MirrorError, match="is taken") as caught:
        todo(wanted, *store, others=others)
    assert "lxc image alias delete" in caught.value.resolution
    return caught.value


def older(found: Todo) -> list[str]:
    return [one.origin.version for one in found.older]


# ---- what the server has


def test_the_newest_of_this_architecture_counts() -> None:
    versions = [listed("web", 1), listed("web", 0), listed("web", 2, arch=Arch.AARCH64), listed("db", 0)]
    assert newest(versions, Arch.X86_64) == {ImageName("web"): listed("web", 1), ImageName("db"): listed("db", 0)}
    assert newest(versions, Arch.RISCV64) == {}


def test_an_alias_is_one_images() -> None:
    names = {one.name: one for one in (listed("b", 0, "x", "a"), listed("a", 0, "x", "y"))}
    owners = {alias: owner.value for alias, owner in alias_owners(names).items()}
    assert owners == {"a": "a", "b": "b", "x": "a", "y": "a"}


# ---- what to do about it


def test_a_new_image_is_fetched() -> None:
    found = todo(listed("web", 0, "www"))
    assert (found.here, found.is_done) == (None, False)
    assert found.point == ("web", "www")
    assert found.origin == Origin(SERVER, ImageName("web"), KEYS[0], ("web", "www"))


def test_an_image_that_is_here_costs_nothing() -> None:
    assert todo(listed("web", 0, "www"), brought("web", 0, "www", given=["prod"]), brought("db")).is_done


@pytest.mark.parametrize(("wanted", "here"), [(1, 0), (0, 1)], ids=["newer", "rolled back"])
def test_another_version_takes_the_place_of_the_one_here(wanted: int, here: int) -> None:
    found = todo(listed("web", wanted, "www"), brought("web", here, "www", given=["prod"]))
    assert found.here is None
    # What a user called the one before goes along.
    assert found.point == ("web", "www", "prod")
    assert older(found) == [KEYS[here]]


def test_a_run_that_was_killed_after_the_import_is_finished() -> None:
    both = [brought("web", 0, "www", given=["prod"]), replace(brought("web", 1, "www"), aliases=())]
    found = todo(listed("web", 1, "www"), *both)
    assert found.here
    assert (found.point, older(found)) == (("web", "www", "prod"), [KEYS[0]])
    both = [replace(both[0], aliases=("www", "prod")), replace(both[1], aliases=("web",))]
    assert todo(listed("web", 1, "www"), *both).point == ("www", "prod")
    both = [replace(both[0], aliases=()), replace(both[1], aliases=("web", "www", "prod"))]
    found = todo(listed("web", 1, "www"), *both)
    assert (found.point, older(found), found.is_done) == ((), [KEYS[0]], False)


def test_other_aliases_of_the_same_image() -> None:
    found = todo(listed("web", 0, "new"), brought("web", 0, "www", given=["prod"]))
    assert (found.point, found.drop, found.describe) == (("new",), ("www",), True)
    # Killed before it was recorded:
    image = replace(brought("web", 0, "www"), aliases=("web", "new", "prod"))
    found = todo(listed("web", 0, "new"), image)
    assert (found.point, found.drop, found.describe) == ((), (), True)


def test_an_alias_may_move_from_one_image_of_the_server_to_another() -> None:
    db = listed("db", 0, "www")
    assert todo(db, brought("web", 0, "www")).point == ("db", "www")
    # Until it is there, the one before has it, and so has what takes that one's place.
    assert todo(listed("web", 0), brought("web", 0, "www"), others=[db]).is_done
    found = todo(listed("web", 1), brought("web", 0, "www"), others=[db])
    assert (found.point, found.origin.aliases) == (("web", "www"), ("web", "www"))
    killed = [brought("web", 0, "www"), replace(brought("web", 1, "www"), aliases=())]
    assert todo(listed("web", 1), *killed, others=[db]).point == ("web", "www")
    assert todo(db, brought("web", 1, "www"), others=[listed("web", 1)]).point == ("db", "www")
    found = todo(listed("web", 1), replace(brought("web", 1, "www"), aliases=("web",)), others=[db])
    assert (found.point, found.drop, found.origin.aliases, found.describe) == ((), (), ("web",), True)


def test_an_alias_that_a_user_gave_does_not_move() -> None:
    assert "which somebody called so" in str(taken(listed("db", 0, "prod"), brought("web", 0, given=["prod"])))


def test_an_alias_of_somebody_else_is_left_alone() -> None:
    by_sync = StoredImage(fingerprint("x"), provenance().to_properties(), ("web",), 1, "")
    error = taken(listed("web", 0), by_sync)
    assert error.brief == "web: the alias web is taken"
    assert f"did not come from {SERVER} by this command" in error.details
    taken(listed("web", 0, "www"), foreign(brought("web", 1), "www"))
    other = brought("web", 0, server="https://other.example")
    assert "an image that came from https://other.example" in str(taken(listed("web", 1), other))
    assert taken(listed("web", 1), brought("web", 0, given=["www"]), foreign(brought("web", 2), "web"))


def test_what_others_brought_is_never_removed() -> None:
    found = todo(
        listed("web", 1),
        foreign(brought("web", 0), "old"),
        replace(brought("web", 2, server="https://other.example"), aliases=()),
    )
    assert found.older == ()


def test_an_image_that_somebody_else_put_here_is_used_and_stays_theirs() -> None:
    found = todo(
        listed("web", 1, "www"), foreign(brought("web", 1), "mine", "web"), replace(brought("web", 0), aliases=())
    )
    assert (found.brought, found.is_cached, found.describe, found.drop) == (False, False, False, ())
    assert (found.point, older(found)) == (("www",), [KEYS[0]])
    assert todo(listed("web", 1), foreign(brought("web", 1), "web")).is_done


def test_what_the_daemon_keeps_for_a_while_is_brought_properly() -> None:
    found = todo(listed("web", 1), foreign(brought("web", 1), cached=True))
    assert (found.is_cached, found.is_done) == (True, False)
    # Somebody gave it a name, so it is theirs.
    assert not todo(listed("web", 1), foreign(brought("web", 1), "mine", cached=True)).is_cached
    assert not todo(listed("web", 1), replace(brought("web", 1), cached=True)).is_cached


# ---- the command


@pytest.fixture
def misuse(tmp_path: Path) -> Any:
    """Runs `lxdocker mirror` on a host without a daemon; gives what it says of the mistake."""
    (tmp_path / "lxd").mkdir()
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("LXDOCKER_", "LXD_", "INCUS_"))
    }
    environment |= {"HOME": str(tmp_path), "LXD_DIR": str(tmp_path / "lxd"), "INCUS_DIR": str(tmp_path / "incus")}

    def run(*arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "lxdocker", "mirror", *arguments, "--json"],
            cwd=tmp_path,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        error = json.loads(done.stdout)["error"]
        assert error["do"], error
        return ": ".join(filter(None, (error[part] for part in ("what", "why", "do"))))

    return run


URL = "https://192.0.2.1:8444"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([URL], "one folder to copy the tree to: 0 given"),
        ([URL, "a", "b"], "one folder to copy the tree to: 2 given"),
        ([URL, "a", "--client", "lxc"], "--client applies only to --import"),
        ([URL, "a", "--project", "x"], "--project applies only to --import"),
        ([URL, "a", "--import-dir", "x"], "--import-dir applies only to --import"),
        ([URL, "a", "--password-file", "x"], "--password-file needs a user"),
        (["--import", URL, "--jobs", "2"], "--jobs does not apply to --import"),
        (["--import", URL], "neither LXD nor Incus"),
        (["--import", URL, "--client", "incus"], "cannot connect to Incus"),
        (["--import", URL, "--client", "lxc"], "cannot connect to LXD"),
        (["--import", URL, "--client", "docker"], "no such client: docker"),
        (["--import", "--client", "lxc", "shop"], "or a remote's name: shop:"),
        (["--import", "--client", "lxc", "ftp://host"], "is not the URL of a server"),
        (
            ["--import", "--client", "lxc", "https://ann@192.0.2.1"],
            "no password for ann: the first line of stdin is empty",
        ),
        (["--import", "--client", "lxc", "https://ann@192.0.2.1", "--password-file", "nope"], "the password in nope"),
        (
            ["--import", "--client", "lxc", "https://ann@192.0.2.1", "--password-file", "/dev/null"],
            "no password for ann",
        ),
        (["--import", "--client", "lxc", URL, "--password-file", "x"], "--password-file needs a user"),
        (["--import", "--client", "lxc", "shop:", "--password-file", "x"], "lxc stores the login of shop:"),
    ],
    ids=" ".join,
)
def test_mistakes_are_said(misuse: Any, arguments: list[str], said: str) -> None:
    assert said in misuse(*arguments)
