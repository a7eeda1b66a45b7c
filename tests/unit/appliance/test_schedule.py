"""What cron keeps of systemd's times."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from lxdocker.appliance import schedule
from lxdocker.doctor.timer import of_cron


@pytest.mark.parametrize(
    ("calendar", "fields"),
    [
        ("hourly", "0 * * * *"),
        ("Daily", "0 0 * * *"),
        ("weekly", "0 0 * * 1"),
        ("04:30", "30 4 * * *"),
        ("*-*-* 04:30:00", "30 4 * * *"),
        ("Sun 04:30", "30 4 * * 7"),
        ("Sunday 04:30", "30 4 * * 7"),
        ("*:0/15", "*/15 * * * *"),
        ("*:7/20", "7-59/20 * * * *"),
        ("*:05", "5 * * * *"),
    ],
)
def test_what_cron_keeps(calendar: str, fields: str) -> None:
    assert schedule.for_cron(calendar) == fields
    if shutil.which("systemd-analyze"):
        subprocess.run(["systemd-analyze", "calendar", calendar], check=True, capture_output=True)


@pytest.mark.parametrize(
    "calendar", ["*:*:0/3", "Mon..Fri 04:30", "2026-01-01", "24:00", "12:60", "*:0/0", "Xyz 04:30", "04:30:15", "soon"]
)
def test_what_it_cannot_keep(calendar: str) -> None:
    assert schedule.for_cron(calendar) is None


def test_what_it_keeps_is_as_often() -> None:
    hour = 3600
    for calendar, seconds in (("hourly", hour), ("daily", 24 * hour), ("weekly", 168 * hour), ("*:0/15", hour / 4)):
        assert of_cron(f"{schedule.for_cron(calendar)} root lxdocker sync") == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15min", 900),
        ("1h 30min", 5400),
        ("1h30min", 5400),
        ("90", 90),
        ("1.5 hours", 5400),
        ("2 days", 172800),
        ("500ms", 0.5),
        ("0", 0),
        ("", None),
        ("soon", None),
        ("15 minutos", None),
        ("-5s", None),
        ("1h\n[Service]", None),
    ],
)
def test_time_spans(text: str, seconds: float | None) -> None:
    assert schedule.seconds(text) == seconds
