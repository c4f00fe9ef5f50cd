# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.repository.schedule: the words of an administrator, and the times that follow, in any time zone."""

import os
import time

from hypothesis import given
from hypothesis import strategies as st
import pytest

from zfsvol import naming
from zfsvol.repository import schedule
from zfsvol.repository.schedule import WINDOW, Schedule, next_due, parse

DAY = 86400
PERIODS = {"daily": 1, "weekly": 7, "monthly": 30}
# With and without summer time, on both sides of the equator, half an hour off, on both sides of the date line.
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Kiritimati"]


@pytest.fixture(autouse=True, scope="module")
def own_time_zone():
    """Restores the time zone."""
    before = os.environ.get("TZ")
    yield
    if before is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = before
    time.tzset()


def use(zone: str) -> None:
    os.environ["TZ"] = zone
    time.tzset()


def at(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M"))


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("monthly", "monthly 02:00"),
        ("weekly", "weekly 02:00"),
        ("off", "off"),
        ("off 03:00", "off"),
        ("monthly 2:30", "monthly 02:30"),
        ("daily 23:59", "daily 23:59"),
        (" weekly   00:00 ", "weekly 00:00"),
    ],
)
def test_words(words, shown):
    assert str(parse(words, naming.SR_SCRUB)) == shown
    assert str(parse(shown, naming.SR_SCRUB)) == shown


@pytest.mark.parametrize("words", ["", "on", "yearly", "monthly 24:00", "monthly 2", "02:30", "weekly 2:5", "Monthly"])
def test_no_schedule(words):
    with pytest.raises(ValueError, match="^" + words):
        parse(words, naming.SR_SCRUB)


def test_defaults():
    assert str(schedule.of({}, naming.SR_SCRUB, autotrim=True)) == "monthly 02:00"
    assert str(schedule.of({}, naming.SR_TRIM, autotrim=True)) == "off"
    assert str(schedule.of({}, naming.SR_TRIM, autotrim=False)) == "weekly 01:00"
    assert str(schedule.of({naming.SR_TRIM: "weekly"}, naming.SR_TRIM, autotrim=True)) == "weekly 01:00"
    assert str(schedule.of({naming.SR_SCRUB: "nonsense"}, naming.SR_SCRUB, autotrim=True)) == "monthly 02:00"


def test_the_time_of_day_does_not_drift():
    """A scrub takes three hours; the next one must not come an hour or a day later each time."""
    use("Europe/Berlin")
    weekly = Schedule("weekly", 2, 0)
    ended = at("2026-06-01 05:00")
    for number in range(1, 30):
        due = next_due(weekly, ended, ended) or 0
        assert time.localtime(due)[3:5] == (2, 0)
        assert round((due - at("2026-06-01 02:00")) / DAY) == 7 * number
        ended = due + 3 * 3600


def test_a_missed_time_is_put_off_to_the_next_day():
    use("UTC")
    monthly = Schedule("monthly", 2, 0)
    ended = at("2026-06-01 05:00")
    due = at("2026-07-01 02:00")
    assert next_due(monthly, ended, at("2026-06-02 00:00")) == due
    assert next_due(monthly, ended, due + WINDOW - 1) == due
    assert next_due(monthly, ended, due + WINDOW) == due + DAY
    assert next_due(monthly, ended, at("2026-09-05 12:00")) == at("2026-09-06 02:00")


def test_never_done():
    use("UTC")
    daily = Schedule("daily", 2, 0)
    assert next_due(daily, None, at("2026-06-01 02:00")) == at("2026-06-01 02:00")
    assert next_due(daily, None, at("2026-06-01 03:00")) == at("2026-06-02 02:00")


def test_a_clock_that_was_wrong():
    use("UTC")
    assert next_due(Schedule("daily", 2, 0), at("2036-06-01 02:00"), at("2026-06-01 05:00")) == at("2026-06-02 02:00")


@given(
    zone=st.sampled_from(ZONES),
    every=st.sampled_from([*PERIODS, "off"]),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    last_end=st.none() | st.integers(0, 4 * 10**9),
    now=st.integers(10**9, 4 * 10**9),
)
def test_next_due(zone, every, hour, minute, last_end, now):
    use(zone)
    due = next_due(Schedule(every, hour, minute), last_end, now)
    if due is None:
        assert every == "off"
        return
    # Never for something that has passed, and a time that is due stays so for a while.
    assert due > now - WINDOW
    since = now if last_end is None else min(last_end, now)
    earliest = max(now - WINDOW, since + (PERIODS[every] - 1) * DAY if last_end is not None else 0)
    # The first such time of day; a day has up to 25 hours, and a time that does not exist is an hour later.
    assert earliest < due <= earliest + 26 * 3600
    shown = time.localtime(due)
    off = (shown.tm_hour * 60 + shown.tm_min - hour * 60 - minute) % 1440
    assert off in (0, 30, 60), "the time of day is kept, but for one that summer time skips"
    # It stays the same as time goes on, until its hour is over.
    if due > now and (last_end is None or last_end <= now):
        assert next_due(Schedule(every, hour, minute), last_end, due) == due
