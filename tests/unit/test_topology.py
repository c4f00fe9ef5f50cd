# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.zfs.topology: the tree of a pool's devices from what OpenZFS 2.1 and 2.3 print."""

import pytest

from tests.unit import recorded
from zfsvol.errors import InvalidArgument
from zfsvol.zfs import text, topology
from zfsvol.zfs.topology import Topology


def built(name: str) -> Topology:
    """The tree by two recorded outputs."""
    tables = (getattr(recorded, name), getattr(recorded, name + "_GUIDS"))
    found = topology.build(*(text.read(table)[0] for table in tables))
    assert found is not None
    return found


def composed(*rows: str) -> Topology:
    """The tree of a pool of these rows, each indented by two spaces per level."""
    lines = ["  pool: tank", " state: ONLINE", "config:", "", "\tNAME STATE READ WRITE CKSUM SLOW"]
    lines += ["\t" + row for row in ("tank ONLINE 0 0 0 0", *rows)]
    guids = [line.replace(line.split()[0], str(100 + number), 1) for number, line in enumerate(lines[5:])]
    tables = ("\n".join(lines), "\n".join([*lines[:5], *guids]))
    found = topology.build(*(text.read(table)[0] for table in tables))
    assert found is not None
    return found


@pytest.mark.parametrize("version", ["21", "23"])
def test_a_disk_is_missing(version):
    found = built("MISSING_" + version)
    raidz, special, log = found.tops
    assert [(top.name, top.kind, top.role) for top in found.tops] == [
        ("raidz1-0", "raidz1", "data"),
        ("mirror-1", "mirror", "special"),
        ("/dev/loop5", "disk", "log"),
    ]
    assert [disk.path for disk in raidz.children] == ["/dev/loop0", "/dev/loop6", "/dev/loop2"]
    gone = raidz.children[2]
    assert (gone.state, gone.name, gone.title) == ("UNAVAIL", gone.guid, "/dev/loop2")
    assert (raidz.parity, raidz.spare_disks, raidz.is_good) == (1, 0, True)
    assert (special.parity, special.spare_disks) == (2, 2)
    assert [top.is_vital for top in found.tops] == [True, True, False]
    assert {(disk.trim or {}).get("state") for disk in found.disks} == {"never"}
    assert log.top is log
    assert gone.top is raidz
    assert found.find(gone.guid) is found.find("/dev/loop2") is found.find("loop2") is gone
    assert found.find("mirror-1") is special


def test_a_spare_stands_in():
    found = built("SPARE_21")
    mirror = found.tops[0]
    group = mirror.children[1]
    assert (group.kind, group.is_good, mirror.spare_disks) == ("spare", True, 1)
    failed, spare = group.children
    assert (failed.state, failed.note, failed.is_good) == ("FAULTED", "too many errors", False)
    # zpool lists the spare twice.
    assert [disk.guid for disk in found.disks].count(spare.guid) == 1
    assert found.find("/dev/loop4") is spare


def test_tables_of_different_shapes():
    tables = (recorded.MISSING_21, recorded.SPARE_21_GUIDS)
    assert topology.build(*(text.read(table)[0] for table in tables)) is None


def test_errors_and_slow_requests():
    (disk,) = composed("  /dev/sdb DEGRADED 1 2 3 4  too many slow I/Os  (untrimmed)").tops
    assert (disk.errors, disk.slow, disk.note) == ((1, 2, 3), 4, "too many slow I/Os")


@pytest.mark.parametrize(
    ("rows", "left"),
    [
        (["  /dev/a ONLINE 0 0 0 0"], 0),
        (["  /dev/a FAULTED 0 0 0 0"], -1),
        (["  mirror-0 ONLINE 0 0 0 0", "    /dev/a ONLINE 0 0 0 0", "    /dev/b ONLINE 0 0 0 0"], 1),
        (["  mirror-0 ONLINE 0 0 0 0", "    /dev/a ONLINE 0 0 0 0", "    /dev/b ONLINE 0 0 0 0  (resilvering)"], 0),
        (["  mirror-0 ONLINE 0 0 0 0", "    /dev/a REMOVED 0 0 0 0", "    /dev/b OFFLINE 0 0 0 0"], -1),
        (["  raidz2-0 ONLINE 0 0 0 0", *(f"    /dev/{name} ONLINE 0 0 0 0" for name in "abcd")], 2),
        (["  draid2:2d:5c:1s-0 ONLINE 0 0 0 0", *(f"    /dev/{name} ONLINE 0 0 0 0" for name in "abcde")], 2),
        (
            ["  mirror-0 DEGRADED 0 0 0 0", "    replacing-0 DEGRADED 0 0 0 0", "      /dev/a ONLINE 0 0 0 0",
             "      /dev/c ONLINE 0 0 0 0  (resilvering)", "    /dev/b ONLINE 0 0 0 0"], 1,
        ),
        (
            ["  mirror-0 DEGRADED 0 0 0 0", "    replacing-0 DEGRADED 0 0 0 0", "      /dev/a FAULTED 0 0 0 0",
             "      /dev/c ONLINE 0 0 0 0  (resilvering)", "    /dev/b ONLINE 0 0 0 0"], 0,
        ),
    ],
)  # fmt: skip
def test_how_many_more_may_fail(rows, left):
    assert composed(*rows).tops[0].spare_disks == left


def test_a_distributed_spare_is_no_data():
    found = composed("  raidz1-0 ONLINE 0 0 0 0", "    /dev/a ONLINE 0 0 0 0", "spares", "  draid2-0-0 AVAIL")
    assert [top.role for top in found.tops] == ["data", "spare"]


class TestFind:
    def test_the_partition_that_zpool_made(self):
        found = composed("  /dev/disk/by-id/ata-X-part1 ONLINE 0 0 0 0")
        assert found.find("/dev/disk/by-id/ata-X") is found.find("ata-X") is found.find("ata-X-part1") is found.tops[0]
        assert found.tops[0].title == "/dev/disk/by-id/ata-X"

    @pytest.mark.parametrize("word", ["", "/dev/sdz", "tank", "mirror", "1"])
    def test_unknown(self, word):
        with pytest.raises(InvalidArgument, match=r"The pool tank has no device '.*'\. It has /dev/sda, /dev/sdb\."):
            composed("  /dev/sda ONLINE 0 0 0 0", "  /dev/sdb ONLINE 0 0 0 0").find(word)

    def test_ambiguous(self):
        found = composed("  /dev/x/disk ONLINE 0 0 0 0", "  102 UNAVAIL 0 0 0 0  was /dev/y/disk")
        with pytest.raises(InvalidArgument, match=r"several devices .* 101 \(/dev/x/disk ONLINE\), 102 \("):
            found.find("disk")
        assert found.find("102").path == "/dev/y/disk"
