"""The keys of versions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from lxdocker.image.version_key import is_version_key, next_version_key

NOW = datetime(2026, 1, 2, 3, 4, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ([], "20260102_0304"),
        (["20250101_0000"], "20260102_0304"),
        (["20260102_0303"], "20260102_0304"),
        (["20260102_0304"], "20260102_0305"),  # twice in one minute
        (["20260102_0304", "20260102_0305"], "20260102_0306"),
        (["20260102_0305", "20260102_0304"], "20260102_0306"),
        (["20301231_2359"], "20310101_0000"),  # the clock was wrong once; LXD takes the highest as the newest
        (["20260228_2359"], "20260301_0000"),
    ],
)
def test_the_next_key_is_higher_than_all_before(existing: list[str], expected: str) -> None:
    assert next_version_key(existing, NOW) == expected
    assert all(expected > key for key in existing)


def test_keys_are_in_universal_time() -> None:
    """Local time goes back an hour once a year."""
    local = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert next_version_key([], local) == "20260102_0304"


def test_keys_made_one_after_the_other_stay_in_the_format() -> None:
    keys: list[str] = []
    for _ in range(120):
        keys.append(next_version_key(keys, NOW))
    assert keys == sorted(set(keys))
    assert keys[-1] == "20260102_0503"
    assert all(is_version_key(key) for key in keys)


@pytest.mark.parametrize("text", ["20260102_0304", "19700101_0000", "20240229_2359"])
def test_what_is_a_key(text: str) -> None:
    assert is_version_key(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "20260102", "20260102_304", "2026012_0304", "20260102-0304", "20260102_0304 ", "20260102_0304~1"),
        *("20261302_0304", "20260230_0304", "20260102_2404", "20260102_0360", "backup", "\u066220260102_0304"),
    ],
)
def test_what_is_none(text: str) -> None:
    assert not is_version_key(text)
