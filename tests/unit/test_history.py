# SPDX-License-Identifier: LGPL-2.1-only
"""zfsvol.zfs.history reads what `zpool history -il` and `zpool events -v` of OpenZFS 2.1 and 2.3 print in the lab."""

import time

from zfsvol.zfs import history

HISTORY = """\
History for 'tank':
2026-11-29.22:55:58 zpool create -o ashift=12 tank mirror /dev/dm-0 /dev/dm-1 [user 0 (root) on lab-hcare:linux]
2026-11-29.22:56:03 [txg:203] trim vdev=/dev/loop2 complete [on lab-hcare]
2026-11-29.22:56:04 zpool scrub -p tank [user 0 (root) on lab-hcare:linux]
2026-11-29.22:56:07 [txg:211] scan setup func=1 mintxg=0 maxtxg=211 [on lab-hcare]
2026-11-29.22:56:07 [txg:213] scan done errors=0 [on lab-hcare]
2026-11-29.22:56:08 [txg:220] scan setup func=2 mintxg=3 maxtxg=220 [on lab-hcare]
2026-11-29.22:56:08 [txg:222] scan done errors=0 [on lab-hcare]
2026-11-29.22:56:10 [txg:227] scan setup func=1 mintxg=0 maxtxg=227 [on lab-hcare]
2026-11-29.22:56:11 [txg:229] scan cancelled errors=0 [on lab-hcare]
2026-11-29.22:56:28 (31ms) ioctl scrub
    input:
        scan_type: 1
"""

EVENTS = """\
TIME                           CLASS
Nov 29 2026 22:56:12.302908460 resource.fs.zfs.statechange
        version = 0x0
        class = "resource.fs.zfs.statechange"
        pool = "tank"
        vdev_guid = 0x36884073037215a7
        vdev_state = "OFFLINE" (0x2)
        vdev_path = "/dev/loop4"
        vdev_laststate = "ONLINE" (0x7)
        time = 0x6b0cad8c 0x120e042c\x20
        eid = 0x7d

Nov 29 2026 22:56:12.312908588 sysevent.fs.zfs.history_event
        history_internal_str = "vdev_path"
        vdev_path = "/dev/of/the/history"

Nov  3 2026 22:56:12.322908716 ereport.fs.zfs.checksum
        vdev_path = "/dev/loop5"

"""


def at(date: str) -> int:
    return int(time.mktime(time.strptime(date, "%Y-%m-%d %H:%M:%S")))


def test_history():
    found = list(history.parse_history(HISTORY.splitlines()))
    assert found[0] == {
        "time": at("2026-11-29 22:55:58"),
        "source": "history",
        "user": "root on lab-hcare",
        "what": "zpool create -o ashift=12 tank mirror /dev/dm-0 /dev/dm-1",
    }
    assert found[1] == {
        "time": at("2026-11-29 22:56:03"),
        "source": "history",
        "what": "[txg:203] trim vdev=/dev/loop2 complete",
    }
    assert len(found) == 10


def test_events():
    assert list(history.parse_events(EVENTS.splitlines())) == [
        {
            "time": at("2026-11-29 22:56:12"),
            "source": "kernel",
            "what": "statechange: OFFLINE, was ONLINE",
            "device": "/dev/loop4",
        },
        {"time": at("2026-11-03 22:56:12"), "source": "kernel", "what": "checksum", "device": "/dev/loop5"},
    ]


def test_last_scrub_is_no_resilver_and_not_canceled():
    lines = HISTORY.splitlines()
    assert history.scrub_end(lines) == at("2026-11-29 22:56:07")
    assert history.scrub_end(lines[:5]) is None
    assert history.scrub_end([]) is None
