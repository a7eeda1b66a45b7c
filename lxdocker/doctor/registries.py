"""The registries that specs name, as this host reaches them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from urllib3.util import Url

from lxdocker.doctor.asking import SECONDS, Asked
from lxdocker.doctor.finding import Finding
from lxdocker.doctor.subject import Subject
from lxdocker.http.failure import RequestError
from lxdocker.http.route import Place
from lxdocker.http.trust import Tls, Trust, make_context
from lxdocker.http.wire import Answer, Limits, Request, Wire
from lxdocker.source.site import Site
from lxdocker.text import counted
from lxdocker.values import RegistryRef

CLOCK_SECONDS = 60  # how far a clock may be off
FEW = 10  # requests that the rate limit leaves


def registries(subject: Subject) -> Iterator[Finding]:
    """Whether each is reached, takes the login, and has the same time."""
    clocks: list[tuple[float, str]] = []
    for asked in subject.asked().asked:
        yield from _access(asked)
        date = asked.answer.headers if asked.answer else _date_of_stranger(asked)
        if (behind := _behind(date, asked.at)) is not None:
            clocks.append((behind, asked.ref.registry))
        if asked.answer:
            yield from _rate(asked.ref, asked.answer)
    if clocks and min(abs(behind) for behind, _ in clocks) > CLOCK_SECONDS:
        behind, registry = min(clocks, key=lambda clock: abs(clock[0]))
        how = f"{_duration(abs(behind))} {'behind' if behind > 0 else 'ahead'}"
        yield Finding(
            "clock-off",
            f"this host's clock is {how}",
            f"compared with {registry}; certificates and logins depend on the time",
            "set it: timedatectl set-ntp true, or chronyc makestep",
        )


def _access(asked: Asked) -> Iterator[Finding]:
    ref, answer = asked.ref, asked.answer
    if asked.error is not None and not asked.is_refused:
        yield Finding.of("registry-unreachable", asked.error)
    elif asked.is_refused and asked.has_login:
        why = asked.error.details if asked.error else f"it answers {answer.status if answer else 'nothing'} for {ref}"
        what = f"{ref.registry} refuses the login that this user has for it"
        yield Finding(
            "login-refused", what, why, f"log in again, as the user who runs sync: skopeo login {ref.registry}"
        )
    elif asked.is_refused:
        what = f"{ref.registry} refuses {ref}"
        why = "no such image, or it needs a login"
        yield Finding("registry-refused", what, why, f"check the name; if it is private: skopeo login {ref.registry}")
    elif answer is not None and answer.status != 200:
        what = f"{ref.registry} answers {answer.status} for {ref}"
        why = {404: "no such image", 429: "too many requests"}.get(answer.status, "it has no image for us")
        if answer.status == 429:
            yield Finding("rate-limit", what, why, f"wait, or log in: skopeo login {ref.registry}")
        else:
            yield Finding("registry-refused", what, why, "check the name and the tag; or try again later")


def _rate(ref: RegistryRef, answer: Answer) -> Iterator[Finding]:
    """Docker Hub's headers: ``76;w=21600``."""
    left = re.match(r"(\d+)", answer.headers.get("ratelimit-remaining", ""))
    if left and int(left[1]) < FEW:
        limit = answer.headers.get("ratelimit-limit", "").partition(";")[0]
        yield Finding(
            "rate-limit",
            f"{ref.registry} allows {counted(int(left[1]), 'more download')} for now",
            f"of {limit}" if limit.isdigit() else "",
            f"wait, or log in, which raises the limit: skopeo login {ref.registry}",
        )


# ---- the clock


def _behind(headers: object, at: float) -> float | None:
    """Seconds by which our clock is behind that of an answer; None if it does not say."""
    given = headers if isinstance(headers, dict) else {}
    try:
        theirs = parsedate_to_datetime(str(given["date"])).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    age = str(given.get("age", ""))  # of an answer from a cache
    return theirs + (int(age) if age.isdigit() else 0) - at


def _duration(seconds: float) -> str:
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return counted(round(seconds / size), name)
    return counted(round(seconds), "second")


class _Anybody:
    """For a server whose certificate may be fine, if only our clock were: it is asked for the time alone."""

    def admit(self, url: Url, previous: Url | None) -> Tls | None:
        return Tls(make_context(verify=False)) if url.scheme == "https" else None

    def reached(self, url: Url, place: Place) -> None:
        pass


def _date_of_stranger(asked: Asked) -> object:
    if asked.error is None or "certificate" not in asked.error.details:
        return {}
    wire = Wire(Limits(connect=SECONDS, piece=SECONDS, head=SECONDS, body=SECONDS, redirects=0))
    try:
        return dict(
            wire.ask(Request("HEAD", f"https://{Site(asked.ref.registry, Trust()).host}/v2/"), _Anybody()).headers
        )
    except RequestError:
        return {}
    finally:
        wire.close()
