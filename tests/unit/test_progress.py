# SPDX-License-Identifier: LGPL-2.1-only
"""zfsvol.zfs.progress reads what OpenZFS 2.1 and 2.3 print about what a pool is doing.

The texts are the lab's, joined as zfsvol.zfs.text does, but for those about days of work: these are composed as
cmd/zpool/zpool_main.c prints them.
"""

import time

import pytest

from tests.unit import recorded
from zfsvol.zfs import progress, text

DATE = "Sun Nov 29 22:56:00 2026"
EXPANDING = f"expansion of raidz1-0 in progress since {DATE}"
MIB = 1 << 20


def at(date: str) -> int:
    """The time, in the time zone of this machine."""
    return int(time.mktime(time.strptime(date, "%a %b %d %H:%M:%S %Y")))


@pytest.mark.parametrize(
    ("printed", "bytes_"),
    [("0B", 0), ("439K", 439 << 10), ("61.4M", 64382566), ("1.20T", 1319413953331), ("12", 12), ("3E", 3 << 60)],
)
def test_size(printed, bytes_):
    assert progress.size(printed) == bytes_


@pytest.mark.parametrize(
    ("scan", "expected"),
    [
        ("none requested", None),
        ("", None),
        (
            (f"scrub in progress since {DATE}, 0B scanned at 0B/s, 0B issued at 0B/s, 61.4M total, 0B repaired, "
            "0.00% done, no estimated completion time"),
            {"kind": "scrub", "state": "running", "began": at(DATE), "scanned": 0, "total": 64382566, "repaired": 0,
             "percent": 0.0},
        ),
        (
            (f"scrub in progress since {DATE}, 2.50T scanned at 1.2G/s, 1T issued at 600M/s, 4T total, 12K repaired, "
            "25.00% done, 2 days 01:10:05 to go"),
            {"state": "running", "scanned": 5 << 39, "issued": 1 << 40, "total": 4 << 40, "repaired": 12 << 10,
             "percent": 25.0, "seconds-left": 2 * 86400 + 4205},
        ),
        (
            (f"scrub in progress since {DATE}, 226M / 452M scanned, 113M / 452M issued at 226M/s, 0B repaired, "
            "25.00% done, 00:00:01 to go"),
            {"state": "running", "scanned": 226 * MIB, "issued": 113 * MIB, "total": 452 * MIB, "repaired": 0,
             "percent": 25.0, "seconds-left": 1},
        ),
        (
            (f"scrub paused since Sun Nov 29 22:56:04 2026, scrub started on {DATE}, 0B scanned, 0B issued, "
            "61.4M total, 0B repaired, 0.00% done"),
            {"state": "paused", "began": at(DATE), "paused": at(DATE) + 4, "ended": None, "total": 64382566},
        ),
        (
            (f"scrub paused since Sun Nov 29 22:56:04 2026, scrub started on {DATE}, 0B / 61.0M scanned, "
            "0B / 61.0M issued, 0B repaired, 0.00% done"),
            {"state": "paused", "began": at(DATE), "paused": at(DATE) + 4, "scanned": 0, "total": 61 * MIB},
        ),
        (f"scrub canceled on {DATE}", {"kind": "scrub", "state": "canceled", "ended": at(DATE), "errors": None}),
        (
            f"scrub repaired 439K in 1 days 02:03:04 with 1023 errors on {DATE}",
            {"kind": "scrub", "state": "finished", "ended": at(DATE), "repaired": 439 << 10, "errors": 1023},
        ),
        (
            f"resilvered 62.5M in 00:00:00 with 0 errors on {DATE}",
            {"kind": "resilver", "vdev": None, "state": "finished", "repaired": 62 * MIB + MIB // 2, "errors": 0},
        ),
        (
            f"resilvered (mirror-1) 2.50M in 00:00:00 with 0 errors on {DATE}",
            {"kind": "resilver", "vdev": "mirror-1", "state": "finished", "repaired": 5 * MIB // 2, "errors": 0},
        ),
    ],
)  # fmt: skip
def test_scan(scan, expected):
    found = progress.scan(scan)
    if expected is None or found is None:
        assert found is expected is None
    else:
        assert {name: found[name] for name in expected} == expected


def test_rebuild_of_2_3():
    (scan,) = text.read(recorded.REBUILD_23)[0].scans
    found = progress.scan(scan)
    assert found is not None
    assert (found["kind"], found["vdev"], found["state"]) == ("resilver", "mirror-1", "running")
    assert found["percent"] == 100.0
    assert found["repaired"] == found["total"] == 1488978


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("", None),
        (
            f"Evacuation of /dev/loop0 in progress since {DATE}, 4K copied out of 19.5M at 4K/s, 0.2% done, 1h7m to go",
            {"state": "running", "began": at(DATE), "ended": None, "copied": 4 << 10, "total": 39 * MIB // 2,
             "percent": 0.2, "seconds-left": 4020},
        ),
        (
            f"Removal of vdev 2 copied 19.5M in 0h0m, completed on {DATE}, 144 memory used for removed device mappings",
            {"state": "finished", "ended": at(DATE), "copied": 39 * MIB // 2},
        ),
        (f"Removal of vdev 2 copied 0 in 0h0m, completed on {DATE}", {"state": "finished", "copied": 0}),
        (f"Removal of mirror-1 canceled on {DATE}", {"state": "canceled", "ended": at(DATE)}),
    ],
)  # fmt: skip
def test_removal(field, expected):
    found = progress.removal(field)
    if expected is None or found is None:
        assert found is expected is None
    else:
        assert {name: found[name] for name in expected} == expected


def test_removal_of_2_3():
    pool = text.read(recorded.REMOVAL_23)[0]
    found = progress.removal(pool.fields["remove"])
    assert found is not None
    assert found["state"] == "running"
    assert progress.trim(pool.devices[1].note) == (
        {"state": "never", "percent": None, "began": None, "ended": None},
        "(removing)",
    )


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (
            f"{EXPANDING}\n\t29.7M / 73.7M copied at 5.94M/s, 40.30% done, 00:00:07 to go",
            {"state": "running", "began": at(DATE), "ended": None, "copied": 31142707, "total": 77280051,
             "percent": 40.3, "seconds-left": 7},
        ),
        (
            f"{EXPANDING}\n\t1 / 73.7M copied at 1/s, 0.00% done, (copy is slow, no estimated time)",
            {"state": "running", "copied": 1, "percent": 0.0, "seconds-left": None},
        ),
        (
            f"expanded raidz1-0 copied 60.7M in 00:00:06, on {DATE}",
            {"state": "finished", "began": None, "ended": at(DATE), "copied": 63648563, "percent": None},
        ),
    ],
)  # fmt: skip
def test_expansion_of_2_3(printed, expected):
    """As 2.3.2 prints it in the lab."""
    pool = text.read(f"  pool: tank\n state: ONLINE\nexpand: {printed}\nconfig:\n\n\ttank ONLINE 0 0 0\n")[0]
    found = progress.expansion(pool.fields["expand"])
    assert found is not None
    assert (found["kind"], found["vdev"]) == ("expansion", "raidz1-0")
    assert {name: found[name] for name in expected} == expected
    assert pool.devices[0].name == "tank"


def test_no_expansion():
    assert progress.expansion("") is None


@pytest.mark.parametrize(
    ("note", "state", "percent", "began", "ended", "rest"),
    [
        ("(untrimmed)", "never", None, None, None, ""),
        ("too many errors (trim unsupported)", "unsupported", None, None, None, "too many errors"),
        (f"(42% trimmed, started at {DATE})", "running", 42.0, at(DATE), None, ""),
        (f"(42% trimmed, suspended, started at {DATE})", "paused", 42.0, at(DATE), None, ""),
        (f"was /dev/sdb (100% trimmed, completed at {DATE})", "finished", 100.0, None, at(DATE), "was /dev/sdb"),
    ],
)
def test_trim(note, state, percent, began, ended, rest):
    expected = {"state": state, "percent": percent, "began": began, "ended": ended}
    assert progress.trim(note) == (expected, rest)


def test_no_trim_told():
    assert progress.trim("currently in use") == (None, "currently in use")


def trimmed(state, percent=None, began=None, ended=None):
    return {"state": state, "percent": percent, "began": began, "ended": ended}


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ([], None),
        ([trimmed("never"), trimmed("unsupported")], None),
        (
            [trimmed("running", 42.0, 7), trimmed("running", 12.0, 8), trimmed("finished", 100.0, None, 5)],
            ("running", 12.0, 7, None),
        ),
        ([trimmed("paused", 42.0, 7), trimmed("never")], ("paused", 42.0, 7, None)),
        ([trimmed("paused", 42.0, 7), trimmed("running", 50.0, 7)], ("running", 50.0, 7, None)),
        ([trimmed("finished", 100.0, None, 5), trimmed("finished", 100.0, None, 6)], ("finished", 100.0, None, 6)),
    ],
)
def test_trims(devices, expected):
    found = progress.trims(devices)
    if expected is None:
        assert found is None
    else:
        assert found == {"kind": "trim", **trimmed(*expected)}
