"""Whether a timer syncs, and has done so lately."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from lxdocker import log
from lxdocker.config import units
from lxdocker.doctor.finding import Finding
from lxdocker.doctor.subject import Subject
from lxdocker.files.seen import exists
from lxdocker.image.provenance import Folder
from lxdocker.text import counted
from lxdocker.tree import last_sync

CRON = Path("/etc/cron.d/lxdocker")
HOUR = 3600.0
_WORDS = {"minutely": 60.0, "hourly": HOUR, "daily": 24 * HOUR, "weekly": 168 * HOUR, "monthly": 744 * HOUR}
_COMMAND_SECONDS = 5
# A line of crontab(5) that syncs, and neither one that sets a variable nor one that does something else.
_JOB = re.compile(r"\s*(?:@\w+|[\w*/,-]+(?:\s+[\w*/,-]+){4})\s.*\blxdocker\b.*\bsync\b")


def timer(subject: Subject) -> Iterator[Finding]:
    """The record of the last sync, against twice the timer's interval."""
    settings = subject.settings
    last = last_sync.read(settings.tree, Folder.of(settings.specs).id)
    interval = _interval()
    if interval is None:
        if subject.specs():
            do = "lxdocker init offers one; docs/unattended.md has others"
            yield Finding(
                "timer-missing", "nothing syncs regularly", "there is neither a systemd timer nor a cron job", do
            )
    elif last is None:
        if subject.specs() and time.time() - _since() > 2 * interval:
            yield _late("no sync has left a record", interval)
    elif time.time() - last.finished > 2 * interval:
        yield _late(f"the last sync ended {_ago(time.time() - last.finished)} ago", interval)
    if last is not None and not last.succeeded:
        failed = "it failed as a whole" if last.exit > 1 else "the specs could not be updated from their repository"
        if last.failed:
            failed = f"images that failed: {', '.join(sorted(last.failed)[:10])}"
        earlier = "journalctl -u lxdocker-sync has" if units.timer() else "the mail of cron has"
        do = f"lxdocker sync, and see what it says; {earlier} earlier runs"
        yield Finding("last-sync-failed", "the last sync failed", failed, do)


def _late(why: str, interval: float) -> Finding:
    do = "see that cron runs"
    if units.timer():
        do = "systemctl status lxdocker-sync.timer lxdocker-sync.service"
    return Finding("timer-late", "the timer has not synced", f"{why}; it is to run every {_ago(interval)}", do)


def _ago(seconds: float) -> str:
    hours = seconds / HOUR
    if hours < 1:
        return counted(round(seconds / 60), "minute")
    return counted(round(hours), "hour") if hours < 48 else counted(round(hours / 24), "day")


def _since() -> float:
    """When the timer came to be there."""
    files = [path for path in (units.timer(), CRON) if path and exists(path)]
    return min((path.lstat().st_mtime for path in files), default=time.time())


def _interval() -> float | None:
    """Seconds between two runs of the timer there is; None for none."""
    unit = units.timer()
    try:
        files = [unit, *sorted((units.UNIT_FOLDER / f"{units.TIMER}.d").glob("*.conf"))] if unit else []
        calendars = re.findall(r"^OnCalendar=(.+)$", "\n".join(file.read_text() for file in files), re.MULTILINE)
        if files:
            return _of_calendar(calendars[-1].strip()) if calendars else HOUR
    except OSError:
        pass
    jobs = [line for line in (*_cron_file(), *_crontab()) if _JOB.match(line)]
    return of_cron(jobs[0]) if jobs else None


def _cron_file() -> list[str]:
    try:
        return CRON.read_text().splitlines()
    except OSError:
        return []


def _crontab() -> list[str]:
    """This user's own (crontab -e)."""
    argv = ["crontab", "-l"]
    log.command(argv)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines()


def _of_calendar(text: str) -> float:
    """systemd.time(7)."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    argv = ["systemd-analyze", "calendar", "--iterations=2", text]
    log.command(argv)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 24 * HOUR
    moments = re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", done.stdout.split("(in UTC)")[0])
    times = [datetime.fromisoformat(moment).timestamp() for moment in moments]
    return abs(times[-1] - times[0]) or 24 * HOUR if len(times) > 1 else 24 * HOUR


def of_cron(line: str) -> float:
    """The longest pause between two runs of a line of crontab(5), roughly."""
    fields = line.split()
    if fields[0].startswith("@"):
        return _WORDS.get(fields[0][1:], 24 * HOUR)
    minute, hour, day, month, weekday = fields[:5]
    if (day, month, weekday) != ("*", "*", "*"):
        return (168 if (day, month) == ("*", "*") else 744) * HOUR
    try:
        return _step(minute, 60) * 60.0 if hour == "*" else _step(hour, 24) * HOUR
    except (ValueError, IndexError):  # cron takes more than that
        return 24 * HOUR


def _step(field: str, whole: int) -> int:
    if field == "*":
        return 1
    if match := re.fullmatch(r"\*/(\d+)", field):
        return max(1, int(match[1]))
    points = sorted(int(word) for word in re.findall(r"\d+", field))
    gaps = [after - before for before, after in zip(points, [*points[1:], points[0] + whole], strict=True)]
    return max(gaps)
