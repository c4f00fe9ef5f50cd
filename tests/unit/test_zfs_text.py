# SPDX-License-Identifier: LGPL-2.1-only
"""zfsvol.zfs.text reads what OpenZFS prints.

The texts were printed by `zpool status -P -p` and `zpool import` of OpenZFS 2.1.11 in the lab, unless a comment names
another version. Lines about long-running work are composed as cmd/zpool/zpool_main.c prints them.
"""

import pytest

from zfsvol.zfs import text

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

# A failed disk is being replaced; nothing is written to the replacement yet.
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

# Blocks were overwritten on both sides of a mirror. Another disk is gone, and is listed by its guid.
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

# A pool that has the name of a class.
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

# `zpool import`: pools that can and that cannot be imported, one with missing logs, one after a device removal.
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


def one(printed):
    """The only pool in a text."""
    (pool,) = text.read(printed)
    return pool


def rows(pool, depth):
    """The names of the rows at this depth."""
    return [device.name for device in pool.devices if device.depth == depth]


@pytest.mark.parametrize(
    ("printed", "layout", "health"),
    [
        (ONLINE, [("", 1)], "ONLINE"),
        (CLASSES, [("draid2:4d:9c:1s", 9)], "ONLINE"),
        (CALLED_SPECIAL, [("mirror", 2)], "ONLINE"),
        (
            REPLACING,
            [("mirror", 2)],
            (
                "DEGRADED; resilver in progress, 0.00% done; mirror-0 DEGRADED; replacing-0 DEGRADED; "
                "/dev/dm-0 FAULTED (too many errors) 3 read, 550 write, 0 checksum errors"
            ),
        ),
        (
            DRAID_SPARE_IN_USE,
            [("draid2:4d:9c:1s", 9)],
            "DEGRADED; draid2:4d:9c:1s-0 DEGRADED; spare-2 DEGRADED; /dev/loop2 OFFLINE",
        ),
        (
            MISSING_DISK,
            [("mirror", 2), ("mirror", 2)],
            (
                "DEGRADED; scrub repaired 439K in 00:00:00 with 1023 errors on Mon Nov 23 19:10:29 2026; "
                "mirror-0 DEGRADED; 3253691481265751912 UNAVAIL (was /dev/loop5); "
                "/dev/loop2 0 read, 0 write, 2 checksum errors; /dev/loop3 0 read, 0 write, 2 checksum errors; "
                "1023 data errors ('zpool status -v' lists them)"
            ),
        ),
        (
            SUSPENDED,
            [("", 1), ("", 1)],
            (
                "SUSPENDED; /dev/dm-0 3 read, 20 write, 0 checksum errors; "
                "/dev/dm-1 3 read, 20 write, 0 checksum errors; 1304 data errors ('zpool status -v' lists them)"
            ),
        ),
        (SCRUBBING_AFTER_REBUILD, [("mirror", 3)], "ONLINE; scrub in progress, 0.00% done"),
    ],
    ids=["disk", "classes", "called special", "replacing", "spare", "missing", "suspended", "scrubbing"],
)
def test_status(printed, layout, health):
    assert (one(printed).layout, one(printed).health()) == (layout, health)


def test_classes_of_vdevs():
    assert rows(one(CLASSES), 0) == ["dr", "dedup", "special", "logs", "cache", "spares"]


@pytest.mark.parametrize("name", ["my pool", "ONLINE", "NAME", "NAME x", "s"])
def test_any_name(name):
    pool = one(ONLINE.replace("pool: one", "pool: " + name).replace("\tone ", f"\t{name} "))
    assert pool.name == name
    assert [(device.depth, device.name, device.state) for device in pool.devices] == [
        (0, name, "ONLINE"),
        (1, "/dev/loop0", "ONLINE"),
    ]


def test_two_pools():
    assert [(pool.name, rows(pool, 1)[0]) for pool in text.read(TWO_POOLS)] == [
        ("one", "/dev/loop0"),
        ("two", "mirror-0"),
    ]


def test_no_pool():
    assert text.read("") == text.read("no pools available\n") == []


def test_lines_of_a_later_release():
    printed = ONLINE.replace("config:", "power: on\n colour: blue\n\tand green\nconfig:")
    pool = one(printed.replace("errors:", "\n\tslow: 7\nwarnings: none\nerrors:"))
    assert (pool.layout, pool.health()) == ([("", 1)], "ONLINE")


# What follows "scan:", and how health() puts it. Releases differ in times and rates.
SCANS = [
    (
        (
            "resilver in progress since Mon Nov 23 19:15:09 2026\n"
            "\t505M scanned at 253M/s, 314M issued at 157M/s, 505M total\n"
            "\t319M resilvered, 62.22% done, 00:00:01 to go"
        ),
        "; resilver in progress, 62.22% done, 00:00:01 to go",
    ),
    # 2.2 and later
    (
        (
            "scrub in progress since Mon Nov 23 19:10:24 2026\n"
            "\t20.1T / 40.8T scanned at 1.2G/s, 10.2T / 40.8T issued at 80M/s\n"
            "\t128K repaired, 25.00% done, 4 days 16:01:02 to go"
        ),
        "; scrub in progress, 25.00% done, 4 days 16:01:02 to go",
    ),
    (
        (
            "resilver (draid2:4d:9c:1s-0) in progress since Mon Nov 23 19:20:26 2026\n"
            "\t152M / 1.5T scanned at 391M/s, 152M / 1.5T issued at 391M/s\n"
            "\t69.3M resilvered, 0.01% done, 01:07:00 to go"
        ),
        "; resilver (draid2:4d:9c:1s-0) in progress, 0.01% done, 01:07:00 to go",
    ),
    (
        "scrub repaired 0B in 00:00:00 with 10 errors on Mon Nov 23 19:10:29 2026",
        "; scrub repaired 0B in 00:00:00 with 10 errors on Mon Nov 23 19:10:29 2026",
    ),
    ("none requested", ""),
    ("scrub repaired 439K in 2 days 10:00:00 with 0 errors on Mon Nov 23 19:10:28 2026", ""),
    ("resilver canceled on Mon Nov 23 19:10:28 2026", ""),
    (
        (
            "scrub paused since Mon Nov 23 19:10:28 2026\n"
            "\tscrub started on Mon Nov 23 19:10:24 2026\n"
            "\t0B / 40.8M scanned, 0B / 40.8M issued\n"
            "\t0B repaired, 0.00% done"
        ),
        "",
    ),
]


@pytest.mark.parametrize(("scan", "told"), SCANS)
def test_scan(scan, told):
    assert one(ONLINE.replace("config:", f"  scan: {scan}\nconfig:")).health() == "ONLINE" + told


def test_two_vdevs_are_rebuilt():
    scan = "  scan: resilver ({}) in progress since Mon Nov 23 19:20:26 2026\n\t{}% done, 00:01:00 to go\n"
    scans = scan.format("mirror-0", 50) + scan.format("mirror-1", 60)
    assert one(ONLINE.replace("config:", scans + "config:")).health() == (
        "ONLINE; resilver (mirror-0) in progress, 50% done, 00:01:00 to go; "
        "resilver (mirror-1) in progress, 60% done, 00:01:00 to go"
    )


def test_importable():
    pools = text.read(IMPORTABLE)
    assert [(pool.name, pool.guid, pool.state) for pool in pools] == [
        ("c", "4960288397570585650", "UNAVAIL"),
        ("b", "15498910603499164272", "DEGRADED"),
        ("d", "8792669495101886845", "UNAVAIL"),
        ("my pool", "16187744669304861032", "ONLINE"),
        ("rem", "2687580130954565239", "ONLINE"),
    ]
    assert rows(pools[1], 0) == ["b", "cache", "logs"]
    assert [(device.name, device.note) for device in pools[1].devices if device.state == "UNAVAIL"] == [
        ("loop2", "corrupted data")
    ]
    assert rows(pools[4], 1) == ["indirect-0", "loop4"]


def test_importable_of_a_later_release():
    """OpenZFS 2.3 indents the lines less."""
    pool = one(IMPORTABLE_2_3)
    assert (pool.name, pool.guid, pool.state) == ("tank", "10311376059003176567", "DEGRADED")
    assert rows(pool, 1) == ["mirror-0", "mirror-1", "loop4"]


def test_fields():
    """The other fields of a text, with colons and continued lines."""
    another = "comment: pool: of another host\n action: Import it with\n\tthe '-f' flag.\n"
    fields = one(IMPORTABLE_2_3.replace("config:", another + "config:")).fields
    assert (fields["comment"], fields["action"]) == ("pool: of another host", "Import it with, the '-f' flag.")


def test_data_errors() -> None:
    bad = one(ONLINE.replace("No known data errors", "1304 data errors, use '-v' for a list"))
    assert bad.data_errors == 1304
    assert one(CLASSES).data_errors == 0
    assert one(CLASSES.replace("No known data errors", "List of errors unavailable")).data_errors is None


@pytest.mark.parametrize(
    ("disk", "state"), [("loop0", "DEGRADED"), ("loop9", "DEGRADED"), ("loop13", "DEGRADED"), ("loop14", "ONLINE")]
)
def test_a_disk_that_2_3_has_faulted_alone(disk, state):
    (pool,) = text.read(CLASSES)
    assert pool.state == "ONLINE"
    row = next(device for device in pool.devices if device.name == f"/dev/{disk}")
    row.state = "FAULTED"
    assert pool.state == state
    assert pool.health().startswith(f"{state}; /dev/{disk} FAULTED")
