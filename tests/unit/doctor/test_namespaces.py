"""Firewalls in a network namespace of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("iptables") or not shutil.which("ip"),
    reason="needs root, iptables and ip",
)

# Rules of iptables -> whether what comes to port 80 is dropped.
CASES = {
    "": False,
    "-A INPUT -p tcp --dport 80 -j DROP": True,
    "-A INPUT -p tcp --dport 80 -j REJECT": False,
    # From here, all is let through; from elsewhere it is not.
    "-A INPUT -i lo -j ACCEPT\n-P INPUT DROP": True,
    "-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp --dport 80 -j REJECT\n-P INPUT DROP": False,
    "-A INPUT -i lo -j ACCEPT\n-A INPUT -j REJECT\n-P INPUT DROP": False,
}
PROGRAM = """
import json, subprocess, sys
from pathlib import Path
from lxdocker.config.settings import Settings
from lxdocker.doctor import network
from lxdocker.doctor.subject import Subject

folder = Path(sys.argv[1])
subject = Subject(Settings(specs=folder, tree=folder, listen=":443", tls_dir=folder, client_dir=folder), {})
found = {}
for rules in json.load(sys.stdin):
    subprocess.run(["iptables", "-P", "INPUT", "ACCEPT"], check=True)
    subprocess.run(["iptables", "-F"], check=True)
    for rule in rules.splitlines():
        subprocess.run(["iptables", *rule.split()], check=True)
    found[rules] = [finding.id for finding in network.port_80(subject)]
print(json.dumps(found))
"""


def test_a_firewall_that_drops_port_80(tmp_path: Path) -> None:
    (tmp_path / "server.crt").write_text("")  # this host is a server
    own = "ip link set lo up && ip address add 10.99.0.1/32 dev lo"
    done = subprocess.run(
        ["unshare", "-n", "sh", "-euc", f'{own} && exec "$@"', "sh", sys.executable, "-c", PROGRAM, str(tmp_path)],
        input=json.dumps(list(CASES)),
        env={**os.environ, "PYTHONPATH": str(ROOT), "LXD_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = {rules: ["port-80-dropped"] if dropped else [] for rules, dropped in CASES.items()}
    assert json.loads(done.stdout) == expected
