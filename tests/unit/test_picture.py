# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.wire.picture: answers as people read them."""

import time

import pytest

from zfsvol.wire import picture

NOON = int(time.mktime((2026, 11, 29, 12, 0, 0, 0, 0, -1)))


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (None, "?"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1 << 20, "1.0 MiB"),
        (1000 << 20, "1.0 GiB"),
        (5 << 39, "2.5 TiB"),
        ((1 << 63) - 1, "8.0 EiB"),
    ],
)
def test_size(number, shown):
    assert picture.size(number) == shown


@pytest.mark.parametrize(
    ("percent", "shown"),
    [
        (None, "[..............................] 0.0 %"),
        (0.0, "[..............................] 0.0 %"),
        (50.0, "[###############...............] 50.0 %"),
        (99.99, "[#############################.] 100.0 %"),
        (100.0, "[##############################] 100.0 %"),
        (130.5, "[##############################] 130.5 %"),  # of a resilver to which data is added
    ],
)
def test_bar(percent, shown):
    assert picture.bar(percent) == shown


def scan(state, **more):
    record = dict.fromkeys(("vdev", "began", "paused", "ended", "percent", "repaired", "errors", "seconds-left"))
    return {**record, "kind": "scrub", "state": state, **more}


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        (scan("running", percent=50.0), "scrub [###############...............] 50.0 %, no estimate yet"),
        (
            scan("running", percent=50.0, vdev="mirror-0", **{"seconds-left": 90061}),
            "scrub of mirror-0 [###############...............] 50.0 %, 1 days 1:01:01 to go",
        ),
        (
            scan("paused", percent=0.0, paused=NOON),
            "scrub [..............................] 0.0 %, paused since 2026-11-29 12:00",
        ),
        (
            scan("finished", ended=NOON, repaired=2048, errors=1),
            "scrub finished 2026-11-29 12:00, 2.0 KiB repaired, 1 errors",
        ),
        (scan("canceled", ended=NOON), "scrub canceled 2026-11-29 12:00"),
        ({"kind": "trim", "state": "running", "percent": 50.0}, "trim [###############...............] 50.0 %"),
        ({"kind": "trim", "state": "paused", "percent": 50.0}, "trim [###############...............] 50.0 %, paused"),
    ],
)
def test_progress(record, shown):
    assert picture.progress(record) == shown


def vdev(name, state="ONLINE", role="data", children=None, **more):
    errors = {"read": 0, "write": 0, "checksum": 0, "slow": 0}
    found = {"name": name, "state": state, "role": role, "errors": errors, "note": "", **more}
    return found if children is None else {**found, "children": children}


def test_the_tree_of_devices():
    bad = vdev(
        "/dev/sdb",
        "FAULTED",
        errors={"read": 3, "write": 0, "checksum": 1, "slow": 2},
        note="too many errors",
        model="WDC",
        serial="WX31",
        trim={"state": "running", "percent": 42.0},
    )
    layout = [
        vdev("mirror-0", "DEGRADED", children=[vdev("/dev/sda", serial=""), bad]),
        vdev("/dev/sdc"),
        vdev("/dev/sdd", role="log"),
        vdev("/dev/sde", "AVAIL", role="spare", note="(currently in use)"),
    ]
    assert picture._devices(layout) == [
        "  ├─ mirror-0     DEGRADED",
        "  │  ├─ /dev/sda  ONLINE",
        (
            "  │  └─ /dev/sdb  FAULTED   3 read, 0 write, 1 checksum errors, 2 slow  "
            "too many errors; WDC serial WX31; trim running, 42 %"
        ),
        "  └─ /dev/sdc     ONLINE",
        "  log",
        "  └─ /dev/sdd     ONLINE",
        "  spare",
        "  └─ /dev/sde     AVAIL                                                 currently in use",
    ]


def test_a_pool_that_cannot_be_read():
    found = dict.fromkeys(
        ("name", "layout", "scans", "removal", "expansion", "trim", "schedule", "space", "disks", "takes-space")
    )
    found.update(sr="uuid", name="a\nb", attached=False, unfinished=["half done"], obstacles=["no answer"])
    found["pool"] = {"name": "tank", "state": "SUSPENDED", "health": None, "status": None, "action": None}
    assert picture.status(found) == [
        r"SR uuid “a\nb”, not attached",
        "pool tank: SUSPENDED",
        "unfinished: half done",
        "not readable: no answer",
    ]


def test_a_change():
    answer = {"done": True, "commands": ["zpool scrub tank"], "notes": ["Mind the gap."]}
    assert picture.plain(answer) == ["Mind the gap.", "zpool scrub tank"]
    dry = dict(answer, done=False, **{"needs-force": ["All is lost."]})
    assert picture.plain(dry) == ["Mind the gap.", "would run: zpool scrub tank", "needs force=true: All is lost."]
    assert picture.plain({"done": True, "commands": [], "notes": []}) == ["There was nothing to do."]
    assert picture.plain({"file": "x"}) == ["{", '  "file": "x"', "}"]


def test_settings_and_events():
    answer = {"settings": {"sync": {"value": "always", "from": "disk"}, "copies": {"value": "1", "from": "tank"}}}
    assert [line.split(None, 2) for line in picture.settings(answer)] == [
        ["sync", "always", "the disk's own"],
        ["copies", "1", "tank"],
    ]
    event = {"time": NOON, "what": "statechange", "device": "/dev/sdb"}
    assert picture.events([event]) == ["2026-11-29 12:00 statechange /dev/sdb"]
