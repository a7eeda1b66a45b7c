"""delete: the container, its certificate, and if asked to, all that it has made and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lxdocker.appliance import host
from lxdocker.appliance.machine import Machine, Stage
from lxdocker.appliance.wish import Names
from lxdocker.errors import UsageError
from lxdocker.lxd.api import Lxd, NotFoundError
from lxdocker.progress import Say


@dataclass(frozen=True, slots=True)
class Deleted:
    """What is gone, and what was left."""

    gone: tuple[str, ...]
    volumes: tuple[tuple[str, str], ...]  # that are left: (pool, name)
    project: str | None  # that is left, with its images


def delete(lxd: Lxd, names: Names, say: Say, *, purge: bool) -> Deleted:
    """Deletes an appliance; what is gone already is fine. Its volumes and its project, with the images, stay unless it
    is to ``purge``. Raises LxdockerError.
    """
    machines = [Machine(lxd, name) for name in (names.new, names.old, names.appliance)]
    if machines[-1].look() is not None and machines[-1].stage is None:
        raise UsageError(f"{names.appliance} is no appliance of lxdocker", "", "lxc delete removes any container")
    there = [machine for machine in machines if machine.stage is not None]  # others of these names are somebody else's
    for machine in there:
        machine.mark(Stage.DELETING)
    say("revoking its certificate")
    for fingerprint in host.trusted(lxd, names):
        host.distrust(lxd, fingerprint)
    gone = [f"container {machine.name}" for machine in there]
    for machine in there:
        say(f"stopping {machine.name}")
        machine.stop()
        say(f"deleting {machine.name}")
        machine.delete()
    if purge:
        say("deleting the project")
        if host.delete_project(lxd, names):
            gone.append(f"project {names.project}")
        say("deleting the volumes")
        for pool, name in host.volumes(lxd, names):
            host.delete_volume(lxd, pool, name)
            gone.append(f"volume {name}")
    left = names.project if _exists(lambda: lxd.get("projects", names.project, what="looking for projects")) else None
    return Deleted(tuple(gone), tuple(host.volumes(lxd, names)), left)


def _exists(look: Callable[[], object]) -> bool:
    try:
        look()
    except NotFoundError:
        return False
    return True
