# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.service.events: what `zpool events -fvH` of OpenZFS 2.1 prints, in whatever pieces it comes."""

import pytest

from zfsvol.host import command
from zfsvol.service import events

PRINTED = b"""Nov 29 2026 22:51:58.724650621\tsysevent.fs.zfs.pool_create
        version = 0x0
        class = "sysevent.fs.zfs.pool_create"
        pool = "tank"
        pool_guid = 0x7bcd1d1c0687984d
        eid = 0x1

Nov 29 2026 22:51:58.724650621\tsysevent.fs.zfs.history_event
        class = "sysevent.fs.zfs.history_event"
        pool = "sr-1"
        history_internal_str = "pool = \"other\"\xff"
        eid = 0x2

Nov 29 2026 22:51:59.1\tereport.fs.zfs.io
        class = "ereport.fs.zfs.io"
        ena = 0x39653c0000001
        detector = (embedded nvlist)
                version = 0x0
                scheme = "zfs"
                pool = 0x12367e75be5f3589
                vdev = 0xcc10f598b03ea000
        (end detector)
        pool = "tank"
        pool_guid = 0x12367e75be5f3589
        vdev_path = "/dev/mapper/bad"
"""


@pytest.mark.parametrize("size", [1, 7, 100, 10000])
def test_events(size: int) -> None:
    pieces = [PRINTED[start : start + size] for start in range(0, len(PRINTED), size)]
    found = [(event.kind, event.pool, event.is_history) for event in events.parse(command.lines(pieces))]
    assert found == [
        ("sysevent.fs.zfs.pool_create", "tank", False),
        ("sysevent.fs.zfs.history_event", "sr-1", True),
        ("ereport.fs.zfs.io", "tank", False),
    ]


def test_an_event_is_there_as_soon_as_its_pool_is() -> None:
    lines = iter(PRINTED.decode("latin-1").split("\n"))
    assert next(events.parse(lines)).pool == "tank"
    assert next(lines).strip().startswith("pool_guid")


def test_lines() -> None:
    assert list(command.lines([b"a", b"b\n\nc\xff\nd", b"e\nno end"])) == ["ab", "", "c\ufffd", "de"]
