"""What determines an image's bytes beside its inputs, held to the RECIPE_VERSION that it belongs to.

The scripts of a build are no part of an image's inputs, or each comment would rebuild all images. So a change of theirs
has to be judged by whoever makes it:

    python -m tests.unit.builder.test_recipe_version > tests/data/recipe.json
"""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path, PurePath

from lxdocker.builder import changes, recipe
from lxdocker.config.spec import Behaviour
from lxdocker.runtime import render
from lxdocker.source import skopeo
from lxdocker.source.oci import OciConfig
from lxdocker.values import Arch

GOLDEN = Path(__file__).parents[2] / "data/recipe.json"
SCRIPTS = (
    *(recipe.BUILD, recipe.FETCH, *recipe.MEND, recipe.UNPACK),
    *(changes.CHANGE, changes.LAYERS, changes.PACKAGES, changes.PREPARE, changes.RESTORE, changes.RUN),
)
WHAT_TO_DO = """
changed: {changed}

If images built from the same inputs now differ from those built before (a flag of mksquashfs, what is unpacked or
injected), raise RECIPE_VERSION in lxdocker/runtime/render.py: the next sync then rebuilds them. If not, or if the
inputs differ, too (a new field of Behaviour, a changed file of the runtime), leave it.

Then: python -m tests.unit.builder.test_recipe_version > tests/data/recipe.json
"""

CONFIG = OciConfig(
    entrypoint=("/entrypoint",),
    cmd=("one", "two words"),
    env=(("PATH", "/bin"), ("QUOTED", "it's")),
    user="app",
    working_dir="/srv",
    volumes=("/data",),
    stop_signal="SIGQUIT",
    healthcheck={"Test": ["CMD", "true"], "Interval": 5_000_000_000},
    created=1_700_000_000,
)


def code(script: Path) -> bytes:
    """A script without comments and empty lines."""
    lines = (line.strip() for line in script.read_bytes().splitlines())
    return b"\n".join(line for line in lines if line and not line.startswith(b"#"))


def present() -> dict[str, str]:
    """Each part of the recipe -> sha256."""
    behaviour = Behaviour(restart="on-failure:3", tmpfs=(("/cache", "64m"), ("/tmp", "off")))
    copy = skopeo.copy_argv("docker://image", "oci:/layout:image", Arch.AARCH64)
    parts = {script.name: code(script) for script in SCRIPTS} | {
        "render.render_config": render.render_config(CONFIG, behaviour),
        # Each liblzma packs it in its own way.
        "render.image_metadata": lzma.decompress(render.image_metadata(Arch.X86_64, 1, {"os": "app"}, None)),
        "render.tar": render.tar([("file", b"content", 0o644)], 1, folders=("folder",)),
        "skopeo.copy_argv": " ".join(copy).encode(),
    }
    return {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}


def document() -> dict[str, object]:
    return {"RECIPE_VERSION": render.RECIPE_VERSION, "sha256": present()}


def test_a_change_that_must_rebuild_images_is_not_forgotten() -> None:
    golden = json.loads(GOLDEN.read_text())
    now = present()
    changed = sorted(name for name in {*golden["sha256"], *now} if golden["sha256"].get(name) != now.get(name))
    assert not changed, WHAT_TO_DO.format(changed=", ".join(changed))
    assert golden["RECIPE_VERSION"] == render.RECIPE_VERSION, WHAT_TO_DO.format(changed="RECIPE_VERSION")


def test_comments_are_no_part_of_it(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n# a comment\n\n\tdo # it\n")
    assert code(script) == b"do # it"


def test_all_scripts_of_a_build_are_held() -> None:
    """But for those that only wait, look or tell."""
    folder = Path(recipe.__file__).parent
    others = {
        "cache.sh",
        "connected.sh",
        "network.sh",
        "quoted.sh",
        "collect.sh",
        "init.sh",
        "install.sh",
        "listing.sh",
        "listing.pl",
        "rpm.pl",
    }
    assert {script.name for script in SCRIPTS} | others == {
        path.name for path in folder.iterdir() if PurePath(path).suffix in {".sh", ".pl"}
    }


if __name__ == "__main__":
    print(json.dumps(document(), indent=1))  # noqa: T201 - what it is for
