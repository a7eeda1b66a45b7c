"""A whole ``lxdocker sync`` with stand-ins for LXD and its builders, as a program for a terminal.

    at_work.py FOLDER COUNT OPTION... [-- COMMAND...]

COUNT images, on disk; the build of image-0 fails. While FOLDER/hold exists, builders wait, and so does the making of
the builder image. COMMAND runs after the sync, once the spec image-1 is gone.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from lxdocker.cli import main as cli
from lxdocker.lxd.command import Result
from lxdocker.sync import run
from tests import recorded
from tests.registry_server import make_image, write_layout
from tests.stand_ins import Request, ScriptedBuilders, image_daemon


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    (folder / "images.d").mkdir()
    (folder / "lxd").mkdir()
    made = make_image(text="hello")
    write_layout(folder / "image", [made], [(made.manifest, "1")], [])
    for number in range(count):
        (folder / f"images.d/image-{number}.yaml").write_text(f"image: oci:{folder}/image:1\n")

    def held(_: Request | None = None) -> None:
        while (folder / "hold").exists():
            time.sleep(0.02)

    builders = ScriptedBuilders(meanwhile=held)
    builders.answers["image-0"] = [Result(1, "phase fetch\n", "no route to nowhere")]

    def opened(context: Any, options: Any, cleanup: Any, progress: Any, say: Any) -> ScriptedBuilders:
        with progress.step("building the builder image") as tell:
            tell("builder: installing packages")
            while (folder / "hold-builder").exists():
                time.sleep(0.02)
        return builders

    run._open_workshop = opened  # type: ignore[assignment]
    with image_daemon(folder / "lxd", dataclasses.replace(recorded.every()[-1])):
        options, _, then = "\n".join(sys.argv[3:]).partition("--\n")
        if then:
            run_program("sync", "-q", *options.split(), folder=folder)
            (folder / "images.d/image-1.yaml").unlink()
        sys.exit(run_program(*(then.split() or ["sync", *options.split()]), folder=folder))


def run_program(*arguments: str, folder: Path) -> Any:
    sys.argv[:] = ["lxdocker", *arguments, "--tree", str(folder / "tree")]
    try:
        cli.main()
    except SystemExit as end:
        return end.code


main()
