"""lxdocker without a person: units, cron, and hooks."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxdocker.config import units
from lxdocker.config.units import File
from tests.unit.cli.test_commands import Program, lxdocker, place

__all__ = ["lxdocker", "place"]  # fixtures


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin/lxdocker"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setattr(units, "program", lambda: path)
    return path


def test_units_are_printed_for_this_program_and_its_settings(
    place: Path, lxdocker: Program, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LXDOCKER_LISTEN", ":443")
    done = lxdocker("units")
    assert (done.returncode, done.stderr) == (0, "")
    assert "# /etc/systemd/system/lxdocker-sync.timer\n[Unit]" in done.stdout
    assert f"ExecStart={program} sync -q\n" in done.stdout
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE\n" in done.stdout
    # The services' folders, also where root does not run this.
    assert "ReadWritePaths" not in done.stdout


def test_units_are_installed_but_not_enabled(lxdocker: Program, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "check_program", lambda _: None)
    monkeypatch.setattr(units, "serve_obstacle", lambda _: None)
    asked: list[str] = []

    def install(files: tuple[File, ...]) -> list[Path]:
        asked.extend(file.path.name for file in files)
        return [files[0].path]

    monkeypatch.setattr(units, "install", install)
    done = lxdocker("units", "--install")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "wrote /etc/sysusers.d/lxdocker.conf",
        "to enable the hourly sync:",
        "  systemd-sysusers /etc/sysusers.d/lxdocker.conf",
        "  systemd-tmpfiles --create /etc/tmpfiles.d/lxdocker.conf",
        "  systemctl daemon-reload",
        "  systemctl enable --now lxdocker-sync.timer",
        "to serve the images to other hosts: systemctl enable --now lxdocker-serve.service",
    ]
    assert "lxdocker-serve.service" in asked
    asked.clear()
    monkeypatch.setattr(units, "serve_obstacle", lambda _: "its user cannot run it")
    done = lxdocker("units", "--install")
    assert "not installing lxdocker-serve.service: its user cannot run it" in done.stderr
    assert "lxdocker-serve.service" not in {*asked, *done.stdout.split()}
    assert "lxdocker-sync.timer" in asked
