"""A base image for an appliance in which all is there already, and nothing works but what its life needs: an init,
DHCP, an HTTPS server, and a program `lxdocker` that says what the real one would. LXD starts it in a moment.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from lxdocker import __version__

APPLETS = (
    "awk cat chgrp chmod chown cmp cp crond cut date echo env expr false find grep head hostname id ifconfig kill"
    " ln ls mkdir mount mv od pidof printf ps readlink rm sed setsid sh sleep stat tail tar test touch tr true udhcpc"
)
INIT = """\
#!/bin/sh
udhcpc -i eth0 -b -R -t 20 -A 1 -s /dhcp >/dev/null 2>&1 &
mkdir -p /crons && crond -c /crons
trap 'exit 0' PWR TERM
[ ! -e /etc/cron.d/lxdocker ] || setsid /usr/local/sbin/lxdocker-timer serve &  # as cron would
while :; do
    sleep 1 &
    wait $!
done
"""
DHCP = """\
#!/bin/sh
[ "$1" != bound ] && [ "$1" != renew ] || ifconfig "$interface" "$ip" netmask "${subnet:-255.255.255.0}"
"""
LXDOCKER = f"""\
#!/bin/sh
case $1 in
--version) echo 'lxdocker {__version__}' ;;
list) cat /etc/lxdocker/list.json 2>/dev/null || echo '{{"schema": 1, "images": []}}' ;;
serve)
    cd /var/lib/lxdocker/tls || exit
    [ -s server.crt ] || openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=fake -keyout server.key \\
        -out server.crt
    exec openssl s_server -accept 443 -cert server.crt -key server.key -WWW -quiet
    ;;
esac
"""
SETPRIV = """\
#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""
OPENSSL = "[req]\ndistinguished_name = names\n[names]\n"


def make(folder: Path, *, broken: bool = False) -> tuple[Path, Path]:
    """Metadata and root filesystem. ``broken``: its server does not start."""
    root = folder / "root"
    for name in ("bin", "sbin", "usr/bin", "usr/local/bin", "usr/lib/ssl", "etc", "var/log", "run", "tmp", "root"):
        (root / name).mkdir(parents=True)
    for name in ("dev", "proc", "sys"):
        (root / name).mkdir()
    busybox = next(path for path in (Path("/bin/busybox"), Path("/usr/bin/busybox")) if path.exists())
    shutil.copy(busybox, root / "bin/busybox")
    for applet in APPLETS.split():
        (root / "bin" / applet).symlink_to("busybox")
    for name in ("openssl", "flock"):
        _copy_with_libraries(Path(shutil.which(name) or f"/usr/bin/{name}"), root)
    program = LXDOCKER.replace("serve)\n", "serve)\n    exit 1\n") if broken else LXDOCKER
    for name, text in (
        *(
            ("sbin/init", INIT),
            ("dhcp", DHCP),
            ("usr/bin/lxdocker", program),
            ("usr/bin/setpriv", SETPRIV),
        ),
    ):
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    (root / "usr/lib/ssl/openssl.cnf").write_text(OPENSSL)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nlxdocker-serve:x:990:990::/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nlxdocker-serve:x:990:\n")
    rootfs, metadata = folder / "rootfs.squashfs", folder / "lxd.tar.xz"
    subprocess.run(["mksquashfs", root, rootfs, "-comp", "zstd", "-quiet", "-no-progress"], check=True)
    (folder / "metadata.yaml").write_text(f"architecture: x86_64\ncreation_date: 1\nproperties: {{os: fake{broken}}}\n")
    with tarfile.open(metadata, "w:xz") as archive:
        archive.add(folder / "metadata.yaml", "metadata.yaml")
    return metadata, rootfs


def _copy_with_libraries(program: Path, root: Path) -> None:
    shutil.copy(program, root / "usr/bin" / program.name)
    said = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for path in re.findall(r"(/\S+) \(0x", said):
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
