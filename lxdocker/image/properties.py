"""What ``lxc image info`` shows of an image: what it is, and what it expects of its instance."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from lxdocker.config.spec import ImageSpec
from lxdocker.image.provenance import Provenance
from lxdocker.runtime.render import parse_healthcheck
from lxdocker.source.oci import OciConfig
from lxdocker.text import one_line
from lxdocker.values import Arch

MAX_LABELS = 50
MAX_VARIABLES = 100
ENVIRONMENT = "oci.env."  # the prefix of the image's variables


def image_properties(spec: ImageSpec, config: OciConfig, provenance: Provenance, arch: Arch) -> Mapping[str, str]:
    """The image's own properties, part of its metadata.yaml. Those of the spec override what is derived from the
    image; nothing overrides the last two lines.
    """
    expects = {
        "entrypoint": " ".join(config.argv),
        "user": config.user,
        "workdir": config.working_dir,
        "ports": " ".join(config.exposed_ports),
        "volumes": " ".join(config.volumes),
        "stop_signal": config.stop_signal,
        "healthcheck": _healthcheck_text(config),
    }
    return {
        "description": f"{spec.name} ({provenance.source})",
        "os": spec.name.value,
        "release": provenance.release,
        "type": "squashfs",
        **{f"oci.{key}": one_line(value) for key, value in expects.items() if value},
        **{f"{ENVIRONMENT}{one_line(name, 100)}": one_line(value) for name, value in config.env[:MAX_VARIABLES]},
        **{f"oci.label.{key}": one_line(value) for key, value in sorted(config.labels.items())[:MAX_LABELS]},
        **dict(spec.properties),
        "architecture": arch.value,
        **provenance.sealed_properties(),
    }


def _healthcheck_text(config: OciConfig) -> str:
    health = parse_healthcheck(config.healthcheck)
    return f"{shlex.join(health.command)} every {health.interval:g} s" if health else ""
