"""A new spec for an image, with all that a container of Docker's had and a spec can hold; and what is left to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lxdocker.docker import expects, spec_keys, translate
from lxdocker.docker.inspection import Inspection
from lxdocker.docker.quantities import instance_name
from lxdocker.docker.service import Lost, Service
from lxdocker.docker.spec_keys import Keys
from lxdocker.docker.translate import SpecText, Where
from lxdocker.errors import UsageError
from lxdocker.text import one_line
from lxdocker.values import ImageName


@dataclass(frozen=True, slots=True)
class NewSpec:
    """A spec that is not a file yet."""

    spec: SpecText
    found: Inspection
    variables: tuple[str, ...]  # whose values the commands take from the shell that runs them
    commands: tuple[str, ...]  # lines for a shell, which make the instance with all that no spec can hold
    lost: tuple[Lost, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing essential was lost."""
        return not any(lost.essential for lost in self.lost)


def new_spec(
    name: ImageName,
    found: Inspection,
    where: Where,
    schema: str,
    keys: Keys | None = None,
    given: Service | None = None,
) -> NewSpec:
    """``found``: the image, ``keys`` in place of its own configuration. ``given``: the rest of the container; None:
    whatever the image expects.
    """
    keys = keys or {}
    service = given or expects.service(
        instance_name(name.value) or "instance", found.ref, found.expects, found.config, where.pool
    )
    behaviour = {"restart"} if service.restart != "no" else set()
    text = translate.spec_text(
        service,
        found.ref,
        schema,
        expects.comments(name, found.expects),
        expects.keys(found.expects, spec_keys.lines(keys), {*keys, *behaviour}),
    )
    commands = (f"lxdocker sync {name}", *translate.launch(service, name.value, where))
    variables = tuple(variable for variable, value in service.environment if value is None)
    return NewSpec(SpecText(name, found.ref, text), found, variables, commands, service.lost)


def chosen(services: Sequence[Service], key: str | None = None) -> Service:
    """The service of that name in its compose file, or else the only one; what is lost of the whole file is lost of it.

    Raises UsageError for none, or for several.
    """
    named = [service for service in services if service.name]
    names = ", ".join(one_line(service.key, 60) for service in named[:20])
    found = named if key is None else [service for service in named if service.key == key]
    if len(found) != 1:
        brief = "no service named" if key is None else f"no such service: {one_line(key, 60)}"
        raise UsageError(brief, f"the file has: {names}", "lxdocker new NAME --from-compose FILE SERVICE")
    (service,) = found
    if not service.image:
        raise UsageError(
            f"no image for the new spec: {one_line(service.key or service.name, 60)}",
            "a service that is built names none",
            "build it elsewhere, and name the result: lxdocker new NAME oci-archive:FILE",
        )
    rest = [lost for other in services if not other.name for lost in other.lost]
    return replace(service, lost=(*service.lost, *rest))
