"""``lxdocker serve`` and nginx with the same tree, the same certificate and the same clients."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.place import MEGABYTE, MeasurementError

PATIENCE_SECONDS = 20
BIG = "images/big/x86_64/20260101_0000/rootfs.squashfs"
INDEX = "streams/v1/images.json"
NGINX = """
daemon off;
worker_processes auto;
pid {folder}/pid;
error_log {folder}/errors;
events {{ worker_connections 1024; }}
http {{
    access_log {folder}/log;
    sendfile on;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {tls}/server.crt;
        ssl_certificate_key {tls}/server.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        root {tree};
    }}
}}
"""


@dataclass(frozen=True)
class Server:
    """A running web server."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def memory(self) -> float:
        """Private memory in MB of the server and its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        found = 0
        for pid in (str(self.pid), *children):
            line = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            found += int(line[1]) if line else 0
        return found * 1024 / MEGABYTE


def make_tree(folder: Path, size: int, products: int) -> Path:
    """A tree with one big file and an index of many products."""
    tree = folder / "tree"
    for path in (BIG, INDEX):
        (tree / path).parent.mkdir(parents=True)
    with (tree / BIG).open("wb") as output:
        for _ in range(size // 1_000_000):
            output.write(os.urandom(1_000_000))
    items = {ftype: {"ftype": ftype, "sha256": "0" * 64, "path": BIG, "size": size} for ftype in ("a", "b", "c")}
    versions = {f"20260101_000{number}": {"items": items} for number in range(3)}
    document = {
        "products": {f"image-{number}:current:default:amd64": {"versions": versions} for number in range(products)}
    }
    (tree / INDEX).write_text(json.dumps(document))
    return tree


@contextlib.contextmanager
def lxdocker(folder: Path, tree: Path) -> Iterator[Server]:
    port = _free_port()
    program = Path(sys.executable).with_name("lxdocker")
    command: list[str | Path] = [
        program,
        "serve",
        "--tree",
        tree,
        "--tls-dir",
        folder / "tls",
        "--listen",
        f"127.0.0.1:{port}",
    ]
    with _running(command, port, folder / "lxdocker.log") as server:
        yield server


@contextlib.contextmanager
def nginx(folder: Path, tree: Path) -> Iterator[Server]:
    """Uses the certificate created by lxdocker."""
    port = _free_port()
    own = folder / "nginx"
    own.mkdir(exist_ok=True)
    (own / "conf").write_text(NGINX.format(folder=own, port=port, tls=folder / "tls", tree=tree))
    # It runs as another user, who must be able to reach the files.
    for parent in (tree, *tree.parents):
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    with _running(["nginx", "-c", own / "conf", "-p", own], port, folder / "nginx.log") as server:
        yield server


@contextlib.contextmanager
def _running(command: list[str | Path], port: int, log: Path) -> Iterator[Server]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise MeasurementError(f"{command[0]} does not serve:\n{log.read_text()[-1000:]}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield Server(process.pid, port)
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# ---- clients


def download(server: Server, clients: int) -> float:
    """Seconds that ``clients`` clients take to download the big file at the same time."""
    command = ["curl", "--silent", "--insecure", "--fail", "--output", "/dev/null", f"{server.url}/{BIG}"]
    began = time.monotonic()
    running = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(clients)]
    failed = [one for one in running if one.wait() != 0]
    if failed:
        raise MeasurementError(f"{len(failed)} of {clients} downloads failed")
    return time.monotonic() - began


def unchanged_per_second(server: Server, requests: int, clients: int) -> float:
    """Conditional requests for images.json per second."""
    head = subprocess.run(
        ["curl", "--silent", "--insecure", "--head", f"{server.url}/{INDEX}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    etag = re.search(r"^etag: *(.*?)\s*$", head, re.I | re.M)
    if not etag:
        raise MeasurementError("the server gives no ETag")
    done = subprocess.run(
        [
            *("ab", "-q", "-k", "-c", str(clients), "-n", str(requests)),
            *("-H", f"If-None-Match: {etag[1]}", f"{server.url}/{INDEX}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = {
        name: re.search(rf"^{name}: +([0-9.]+)", done, re.M) for name in ("Requests per second", "Non-2xx responses")
    }
    rate, others = found["Requests per second"], found["Non-2xx responses"]
    if rate is None or others is None or int(others[1]) != requests:
        raise MeasurementError(f"not every answer was 304:\n{done[-1000:]}")
    return float(rate[1])


def slow_clients(server: Server, count: int, seconds: float) -> float:
    """Peak private memory (MB) of the server while many clients download the big file slowly."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    peak = server.memory
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS))
            client = stack.enter_context(context.wrap_socket(plain))
            client.sendall(f"GET /{BIG} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            clients.append(client)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for client in clients:
                if not client.recv(16384):
                    raise MeasurementError("a slow client was not served to the end")
            peak = max(peak, server.memory)
            time.sleep(0.2)
    return peak
