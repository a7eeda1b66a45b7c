"""The certificate of the image server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from lxdocker.doctor.finding import Finding, NotExamined
from lxdocker.doctor.subject import Subject
from lxdocker.files.rights import may_exist
from lxdocker.serve import hostnames
from lxdocker.serve.certs import CERTIFICATE, WARN_BEFORE, Certificate


def certificate(subject: Subject) -> Iterator[Finding]:
    """Whether clients will trust it, and go on doing so."""
    settings = subject.settings
    path = settings.tls_cert or (settings.tls_dir / CERTIFICATE if settings.tls_dir else None)
    if path is None or not may_exist(path):
        if settings.tls_cert:
            yield _unusable(settings.tls_cert, "it does not exist")
        return
    try:
        found = Certificate.parse(path.read_bytes())
    except OSError as error:
        raise NotExamined(f"{path}: {error.strerror}") from error
    except ValueError as error:
        yield _unusable(path, str(error))
        return
    yield from _dates(path, found, is_own=settings.tls_cert is None)
    wanted = [*settings.tls_names, *(hostnames.own_name() if settings.tls_cert is None else [])]
    if missing := [name for name in dict.fromkeys(wanted) if not found.is_for(name)]:
        yield _names(path, missing, is_own=settings.tls_cert is None)
    elif settings.tls_cert and not wanted:
        names = [*hostnames.own_name(), *hostnames.full_name(), *map(str, hostnames.host_addresses())]
        if not any(found.is_for(name) for name in names):
            yield _names(path, names[:2], is_own=False)


def _unusable(path: Path, why: str) -> Finding:
    return Finding("certificate-unusable", f"the server's certificate {path} can't be used", why, "name another one")


def _dates(path: Path, found: Certificate, *, is_own: bool) -> Iterator[Finding]:
    now = datetime.now(UTC)
    notice = min(WARN_BEFORE, (found.ends - found.begins) / 4)
    do = "start lxdocker serve, which renews it" if is_own else "renew it; lxdocker serve takes it by itself"
    if now < found.begins:
        yield _unusable(path, f"it is not valid before {found.begins:%Y-%m-%d %H:%M} UTC")
    elif now >= found.chain_ends:
        what = f"the server's certificate {path} has expired"
        yield Finding("certificate-unusable", what, f"it ended on {found.chain_ends:%Y-%m-%d}: no client trusts it", do)
    elif now >= found.chain_ends - notice:
        what = f"the server's certificate {path} ends on {found.chain_ends:%Y-%m-%d}"
        yield Finding("certificate-ending", what, "from then on no client trusts the server", do)


def _names(path: Path, missing: list[str], *, is_own: bool) -> Finding:
    do = "start lxdocker serve, which makes a new one" if is_own else "have one made with these names (tls_names)"
    what = f"the server's certificate {path} is not for {' or '.join(missing)}"
    return Finding("certificate-name", what, "clients that use the name do not trust the server", do)
