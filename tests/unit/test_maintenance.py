# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.service.maintenance: which scrub or trim is started when, on a clock that the test sets."""

import time
from typing import Iterator, List, Tuple

import pytest

from tests.unit.test_topology import composed
from zfsvol import naming
from zfsvol.care import scrub
from zfsvol.errors import SRUnavailable
from zfsvol.repository.sr import SR
from zfsvol.service.maintenance import Maintenance
from zfsvol.service.sight import Sight
from zfsvol.zfs import history
from zfsvol.zfs.core import Numbers

DAY = 86400
HOUR = 3600


def at(day: int, hour: int, minute: int = 0) -> float:
    """A time on a day of the year 2026; day 1 is the first of January."""
    return time.mktime((2026, 1, day, hour, minute, 0, 0, 0, -1))


def ctime(moment: float) -> str:
    return time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(moment))


class Pool:
    """A pool that is looked at. A scrub or trim that is started takes two hours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, autotrim: bool = True, trims: bool = True) -> None:
        self.now = at(1, 12)
        self.created = self.now
        self.autotrim, self.trims = autotrim, trims
        self.state = "ONLINE"
        self.schedules: "dict[str, str]" = {}
        self.last = {"scrub": 0.0, "trim": 0.0}  # their ends
        self.started: "List[Tuple[str, float]]" = []
        self.other = ""  # another scan, in zpool's words
        self.maintenance = Maintenance(SR("sr-5d9c2a1e-7a53-4c57-9d0b-0a4a6f3cf5a1"))
        monkeypatch.setattr(scrub, "scrub", lambda name: self.start("scrub"))
        monkeypatch.setattr(scrub, "trim", lambda name: self.start("trim"))
        monkeypatch.setattr(history, "last_scrub", lambda pool: self.last["scrub"] or None)

    def start(self, kind: str) -> None:
        self.started.append((kind, self.now))
        self.last[kind] = self.now + 2 * HOUR

    def sight(self) -> Sight:
        scan, ended = "", self.last["scrub"]
        if ended > self.now:
            scan = f"scrub in progress since {ctime(ended - 2 * HOUR)}, 1.00% done"
        elif ended:
            scan = f"scrub repaired 0B in 02:00:00 with 0 errors on {ctime(ended)}"
        trim, note = self.last["trim"], "(untrimmed)"
        if trim:
            began = f"started at {ctime(trim - 2 * HOUR)}"
            note = f"(3% trimmed, {began})" if trim > self.now else f"(100% trimmed, completed at {ctime(trim)})"
        found = composed(f"  /dev/sda ONLINE 0 0 0 0 {note if self.trims else '(trim unsupported)'}")
        found.described.scans = list(filter(None, [self.other or scan]))
        properties = {"creation": int(self.created), **self.schedules}
        values = {"used": 1, "available": 9, "compressratio": 100, "promised": 0, "disks": 1, "properties": properties}
        return Sight(self.now, self.state, found, Numbers(values), (0.0, self.autotrim))

    def days(self, number: float) -> "List[str]":
        """Lets days pass, with a look every five minutes; what was started, with day and time."""
        before = len(self.started)
        end = self.now + number * DAY
        while self.now < end:
            self.now += 300
            self.maintenance.run(self.sight())
        return [kind + time.strftime(" %j %H:%M", time.localtime(moment)) for kind, moment in self.started[before:]]


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    return Pool(monkeypatch)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> "Iterator[None]":
    """No summer time, whose days have other lengths."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_monthly_by_default(pool: Pool) -> None:
    assert pool.days(65) == ["scrub 031 02:00", "scrub 061 02:00"]


def test_at_the_time_that_was_asked_for(pool: Pool) -> None:
    pool.schedules = {naming.SR_SCRUB: "weekly 23:15"}
    assert pool.days(15) == ["scrub 007 23:15", "scrub 014 23:15"]


def test_off(pool: Pool) -> None:
    pool.schedules = {naming.SR_SCRUB: "off"}
    assert pool.days(40) == []
    assert pool.maintenance.days_without_scrub(pool.sight()) is None


def test_trims_where_zfs_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch, autotrim=False)
    pool.schedules = {naming.SR_SCRUB: "off"}
    # A device that was never trimmed: at the first occasion, a week after the SR was made.
    assert pool.days(22) == ["trim 008 01:00", "trim 015 01:00", "trim 022 01:00"]


def test_nothing_that_cannot_be_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch, autotrim=False, trims=False)
    assert pool.days(20) == []


def test_never_both_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch, autotrim=False)
    pool.schedules = {naming.SR_SCRUB: "weekly 02:00", naming.SR_TRIM: "weekly 02:30"}
    started = pool.days(30)
    for number, line in enumerate(started):
        assert line.split()[0] in ("scrub", "trim"), number
    for one, other in zip(pool.started, pool.started[1:]):
        assert other[1] - one[1] >= 2 * HOUR
    assert {line.split()[0] for line in started} == {"scrub", "trim"}


@pytest.mark.parametrize("other", ["resilver in progress since Thu Jan  1 12:00:00 2026, 1.00% done", "scrub paused"])
def test_not_while_something_else_runs(pool: Pool, other: str) -> None:
    pool.other = other + " since Thu Jan  1 12:00:00 2026" if other == "scrub paused" else other
    assert pool.days(35) == []
    pool.other = ""
    assert pool.days(1) == [f"scrub {time.strftime('%j', time.localtime(pool.now))} 02:00"]


def test_what_others_scrubbed_is_not_scrubbed_again(pool: Pool) -> None:
    pool.days(20)
    pool.last["scrub"] = pool.now
    assert pool.days(28) == []
    assert len(pool.days(3)) == 1


def test_not_of_a_sick_pool(pool: Pool) -> None:
    pool.state = "SUSPENDED"
    assert pool.days(40) == []


def test_of_a_degraded_one(pool: Pool) -> None:
    pool.state = "DEGRADED"
    assert len(pool.days(40)) == 1


def test_a_host_that_was_off_at_that_time(pool: Pool) -> None:
    pool.now = at(31, 9)
    assert pool.days(2) == ["scrub 032 02:00"]


def test_a_failure_is_tried_again_later(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: "List[float]" = []

    def fails(_name: str) -> None:
        tries.append(pool.now)
        raise SRUnavailable("no answer")

    monkeypatch.setattr(scrub, "scrub", fails)
    pool.now = at(31, 1, 59)
    for _ in range(20):
        pool.now += 60
        try:
            pool.maintenance.run(pool.sight())
        except SRUnavailable:
            continue
    assert [moment - at(31, 2) for moment in tries] == [0, 600]


def test_days_without_a_scrub(pool: Pool) -> None:
    pool.now += 44 * DAY
    assert pool.maintenance.days_without_scrub(pool.sight()) is None
    pool.now += 2 * DAY
    assert pool.maintenance.days_without_scrub(pool.sight()) == 46
    pool.schedules = {naming.SR_SCRUB: "weekly"}
    pool.last["scrub"] = pool.now - 11 * DAY
    assert pool.maintenance.days_without_scrub(pool.sight()) == 11
