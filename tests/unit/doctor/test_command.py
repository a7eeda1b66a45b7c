"""lxdocker doctor as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import schemas
from tests.stand_ins import ImageDaemon, builder_of_a_killed_one
from tests.unit.cli.test_commands import Program, lxdocker, place
from tests.unit.cli.test_options import lxd, with_builder_image

__all__ = ["lxd", "lxdocker", "place"]  # fixtures


@pytest.fixture
def sound(place: Path, lxd: ImageDaemon) -> ImageDaemon:
    """An LXD without fault, and one spec of an image on disk."""
    for file in (place / "images.d").iterdir():
        file.unlink()
    (place / "images.d/web.yaml").write_text("image: oci:/nowhere\n")
    lxd.say("GET /1.0/storage-pools/default/resources", {"space": {"total": 50 << 30, "used": 1 << 30}})
    return lxd


def test_a_healthy_host(sound: ImageDaemon, lxdocker: Program) -> None:
    done = lxdocker("doctor", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    document = schemas.check(json.loads(lxdocker("doctor", "--json").stdout), "doctor")
    assert document["healthy"]
    assert {one["severity"] for one in document["findings"]} <= {"note"}
    assert len(document["examinations"]) > 10


def test_an_error_is_the_exit_status(place: Path, lxdocker: Program) -> None:
    for file in (place / "images.d").iterdir():
        file.unlink()
    done = lxdocker("doctor")  # without LXD
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "error: cannot connect to LXD"
    assert lines[3] == "  see docs/doctor.md#lxd-missing"
    assert "Traceback" not in done.stdout + done.stderr
    assert schemas.check(json.loads(lxdocker("doctor", "--json").stdout), "doctor")["healthy"] is False


def test_fixing(sound: ImageDaemon, lxdocker: Program) -> None:
    sound.instances["lxdocker", "builder-1"] = builder_of_a_killed_one()
    command = "lxc delete --force --project lxdocker builder-1"
    planned = lxdocker("doctor", "--fix", "--dry-run")
    assert (planned.returncode, planned.stdout) == (0, f"{command}\n")
    assert ("lxdocker", "builder-1") in sound.instances
    assert "warning: builders are left over" in lxdocker("doctor").stdout
    done = lxdocker("doctor", "--fix")
    assert done.returncode == 0
    assert "fixed: builders are left over" in done.stdout
    assert f"+ {command}" in done.stdout
    assert not sound.instances
    assert "builders are left over" not in lxdocker("doctor", "--fix").stdout


def test_a_dry_run_of_nothing(lxdocker: Program) -> None:
    done = lxdocker("doctor", "--dry-run")
    assert done.returncode == 2
    assert "--dry-run needs --fix" in done.stderr


def test_a_builder_image_that_is_out_of_date(sound: ImageDaemon, lxdocker: Program) -> None:
    with_builder_image(sound, "lxdocker")
    found = json.loads(lxdocker("doctor", "--json").stdout)["findings"]
    assert "builder-image-stale" in {one["id"] for one in found}
