"""When an appliance syncs: what its user writes for systemd, as cron keeps it where a base has no systemd."""

from __future__ import annotations

import re

# systemd.time(7), with the names of systemd-analyze's own normal forms.
_WORDS = {
    "minutely": "* * * * *",
    "hourly": "0 * * * *",
    "daily": "0 0 * * *",
    "weekly": "0 0 * * 1",
    "monthly": "0 0 1 * *",
    "quarterly": "0 0 1 1,4,7,10 *",
    "semiannually": "0 0 1 1,7 *",
    "yearly": "0 0 1 1 *",
    "annually": "0 0 1 1 *",
}
WHAT_CRON_KEEPS = "minutely, hourly, daily, weekly, monthly, a time such as 04:30, or *:0/15"
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(
    r"(?:(?P<day>[A-Za-z]{3})[a-z]* +)?(?:\*-\*-\* +)?"
    r"(?P<hour>\*|[0-9]{1,2}):(?P<minute>[0-9]{1,2})(?:/(?P<step>[0-9]{1,2}))?(?::0?0)?"
)
_SECONDS = {
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("us", "usec"), 1e-6),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604800.0),
}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([a-z]*)")


def seconds(text: str) -> float | None:
    """A time span such as ``1h 30min``, after systemd.time(7), up to weeks. None if it is none."""
    total, rest = 0.0, text.strip()
    if not rest:
        return None
    while rest:
        found = _SPAN.match(rest)
        if found is None or found[2] not in _SECONDS:
            return None
        total += float(found[1]) * _SECONDS[found[2]]
        rest = rest[found.end() :].lstrip()
    return total


def for_cron(calendar: str) -> str | None:
    """The five fields of crontab(5) that mean the same as systemd's OnCalendar. None where cron can't keep it."""
    text = calendar.strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    day = "*"
    if found["day"]:
        if found["day"].lower() not in _DAYS:
            return None
        day = str(_DAYS.index(found["day"].lower()) + 1)
    hour, minute, step = found["hour"], int(found["minute"]), int(found["step"] or 0)
    if minute > 59 or (hour != "*" and int(hour) > 23) or (found["step"] and not 0 < step < 60):
        return None
    minutes = str(minute) if not step else f"{minute}-59/{step}" if minute else f"*/{step}"
    return f"{minutes} {hour if hour == '*' else int(hour)} * * {day}"
