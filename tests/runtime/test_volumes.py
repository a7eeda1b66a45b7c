"""Custom volumes get what the image has in their place, as podman's volumes do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lxd.rig import World
from tests.parity.run import Podman
from tests.parity.volumes import seen
from tests.runtime.boxes import Box, Volumes

Launch = Callable[..., Box]


@pytest.fixture
def volumes(boxes: World) -> Iterator[Volumes]:
    made = Volumes(boxes.lxc)
    yield made
    made.close()


@pytest.fixture
def launch(volumes: Volumes, launch: Launch) -> Launch:
    """Its instances go before the volumes do."""
    return launch


@pytest.fixture
def podman() -> Iterator[Podman]:
    made = Podman(Path(tempfile.mkdtemp(prefix="podman.")))
    yield made
    made.close()


@pytest.mark.any_lxd
def test_what_a_volume_gets_is_what_podman_gives(
    launch: Launch, volumes: Volumes, podman: Podman, boxes: World
) -> None:
    places = {"data": "/data", "app": "/opt/app", "nested": "/opt/app/nested", "empty": "/empty", "new": "/new/place"}
    devices = {name: volumes.make(path) for name, path in places.items()}
    one = launch("filling", devices=devices).ready()
    theirs = {name: seen(folder) for name, folder in podman.volumes(boxes.ref("filling"), places).items()}
    owner = volumes.folder(devices["new"]).stat().st_uid
    ours = {name: seen(volumes.folder(device), owner) for name, device in devices.items()}
    assert len(theirs["data"]) > 12
    # Neither image has that folder: it is as old as the container.
    for side in (ours, theirs):
        side["new"] = {path: (*found[:3], *found[4:]) for path, found in side["new"].items()}
    assert ours == theirs
    assert one.file("/opt/app/nested/file") == "of the image, too"
    # As with LXD's AppArmor profile, which this host has not. In an instance the root is a shared mount.
    assert one.runs("""cat >/dev/confined <<'END'
#!/busybox-lxd sh
[ "$1 $2 $3 $4" != "mount -o bind /" ] && exec /busybox-lxd "$@"
END
chmod 755 /dev/confined; LXDOCKER_SOURCE_ONLY=1; . /sbin/init; _bb=/dev/confined
cut -d' ' -f3-6 /proc/self/mountinfo | sort >/dev/was
echo >/opt/app/nested/seen
uncover /opt/app/nested && [ "$_source" = /opt/app/nested ] && [ ! -e "$_source/seen" ] && cover || exit 1
rm /opt/app/nested/seen && cut -d' ' -f3-6 /proc/self/mountinfo | sort | diff - /dev/was""")
    # What the application makes of it stays, also where that is next to nothing.
    assert one.runs("cd /data; rm -r * .hidden; echo mine >.mine; rm /opt/app/nested/file")
    one.stop()
    one.start()
    one.ready()
    assert one.runs("[ $(ls -A /data) = .mine ] && [ -e /opt/app/file ]")
    # Cut short, that is: begun again.
    one.stop()
    folder = volumes.folder(devices["app"])
    (folder / "file").unlink()
    (folder / ".lxdocker-filling").touch(0o600)
    os.chown(folder / ".lxdocker-filling", owner, owner)
    one.start()
    one.ready()
    again = seen(folder, owner)
    assert again == ours["app"]
    one.stop()


def test_what_is_no_empty_volume_of_the_instances_stays(launch: Launch, volumes: Volumes, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    privileged = {"security.privileged": "true"}  # to which the host's root is its own
    host = {"type": "disk", "source": str(tmp_path), "path": "/data"}
    full = volumes.make("/opt/app")
    volumes.folder(full).joinpath("mine").touch()
    read_only = volumes.make("/empty", readonly="true")
    one = launch("filling", devices={"host": host, "full": full, "read-only": read_only}, config=privileged).ready()
    assert list(tmp_path.iterdir()) == []
    assert [path.name for path in volumes.folder(full).iterdir()] == ["mine"]
    assert volumes.folder(read_only).stat().st_mode & 0o7777 == 0o711
    one.stop()
    off = volumes.make("/opt/app")
    devices = {"off": off, "filled": volumes.make("/data")}
    launch("filling", devices=devices, config={"user.lxdocker.fill_volumes": "false"}).ready()
    assert list(volumes.folder(off).iterdir()) == []
    launch("filling", devices=devices).ready()
    assert sorted(path.name for path in volumes.folder(off).iterdir()) == ["file", "nested"]


def test_an_owner_that_somebody_chose_stays(launch: Launch, volumes: Volumes) -> None:
    devices = {name: volumes.make(path) for name, path in (("data", "/data"), ("new", "/new/place"))}
    one = launch("filling", devices=devices).ready()
    assert one.runs("chown 1234:1234 /new/place; rm -rf /data/* /data/.hidden; chown 1234:1234 /data; chmod 751 /data")
    one.stop()
    one.start()
    one.ready()
    assert one.runs(
        '[ "$(stat -c %u:%g /new/place /data)" = "1234:1234\n1234:1234" ] && [ -e /data/file ]'.replace("\\n", "\n")
    )
    assert one.runs("[ $(stat -c %a /new/place) = 755 ]")


def test_more_attributes_than_fit_into_dev(launch: Launch, volumes: Volumes) -> None:
    device = volumes.make("/noted")
    launch("noted", devices={"noted": device}).ready()
    folder = volumes.folder(device)
    assert len(list(folder.iterdir())) == 6000
    assert all(os.getxattr(path, "user.note") == b"x" * 60 for path in folder.iterdir())
