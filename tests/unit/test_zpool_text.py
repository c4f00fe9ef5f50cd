# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.zpool_text with what OpenZFS prints.

The long texts are those of `zpool status -P -p` and `zpool import` in the lab, by OpenZFS 2.1.11 where nothing else is
said. Lines that no machine takes long enough to print are composed as cmd/zpool/zpool_main.c prints them.
"""

import pytest

from zfsvol.zfs import text as zpool_text

# Never scanned, so there is no scan line.
ONLINE = """\
  pool: one
 state: ONLINE
config:

\tNAME          STATE     READ WRITE CKSUM
\tone           ONLINE       0     0     0
\t  /dev/loop0  ONLINE       0     0     0

errors: No known data errors
"""

# One of each class. Some headings end in a tab.
CLASSES = """\
  pool: dr
 state: ONLINE
config:

\tNAME                 STATE     READ WRITE CKSUM
\tdr                   ONLINE       0     0     0
\t  draid2:4d:9c:1s-0  ONLINE       0     0     0
\t    /dev/loop0       ONLINE       0     0     0
\t    /dev/loop1       ONLINE       0     0     0
\t    /dev/loop2       ONLINE       0     0     0
\t    /dev/loop3       ONLINE       0     0     0
\t    /dev/loop4       ONLINE       0     0     0
\t    /dev/loop5       ONLINE       0     0     0
\t    /dev/loop6       ONLINE       0     0     0
\t    /dev/loop7       ONLINE       0     0     0
\t    /dev/loop8       ONLINE       0     0     0
\tdedup\t
\t  mirror-1           ONLINE       0     0     0
\t    /dev/loop9       ONLINE       0     0     0
\t    /dev/loop10      ONLINE       0     0     0
\tspecial\t
\t  mirror-2           ONLINE       0     0     0
\t    /dev/loop11      ONLINE       0     0     0
\t    /dev/loop12      ONLINE       0     0     0
\tlogs\t
\t  /dev/loop13        ONLINE       0     0     0
\tcache
\t  /dev/loop14        ONLINE       0     0     0
\tspares
\t  /dev/loop15        AVAIL\x20\x20\x20
\t  draid2-0-0         AVAIL\x20\x20\x20

errors: No known data errors
"""

# A failed disk is being replaced; the replacement has not begun to be written to.
REPLACING = """\
  pool: tank
 state: DEGRADED
status: One or more devices is currently being resilvered.  The pool will
\tcontinue to function, possibly in a degraded state.
action: Wait for the resilver to complete.
  scan: resilver in progress since Mon Nov 23 19:11:36 2026
\t0B scanned at 0B/s, 0B issued at 0B/s, 60.9M total
\t0B resilvered, 0.00% done, no estimated completion time
config:

\tNAME              STATE     READ WRITE CKSUM
\ttank              DEGRADED     0     0     0
\t  mirror-0        DEGRADED     0     0     0
\t    replacing-0   DEGRADED     0     0     0
\t      /dev/dm-0   FAULTED      3   550     0  too many errors
\t      /dev/loop2  ONLINE       0     0     0
\t    /dev/dm-1     ONLINE       0     0     0

errors: No known data errors
"""

# A working disk is being replaced.
RESILVERING = """\
  pool: tank
 state: ONLINE
status: One or more devices is currently being resilvered.  The pool will
\tcontinue to function, possibly in a degraded state.
action: Wait for the resilver to complete.
  scan: resilver in progress since Mon Nov 23 19:15:09 2026
\t505M scanned at 505M/s, 149M issued at 149M/s, 505M total
\t149M resilvered, 29.44% done, 00:00:02 to go
config:

\tNAME              STATE     READ WRITE CKSUM
\ttank              ONLINE       0     0     0
\t  mirror-0        ONLINE       0     0     0
\t    replacing-0   ONLINE       0     0     0
\t      /dev/loop5  ONLINE       0     0     0
\t      /dev/loop7  ONLINE       0     0     0  (resilvering)
\t    /dev/loop6    ONLINE       0     0     0

errors: No known data errors
"""

FAULTED = """\
  pool: tank
 state: DEGRADED
status: One or more devices are faulted in response to persistent errors.
\tSufficient replicas exist for the pool to continue functioning in a
\tdegraded state.
action: Replace the faulted device, or use 'zpool clear' to mark the device
\trepaired.
config:

\tNAME           STATE     READ WRITE CKSUM
\ttank           DEGRADED     0     0     0
\t  mirror-0     DEGRADED     0     0     0
\t    /dev/dm-0  FAULTED      3   550     0  too many errors
\t    /dev/dm-1  ONLINE       0     0     0

errors: No known data errors
"""

SPARE_IN_USE = """\
  pool: tank
 state: ONLINE
  scan: resilvered 23.2M in 00:00:02 with 0 errors on Mon Nov 23 19:10:22 2026
config:

\tNAME              STATE     READ WRITE CKSUM
\ttank              ONLINE       0     0     0
\t  mirror-0        ONLINE       0     0     0
\t    /dev/loop0    ONLINE       0     0     0
\t    spare-1       ONLINE       0     0     0
\t      /dev/loop5  ONLINE       0     0     0
\t      /dev/loop4  ONLINE       0     0     0
\t  mirror-1        ONLINE       0     0     0
\t    /dev/loop2    ONLINE       0     0     0
\t    /dev/loop3    ONLINE       0     0     0
\tspares
\t  /dev/loop4      INUSE     currently in use

errors: No known data errors
"""

DRAID_SPARE_IN_USE = """\
  pool: dr
 state: DEGRADED
status: One or more devices has been taken offline by the administrator.
\tSufficient replicas exist for the pool to continue functioning in a
\tdegraded state.
action: Online the device using 'zpool online' or replace the device with
\t'zpool replace'.
  scan: resilvered 0B in 00:00:00 with 0 errors on Mon Nov 23 19:11:28 2026
config:

\tNAME                 STATE     READ WRITE CKSUM
\tdr                   DEGRADED     0     0     0
\t  draid2:4d:9c:1s-0  DEGRADED     0     0     0
\t    /dev/loop0       ONLINE       0     0     0
\t    /dev/loop1       ONLINE       0     0     0
\t    spare-2          DEGRADED     0     0     0
\t      /dev/loop2     OFFLINE      0     0     0
\t      draid2-0-0     ONLINE       0     0     0
\t    /dev/loop3       ONLINE       0     0     0
\t    /dev/loop4       ONLINE       0     0     0
\t    /dev/loop5       ONLINE       0     0     0
\t    /dev/loop6       ONLINE       0     0     0
\t    /dev/loop7       ONLINE       0     0     0
\t    /dev/loop8       ONLINE       0     0     0
\tspares
\t  draid2-0-0         INUSE     currently in use

errors: No known data errors
"""

# Both sides of a mirror were overwritten.
DATA_ERRORS = """\
  pool: tank
 state: ONLINE
status: One or more devices has experienced an error resulting in data
\tcorruption.  Applications may be affected.
action: Restore the file in question if possible.  Otherwise restore the
\tentire pool from backup.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-8A
  scan: scrub repaired 439K in 00:00:00 with 1023 errors on Mon Nov 23 19:10:29 2026
config:

\tNAME            STATE     READ WRITE CKSUM
\ttank            ONLINE       0     0     0
\t  mirror-0      ONLINE       0     0     0
\t    /dev/loop0  ONLINE       0     0     0
\t    /dev/loop5  ONLINE       0     0     0
\t  mirror-1      ONLINE       0     0     0
\t    /dev/loop2  ONLINE       0     0  2079
\t    /dev/loop3  ONLINE       0     0  2079
\tspares
\t  /dev/loop4    AVAIL\x20\x20\x20

errors: 1023 data errors, use '-v' for a list
"""

# The same with another disk gone: it is known by its guid.
MISSING_DISK = """\
  pool: tank
 state: DEGRADED
status: One or more devices has experienced an error resulting in data
\tcorruption.  Applications may be affected.
action: Restore the file in question if possible.  Otherwise restore the
\tentire pool from backup.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-8A
  scan: scrub repaired 439K in 00:00:00 with 1023 errors on Mon Nov 23 19:10:29 2026
config:

\tNAME                     STATE     READ WRITE CKSUM
\ttank                     DEGRADED     0     0     0
\t  mirror-0               DEGRADED     0     0     0
\t    /dev/loop0           ONLINE       0     0     0
\t    3253691481265751912  UNAVAIL      0     0     0  was /dev/loop5
\t  mirror-1               ONLINE       0     0     0
\t    /dev/loop2           ONLINE       0     0     2
\t    /dev/loop3           ONLINE       0     0     2
\tspares
\t  /dev/loop4             AVAIL\x20\x20\x20

errors: 1023 data errors, use '-v' for a list
"""

SUSPENDED = """\
  pool: tank
 state: SUSPENDED
status: One or more devices are faulted in response to IO failures.
action: Make sure the affected devices are connected, then run 'zpool clear'.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-HC
config:

\tNAME         STATE     READ WRITE CKSUM
\ttank         ONLINE       0     0     0
\t  /dev/dm-0  ONLINE       3    20     0
\t  /dev/dm-1  ONLINE       3    20     0

errors: 1304 data errors, use '-v' for a list
"""

# A sequential resilver (zpool attach -s) has a line of its own beside that of the last scrub.
REBUILDING = """\
  pool: tank
 state: ONLINE
status: One or more devices is currently being resilvered.  The pool will
\tcontinue to function, possibly in a degraded state.
action: Wait for the resilver to complete.
  scan: scrub repaired 0B in 00:00:00 with 0 errors on Mon Nov 23 19:20:25 2026
  scan: resilver (mirror-0) in progress since Mon Nov 23 19:20:26 2026
\t152M scanned at 391M/s, 152M issued 391M/s, 152M total
\t69.3M resilvered, 100.00% done, 00:00:00 to go
config:

\tNAME            STATE     READ WRITE CKSUM
\ttank            ONLINE       0     0     0
\t  mirror-0      ONLINE       0     0     0
\t    /dev/loop5  ONLINE       0     0     0
\t    /dev/loop6  ONLINE       0     0     0
\t    /dev/loop7  ONLINE       0     0     0  (resilvering)

errors: No known data errors
"""

SCRUBBING_AFTER_REBUILD = """\
  pool: tank
 state: ONLINE
  scan: scrub in progress since Mon Nov 23 19:20:27 2026
\t0B scanned at 0B/s, 0B issued at 0B/s, 152M total
\t0B repaired, 0.00% done, no estimated completion time
  scan: resilvered (mirror-0) 152M in 00:00:01 with 0 errors on Mon Nov 23 19:20:27 2026
config:

\tNAME            STATE     READ WRITE CKSUM
\ttank            ONLINE       0     0     0
\t  mirror-0      ONLINE       0     0     0
\t    /dev/loop5  ONLINE       0     0     0
\t    /dev/loop6  ONLINE       0     0     0
\t    /dev/loop7  ONLINE       0     0     0

errors: No known data errors
"""

REMOVING = """\
  pool: rem
 state: ONLINE
remove: Evacuation of /dev/loop3 in progress since Mon Nov 23 19:14:48 2026
\t32K copied out of 31.9M at 16K/s, 0.10% done, 0h33m to go
config:

\tNAME          STATE     READ WRITE CKSUM
\trem           ONLINE       0     0     0
\t  /dev/loop3  ONLINE       0     0     0
\t  /dev/loop4  ONLINE       0     0     0

errors: No known data errors
"""

TWO_POOLS = """\
  pool: one
 state: ONLINE
checkpoint: created Mon Nov 23 19:10:12 2026, consumes 36K
config:

\tNAME          STATE     READ WRITE CKSUM
\tone           ONLINE       0     0     0
\t  /dev/loop0  ONLINE       0     0     0

errors: No known data errors

  pool: two
 state: ONLINE
config:

\tNAME            STATE     READ WRITE CKSUM
\ttwo             ONLINE       0     0     0
\t  mirror-0      ONLINE       0     0     0
\t    /dev/loop1  ONLINE       0     0     0
\t    /dev/loop2  ONLINE       0     0     0
\tspecial\t
\t  /dev/loop7    ONLINE       0     0     0
\tlogs\t
\t  mirror-1      ONLINE       0     0     0
\t    /dev/loop3  ONLINE       0     0     0
\t    /dev/loop4  ONLINE       0     0     0
\tcache
\t  /dev/loop5    ONLINE       0     0     0
\tspares
\t  /dev/loop6    AVAIL\x20\x20\x20

errors: No known data errors
"""

SPACES = """\
  pool: my pool
 state: ONLINE
config:

\tNAME            STATE     READ WRITE CKSUM
\tmy pool         ONLINE       0     0     0
\t  mirror-0      ONLINE       0     0     0
\t    /dev/loop0  ONLINE       0     0     0
\t    /dev/loop1  ONLINE       0     0     0

errors: No known data errors
"""

# Names that begin like, or are, the heading of a class.
CALLED_SPECIAL = """\
  pool: special
 state: ONLINE
config:

\tNAME            STATE     READ WRITE CKSUM
\tspecial         ONLINE       0     0     0
\t  mirror-0      ONLINE       0     0     0
\t    /dev/loop2  ONLINE       0     0     0
\t    /dev/loop3  ONLINE       0     0     0
\tspecial\t
\t  /dev/loop4    ONLINE       0     0     0

errors: No known data errors
"""

CALLED_S = """\
  pool: s
 state: ONLINE
config:

\tNAME          STATE     READ WRITE CKSUM
\ts             ONLINE       0     0     0
\t  /dev/loop5  ONLINE       0     0     0
\tspecial\t
\t  /dev/loop6  ONLINE       0     0     0

errors: No known data errors
"""

# `zpool import`: pools that can, and cannot, be imported, with missing logs and after a removal.
IMPORTABLE = """\
   pool: c
     id: 4960288397570585650
  state: UNAVAIL
status: One or more devices contains corrupted data.
 action: The pool cannot be imported due to damaged devices or data.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-5E
 config:

\tc           UNAVAIL  insufficient replicas
\t  loop8     ONLINE
\t  loop9     UNAVAIL  corrupted data

   pool: b
     id: 15498910603499164272
  state: DEGRADED
status: One or more devices contains corrupted data.
 action: The pool can be imported despite missing or damaged devices.  The
\tfault tolerance of the pool may be compromised if imported.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-4J
 config:

\tb           DEGRADED
\t  raidz1-0  DEGRADED
\t    loop2   UNAVAIL  corrupted data
\t    loop3   ONLINE
\t    loop4   ONLINE
\tcache
\t  loop7
\tlogs\t
\t  mirror-1  ONLINE
\t    loop5   ONLINE
\t    loop6   ONLINE

   pool: d
     id: 8792669495101886845
  state: UNAVAIL
status: One or more devices are missing from the system.
 action: The pool cannot be imported. Attach the missing
\tdevices and try again.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-6X
 config:

\td           UNAVAIL  missing device
\t  loop10    ONLINE
\tlogs\t
\t  loop11    UNAVAIL  corrupted data

\tAdditional devices are known to be part of this pool, though their
\texact configuration cannot be determined.

   pool: my pool
     id: 16187744669304861032
  state: ONLINE
 action: The pool can be imported using its name or numeric identifier.
 config:

\tmy pool     ONLINE
\t  mirror-0  ONLINE
\t    loop0   ONLINE
\t    loop1   ONLINE

   pool: rem
     id: 2687580130954565239
  state: ONLINE
 action: The pool can be imported using its name or numeric identifier.
 config:

\trem           ONLINE
\t  indirect-0  ONLINE
\t  loop4       ONLINE
"""

# 2.3.2
EXPANDING = """\
  pool: tank
 state: ONLINE
expand: expansion of raidz1-0 in progress since Mon Nov 23 19:40:39 2026
\t4.67M / 151M copied at 4.67M/s, 3.08% done, 00:00:31 to go
config:

\tNAME            STATE     READ WRITE CKSUM
\ttank            ONLINE       0     0     0
\t  raidz1-0      ONLINE       0     0     0
\t    /dev/loop0  ONLINE       0     0     0
\t    /dev/loop1  ONLINE       0     0     0
\t    /dev/loop2  ONLINE       0     0     0
\t    /dev/loop3  ONLINE       0     0     0

errors: No known data errors
"""

IMPORTABLE_2_3 = """\
  pool: tank
    id: 10311376059003176567
 state: DEGRADED
status: One or more devices are offlined.
action: The pool can be imported despite missing or damaged devices.  The
\tfault tolerance of the pool may be compromised if imported.
config:

\ttank        DEGRADED
\t  mirror-0  ONLINE
\t    loop5   ONLINE
\t    loop6   ONLINE
\t    loop7   ONLINE
\tspecial\t
\t  mirror-1  DEGRADED
\t    loop2   OFFLINE
\t    loop3   ONLINE
\tlogs\t
\t  loop4     ONLINE
"""

HEALTHY = ONLINE.replace("config:", "{}config:")


def one(text):
    """The only pool of a text."""
    pools = zpool_text.read(text)
    assert len(pools) == 1
    return pools[0]


def rows(pool, depth):
    """The names of the rows at this depth."""
    return [device.name for device in pool.devices if device.depth == depth]


class TestRows:
    def test_one_disk(self):
        pool = one(ONLINE)
        assert (pool.name, pool.state, pool.guid) == ("one", "ONLINE", "")
        assert [(device.depth, device.name, device.state) for device in pool.devices] == [
            (0, "one", "ONLINE"),
            (1, "/dev/loop0", "ONLINE"),
        ]

    def test_every_class(self):
        pool = one(CLASSES)
        assert rows(pool, 0) == ["dr", "dedup", "special", "logs", "cache", "spares"]
        assert rows(pool, 1) == [
            "draid2:4d:9c:1s-0",
            "mirror-1",
            "mirror-2",
            "/dev/loop13",
            "/dev/loop14",
            "/dev/loop15",
            "draid2-0-0",
        ]
        assert {device.state for device in pool.devices} == {"ONLINE", "AVAIL", ""}

    def test_errors_and_note(self):
        faulted = next(device for device in one(FAULTED).devices if device.name == "/dev/dm-0")
        assert (faulted.depth, faulted.state, faulted.errors) == (2, "FAULTED", (3, 550, 0))
        assert faulted.note == "too many errors"

    def test_disk_known_by_its_guid(self):
        missing = next(device for device in one(MISSING_DISK).devices if device.state == "UNAVAIL")
        assert (missing.name, missing.errors, missing.note) == ("3253691481265751912", (0, 0, 0), "was /dev/loop5")

    def test_replacing(self):
        names = [(device.depth, device.name) for device in one(REPLACING).devices]
        assert names[1:] == [
            (1, "mirror-0"),
            (2, "replacing-0"),
            (3, "/dev/dm-0"),
            (3, "/dev/loop2"),
            (2, "/dev/dm-1"),
        ]

    def test_spare(self):
        spare = one(SPARE_IN_USE).devices[-1]
        assert (spare.depth, spare.name, spare.state) == (1, "/dev/loop4", "INUSE")
        assert (spare.errors, spare.note) == ((0, 0, 0), "currently in use")

    def test_spaces_in_the_name(self):
        pool = one(SPACES)
        assert pool.name == "my pool"
        assert (pool.devices[0].name, pool.devices[0].state) == ("my pool", "ONLINE")
        assert rows(pool, 0) == ["my pool"]

    @pytest.mark.parametrize("name", ["my pool", "ONLINE", "a b c", "NAME", "NAME x", "state", "mir"])
    def test_any_name(self, name):
        text = ONLINE.replace("pool: one", "pool: " + name).replace("\tone ", f"\t{name} ")
        pool = one(text)
        assert pool.name == name
        assert [(device.depth, device.name, device.state) for device in pool.devices] == [
            (0, name, "ONLINE"),
            (1, "/dev/loop0", "ONLINE"),
        ]

    def test_two_pools(self):
        first, second = zpool_text.read(TWO_POOLS)
        assert (first.name, rows(first, 1)) == ("one", ["/dev/loop0"])
        assert (second.name, rows(second, 1)[0]) == ("two", "mirror-0")
        assert first.health() == second.health() == "ONLINE"

    def test_nothing(self):
        assert zpool_text.read("") == []
        assert zpool_text.read("no pools available\n") == []

    def test_lines_of_a_later_release(self):
        text = ONLINE.replace("config:", "power: on\n colour: blue\n\tand green\nconfig:")
        text = text.replace("errors:", "\n\tslow: 7\nwarnings: none\nerrors:")
        pool = one(text)
        assert pool.layout == [("", 1)]
        assert pool.health().startswith("ONLINE")


class TestLayout:
    @pytest.mark.parametrize(
        ("text", "layout"),
        [
            (ONLINE, [("", 1)]),
            (CLASSES, [("draid2:4d:9c:1s", 9)]),
            (SPARE_IN_USE, [("mirror", 2), ("mirror", 2)]),
            (REPLACING, [("mirror", 2)]),
            (DRAID_SPARE_IN_USE, [("draid2:4d:9c:1s", 9)]),
            (MISSING_DISK, [("mirror", 2), ("mirror", 2)]),
            (REMOVING, [("", 1), ("", 1)]),
            (EXPANDING, [("raidz1", 4)]),
            (SPACES, [("mirror", 2)]),
            (CALLED_SPECIAL, [("mirror", 2)]),
            (CALLED_S, [("", 1)]),
        ],
    )
    def test_data_vdevs(self, text, layout):
        assert one(text).layout == layout

    @pytest.mark.parametrize("kind", ["raidz1", "raidz2", "raidz3", "mirror", "draid1:7d:8c:0s"])
    def test_kinds(self, kind):
        table = f"\t  {kind}-0  ONLINE  0  0  0\n" + "".join(
            f"\t    /dev/disk/by-id/ata-X-{number}  ONLINE  0  0  0\n" for number in range(8)
        )
        text = ONLINE.replace("\t  /dev/loop0  ONLINE       0     0     0\n", table)
        assert one(text).layout == [(kind, 8)]
        text = text.replace("\nerrors", table.replace(kind + "-0", kind + "-12") + "\nerrors")
        assert one(text).layout == [(kind, 8), (kind, 8)]

    def test_disk_in_replacement_is_one_disk(self):
        text = ONLINE.replace(
            "\t  /dev/loop0  ONLINE       0     0     0\n",
            "\t  replacing-0     ONLINE       0     0     0\n"
            "\t    /dev/loop0    ONLINE       0     0     0\n"
            "\t    /dev/loop1    ONLINE       0     0     0\n"
            "\t  /dev/loop2      ONLINE       0     0     0\n",
        )
        kinds = [kind for kind, _ in one(text).layout]
        assert len(kinds) == 2
        assert not any(kind.startswith(("raidz", "draid")) for kind in kinds)


# What stands behind "scan:", and what of it health() says. The times and rates are what differs between releases.
IN_PROGRESS = [
    (
        (
            "resilver in progress since Mon Nov 23 19:15:09 2026\n"
            "\t505M scanned at 253M/s, 314M issued at 157M/s, 505M total\n"
            "\t319M resilvered, 62.22% done, 00:00:01 to go"
        ),
        "resilver in progress, 62.22% done, 00:00:01 to go",
    ),
    (
        (
            "scrub in progress since Mon Nov 23 19:10:24 2026\n"
            "\t0B scanned at 0B/s, 0B issued at 0B/s, 40.8M total\n"
            "\t0B repaired, 0.00% done, no estimated completion time"
        ),
        "scrub in progress, 0.00% done",
    ),
    # 2.2 and later
    (
        (
            "resilver in progress since Mon Nov 23 19:15:09 2026\n"
            "\t505M / 505M scanned at 253M/s, 314M / 505M issued at 157M/s\n"
            "\t319M resilvered, 62.22% done, 00:00:01 to go"
        ),
        "resilver in progress, 62.22% done, 00:00:01 to go",
    ),
    (
        (
            "scrub in progress since Mon Nov 23 19:10:24 2026\n"
            "\t1.20T / 40.8T scanned, 0B / 40.8T issued\n"
            "\t0B repaired, 0.00% done, no estimated completion time"
        ),
        "scrub in progress, 0.00% done",
    ),
    (
        (
            "scrub in progress since Mon Nov 23 19:10:24 2026\n"
            "\t20.1T / 40.8T scanned at 1.2G/s, 10.2T / 40.8T issued at 80M/s\n"
            "\t128K repaired, 25.00% done, 4 days 16:01:02 to go"
        ),
        "scrub in progress, 25.00% done, 4 days 16:01:02 to go",
    ),
    (
        (
            "resilver (draid2:4d:9c:1s-0) in progress since Mon Nov 23 19:20:26 2026\n"
            "\t152M / 1.5T scanned at 391M/s, 152M / 1.5T issued at 391M/s\n"
            "\t69.3M resilvered, 0.01% done, 01:07:00 to go"
        ),
        "resilver (draid2:4d:9c:1s-0) in progress, 0.01% done, 01:07:00 to go",
    ),
]
NOTHING_TO_TELL = [
    "none requested",
    "scrub repaired 0B in 00:00:00 with 0 errors on Mon Nov 23 19:10:28 2026",
    "scrub repaired 439K in 2 days 10:00:00 with 0 errors on Mon Nov 23 19:10:28 2026",
    "resilvered 23.2M in 00:00:02 with 0 errors on Mon Nov 23 19:10:22 2026",
    "resilvered (mirror-0) 152M in 00:00:01 with 0 errors on Mon Nov 23 19:20:27 2026",
    "scrub canceled on Mon Nov 23 19:10:28 2026",
    "resilver canceled on Mon Nov 23 19:10:28 2026",
]
WITH_ERRORS = [
    "scrub repaired 439K in 00:00:00 with 1023 errors on Mon Nov 23 19:10:29 2026",
    "scrub repaired 0B in 00:00:00 with 10 errors on Mon Nov 23 19:10:29 2026",
    "resilvered 23.2M in 00:00:02 with 1 errors on Mon Nov 23 19:10:22 2026",
]
PAUSED = [
    (
        "scrub paused since Mon Nov 23 19:10:28 2026\n"
        "\tscrub started on Mon Nov 23 19:10:24 2026\n"
        "\t0B scanned, 0B issued, 40.8M total\n"
        "\t0B repaired, 0.00% done"
    ),
    # 2.2 and later
    (
        "scrub paused since Mon Nov 23 19:10:28 2026\n"
        "\tscrub started on Mon Nov 23 19:10:24 2026\n"
        "\t0B / 40.8M scanned, 0B / 40.8M issued\n"
        "\t0B repaired, 0.00% done"
    ),
]


class TestScan:
    @pytest.mark.parametrize(("scan", "told"), IN_PROGRESS)
    def test_in_progress(self, scan, told):
        assert one(HEALTHY.format(f"  scan: {scan}\n")).health() == "ONLINE; " + told

    @pytest.mark.parametrize("scan", NOTHING_TO_TELL)
    def test_nothing_to_tell(self, scan):
        assert one(HEALTHY.format(f"  scan: {scan}\n")).health() == "ONLINE"

    @pytest.mark.parametrize("scan", WITH_ERRORS)
    def test_with_errors(self, scan):
        assert one(HEALTHY.format(f"  scan: {scan}\n")).health() == "ONLINE; " + scan

    @pytest.mark.parametrize("scan", PAUSED)
    def test_paused(self, scan):
        assert "in progress" not in one(HEALTHY.format(f"  scan: {scan}\n")).health()

    def test_scan_that_leaves_out_a_checkpoint(self):
        text = "  scan: scrub repaired 0B in 00:00:00 with 0 errors on Mon Nov 23 19:10:28 2026\n"
        text += "    scan warning: skipped blocks that are only referenced by the checkpoint.\n"
        text += "checkpoint: created Mon Nov 23 19:10:12 2026, consumes 36K\n"
        assert one(HEALTHY.format(text)).health() == "ONLINE"

    @pytest.mark.parametrize("first", [scan for scan, _ in IN_PROGRESS] + WITH_ERRORS)
    @pytest.mark.parametrize("second", NOTHING_TO_TELL)
    def test_several_scan_lines(self, first, second):
        alone = one(HEALTHY.format(f"  scan: {first}\n")).health()
        assert one(HEALTHY.format(f"  scan: {first}\n  scan: {second}\n")).health() == alone
        assert one(HEALTHY.format(f"  scan: {second}\n  scan: {first}\n")).health() == alone

    def test_scrub_beside_an_earlier_rebuild(self):
        assert one(SCRUBBING_AFTER_REBUILD).health() == "ONLINE; scrub in progress, 0.00% done"

    def test_rebuild_beside_an_earlier_scrub(self):
        told = "ONLINE; resilver (mirror-0) in progress, 100.00% done, 00:00:00 to go"
        assert one(REBUILDING).health() == told

    def test_two_vdevs_are_rebuilt(self):
        scan = "  scan: resilver ({}) in progress since Mon Nov 23 19:20:26 2026\n\t{}% done, 00:01:00 to go\n"
        health = one(HEALTHY.format(scan.format("mirror-0", 50) + scan.format("mirror-1", 60))).health()
        assert "resilver (mirror-0) in progress, 50% done" in health
        assert "resilver (mirror-1) in progress, 60% done" in health


class TestHealth:
    @pytest.mark.parametrize("text", [ONLINE, CLASSES, SPARE_IN_USE, SPACES, CALLED_SPECIAL, CALLED_S])
    def test_nothing_is_wrong(self, text):
        assert one(text).health() == "ONLINE"

    def test_resilver(self):
        assert one(RESILVERING).health() == "ONLINE; resilver in progress, 29.44% done, 00:00:02 to go"

    def test_failed_disk(self):
        health = one(FAULTED).health()
        assert health.startswith("DEGRADED; ")
        assert "/dev/dm-0 FAULTED (too many errors) 3 read, 550 write, 0 checksum errors" in health
        # The other disk and the pool's own row say nothing new.
        assert "/dev/dm-1" not in health
        assert "tank" not in health

    def test_replacement(self):
        health = one(REPLACING).health()
        assert "resilver in progress, 0.00% done; " in health
        assert "/dev/dm-0 FAULTED" in health
        assert "/dev/loop2" not in health

    def test_draid_spare(self):
        health = one(DRAID_SPARE_IN_USE).health()
        assert health.startswith("DEGRADED; ")
        assert "/dev/loop2 OFFLINE" in health
        assert "draid2-0-0" not in health

    def test_missing_disk_is_named_by_its_path(self):
        health = one(MISSING_DISK).health()
        assert "3253691481265751912 UNAVAIL (was /dev/loop5)" in health

    def test_data_errors(self):
        health = one(DATA_ERRORS).health()
        assert "scrub repaired 439K in 00:00:00 with 1023 errors" in health
        assert "/dev/loop2 0 read, 0 write, 2079 checksum errors" in health
        assert "1023 data errors" in health
        # No command line is at hand where this is read.
        assert "use '-v'" not in health

    def test_suspended(self):
        health = one(SUSPENDED).health()
        assert health.startswith("SUSPENDED; ")
        assert "/dev/dm-0 3 read, 20 write, 0 checksum errors" in health
        assert "1304 data errors" in health

    @pytest.mark.parametrize("reason", ["permission denied", "pool I/O is currently suspended"])
    def test_list_of_errors_that_cannot_be_had(self, reason):
        text = SUSPENDED.replace("1304 data errors, use '-v' for a list", "List of errors unavailable: " + reason)
        assert "List of errors unavailable: " + reason in one(text).health()

    def test_one_line(self):
        for text in (CLASSES, REPLACING, DATA_ERRORS, MISSING_DISK, SUSPENDED, DRAID_SPARE_IN_USE):
            assert one(text).health().isprintable()


class TestImport:
    def test_pools(self):
        assert [(pool.name, pool.guid, pool.state) for pool in zpool_text.read(IMPORTABLE)] == [
            ("c", "4960288397570585650", "UNAVAIL"),
            ("b", "15498910603499164272", "DEGRADED"),
            ("d", "8792669495101886845", "UNAVAIL"),
            ("my pool", "16187744669304861032", "ONLINE"),
            ("rem", "2687580130954565239", "ONLINE"),
        ]

    def test_rows(self):
        pools = {pool.name: pool for pool in zpool_text.read(IMPORTABLE)}
        assert rows(pools["b"], 0) == ["b", "cache", "logs"]
        assert rows(pools["b"], 2) == ["loop2", "loop3", "loop4", "loop5", "loop6"]
        assert (pools["my pool"].devices[0].name, pools["my pool"].devices[0].state) == ("my pool", "ONLINE")
        assert rows(pools["rem"], 1) == ["indirect-0", "loop4"]
        missing = next(device for device in pools["b"].devices if device.state == "UNAVAIL")
        assert (missing.name, missing.note) == ("loop2", "corrupted data")

    def test_lines_are_indented_less_by_later_releases(self):
        pool = one(IMPORTABLE_2_3)
        assert (pool.name, pool.guid, pool.state) == ("tank", "10311376059003176567", "DEGRADED")
        assert rows(pool, 0) == ["tank", "special", "logs"]
        assert rows(pool, 1) == ["mirror-0", "mirror-1", "loop4"]

    def test_pool_of_another_host(self):
        text = (
            "   pool: tank\n"
            "     id: 1835165763174365888\n"
            "  state: ONLINE\n"
            "status: The pool was last accessed by another system.\n"
            " action: The pool can be imported using its name or numeric identifier and\n"
            "\tthe '-f' flag.\n"
            "   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-EY\n"
            "comment: pool: of another host\n"
            " config:\n"
            "\n"
            "\ttank        ONLINE\n"
            "\t  sdb       ONLINE\n"
        )
        pool = one(text)
        assert (pool.name, pool.guid, pool.state) == ("tank", "1835165763174365888", "ONLINE")
        assert pool.fields["comment"] == "pool: of another host"
        assert "'-f' flag" in pool.fields["action"]
        assert rows(pool, 1) == ["sdb"]
