# SPDX-License-Identifier: LGPL-2.1-only
"""The datapath: what each kind of domain gets, who may use a VDI at the same time, and that all see the same bytes.

With the genuine tap-ctl if there is one, else with its stand-in: see tests/blktap.py.
"""

import base64
import fcntl
import os
from pathlib import Path
import struct
from typing import Any, Callable, Dict, Tuple

import pytest

from tests import blktap, client, zvol
from tests.client import call_inside as call
from tests.model import noise
from tests.zfs.conftest import GIB, MIB, Bench, run, wait_for, wait_until
from tests.zfs.disk import (
    DOM0,
    GUEST,
    IN_USE,
    INVALID,
    MIGRATION,
    MISSING,
    OTHER_GUEST,
    SR_IN_USE,
    STATIC,
    UNAVAILABLE,
    Disk,
    left,
    nbd_read,
    nbd_write,
    new_disk,
    node_read,
    node_write,
    only_stand_in,
    refused,
)
from zfsvol.host import blockdevice
from zfsvol.repository import record as records

_BLKGETSIZE64 = 0x80081272
# The errors of writes to a read-only device.
REFUSED = r"(?i)(read.only|write operations|not permitted|denied|invalid argument)"

pytestmark = pytest.mark.usefixtures("nothing_left")


class TestAnswers:
    @pytest.mark.parametrize("domain", [GUEST, MIGRATION, ""])
    def test_by_tapdisk(self, disk: Disk, domain: str) -> None:
        given = disk.attach(domain)
        assert set(given) == {"XenDisk", "Nbd"}  # xenopsd would prefer a device, and it would never connect
        socket = f"/run/blktap-control/nbd/{disk.sr[3:]}/{disk.key}"
        assert given["Nbd"]["uri"] == f"nbd:unix:{socket}:exportname={disk.key}"
        assert given["XenDisk"]["params"] == given["Nbd"]["uri"]
        assert given["XenDisk"]["backend_type"] == "vbd3"
        assert blktap.tapdisks() == []
        assert not os.path.lexists(socket)
        disk.verb("activate", domain)
        # Parsed as by xenopsd's script and then by tapback.
        pid, minor = disk.tapdisk["pid"], disk.tapdisk["minor"]
        assert os.path.realpath(socket) == f"/run/blktap-control/nbd{pid}.{minor}"
        assert blktap.tapdisks() == [pid]
        disk.drop(domain)

    @pytest.mark.parametrize("domain", [DOM0, STATIC, "u0-OpaqueRef"])
    def test_for_dom0(self, disk: Disk, domain: str) -> None:
        given = disk.use(domain)
        assert set(given) == {"XenDisk", "BlockDevice"}
        path = given["BlockDevice"]["path"]
        assert zvol.nodes() == {disk.zvol: path}
        name = os.path.basename(path)
        assert int(Path(f"/sys/block/{name}/size").read_text()) * 512 == 64 * MIB  # quicktest looks there
        assert blktap.tapdisks() == []
        disk.drop(domain)

    def test_by_blkback(self, bench: Bench) -> None:
        disk = new_disk(bench.sr(device=bench.disk(), datapath="blkback"))
        given = disk.use(GUEST)
        assert given["XenDisk"]["backend_type"] == "vbd"
        assert given["BlockDevice"]["path"] == given["XenDisk"]["params"] == zvol.nodes()[disk.zvol]
        assert blktap.tapdisks() == []
        disk.drop(GUEST)
        # A copy into it still uses NBD.
        given = disk.use(MIGRATION)
        assert set(given) == {"XenDisk", "Nbd"}
        disk.drop(MIGRATION)

    def test_switched_later(self, bench: Bench) -> None:
        """The key may be set for the SR or for a disk; an attached disk keeps its datapath."""
        disk = new_disk(bench.sr())
        run("zfs", "set", "zfsvol:sr-datapath=blkback", disk.sr)
        assert disk.attach(GUEST)["XenDisk"]["backend_type"] == "vbd"
        run("zfs", "set", "zfsvol:sr-datapath=tapdisk", disk.zvol)
        assert disk.attach(GUEST)["XenDisk"]["backend_type"] == "vbd"
        assert disk.attach(OTHER_GUEST)["XenDisk"]["backend_type"] == "vbd"
        disk.drop(GUEST, OTHER_GUEST)
        assert disk.attach(GUEST)["XenDisk"]["backend_type"] == "vbd3"
        disk.drop(GUEST)

    def test_switched_to_what_is_not_known(self, disk: Disk) -> None:
        """A VM that should have flushes does not start without them."""
        run("zfs", "set", "zfsvol:sr-datapath=blkbck", disk.zvol)
        with refused(INVALID) as sentence:
            disk.attach(GUEST)
        assert "'blkbck'" in sentence[0]
        disk.use(DOM0)
        with refused(INVALID):
            disk.attach(GUEST)
        disk.drop(DOM0)

    def test_identity(self, disk: Disk) -> None:
        """The data that Windows' drivers and rrdp-iostat read in xenstore below sm-data."""
        extra = disk.attach(GUEST)["XenDisk"]["extra"]
        assert extra["vdi-uuid"] == disk.key
        serial = base64.b64decode(extra["scsi/0x12/0x80"])
        assert (serial[1], serial[3]) == (0x80, len(serial) - 4)
        assert serial[4:].decode() == disk.key[:16] + "  "
        identification = base64.b64decode(extra["scsi/0x12/0x83"])
        assert (identification[1], identification[3]) == (0x83, len(identification) - 4)
        assert (identification[4:7], identification[7]) == (b"\2\1\0", len(identification) - 8)
        assert identification[8:].decode() == f"XENSRC  {disk.key} "
        disk.drop(GUEST)

    def test_statistics(self, disk: Disk) -> None:
        """rrdp-iostat identifies a VDI by the path in tap-ctl list, and caches the answer for ever."""
        paths = set()
        for one in (disk, new_disk(disk.sr)):
            one.use(GUEST)
            (line,) = run("tap-ctl", "list", "-p", str(one.tapdisk["pid"])).splitlines()
            path = line.partition("args=aio:")[2]
            assert os.readlink(f"/dev/sm/phy/{one.sr[3:]}/{one.key}") == path
            assert zvol.nodes()[one.zvol] == os.path.realpath(path)
            paths.add(path)
            one.drop(GUEST)
        assert len(paths) == 2

    @only_stand_in
    def test_blktap_3(self, disk: Disk) -> None:
        """With blktap 3's kernel module tap-ctl allocate names a device, not a file."""
        with blktap.version_3():
            given = disk.use(GUEST)
            nbd_write(given, 0, b"x" * 512)
            disk.drop(GUEST)

    def test_pool_with_a_long_name_and_a_space(self, bench: Bench) -> None:
        """tapdisk accepts paths of at most 255 bytes."""
        pool = bench.pool(name="a pool")
        parent = f"{pool}/{'x' * 100}"
        run("zfs", "create", parent)
        disk = new_disk(bench.sr(zpool=parent))
        given = disk.use(GUEST)
        nbd_write(given, 0, b"x" * 512)
        disk.drop(GUEST)
        assert node_read(disk.use(DOM0), 0, 512) == b"x" * 512
        disk.drop(DOM0)


class TestOrder:
    def test_attach_changes_nothing_when_repeated(self, disk: Disk) -> None:
        for domain in (GUEST, DOM0):
            given = disk.attach(domain)
            before = disk.saved
            assert disk.attach(domain) == given
            disk.verb("activate", domain)
            assert disk.attach(domain) == given
            assert {**disk.saved, "active": {}, "tapdisk": None} == {**before, "active": {}}
            disk.drop(domain)

    def test_activate_twice(self, disk: Disk) -> None:
        disk.use(GUEST)
        before = disk.tapdisk
        disk.verb("activate", GUEST)
        disk.verb("activate_readonly", GUEST)
        assert disk.tapdisk == before
        assert disk.record.active == {GUEST: "rw"}
        disk.drop(GUEST)

    def test_activate_without_attach(self, disk: Disk) -> None:
        disk.verb("activate", GUEST)
        assert nbd_read(disk.attach(GUEST), 0, 512) == bytes(512)
        disk.drop(GUEST)

    def test_what_was_never_begun_is_ended(self, disk: Disk) -> None:
        disk.drop(GUEST, GUEST, DOM0, "")
        for _ in range(2):
            disk.verb("detach", GUEST)

    def test_detach_takes_the_lease_too(self, disk: Disk) -> None:
        disk.use(GUEST)
        disk.verb("detach", GUEST)
        assert left() == []
        disk.verb("deactivate", GUEST)

    def test_others_are_not_touched(self, disk: Disk) -> None:
        """A storage migration attaches and ends in dom0 while the VM runs, without activation."""
        given = disk.use(GUEST)
        for domain in ("u0_mirror_1", MIGRATION, OTHER_GUEST, "9"):
            disk.attach(domain)
            disk.drop(domain)
        nbd_write(given, 0, b"y" * 512)
        disk.drop(GUEST)

    def test_no_such_disk(self, disk: Disk) -> None:
        disk.volume("destroy")
        for verb in ("attach", "activate", "activate_readonly"):
            with refused(MISSING):
                disk.verb(verb, GUEST)
        disk.drop(GUEST)

    def test_the_pool_is_gone(self, disk: Disk) -> None:
        disk.attach(GUEST)
        wait_for("zpool", "export", disk.sr)  # udev may still have the node open
        with refused(UNAVAILABLE):
            disk.attach(GUEST)
        disk.drop(GUEST)
        run("zpool", "import", "-d", "/dev", disk.sr)
        assert call("SR.attach", configuration={"sr_uuid": disk.sr[3:]}) == disk.sr


# The first domain's mode, the second's: is that allowed?
WAYS = [("ro", "ro", True), ("ro", "rw", False), ("rw", "ro", False), ("rw", "rw", False)]


class TestLeases:
    @pytest.mark.parametrize(("first", "second", "possible"), WAYS)
    @pytest.mark.parametrize("domains", [(GUEST, DOM0)])
    def test_many_readers_or_one_writer(
        self, disk: Disk, domains: "Tuple[str, str]", first: str, second: str, *, possible: bool
    ) -> None:
        holder, other = domains
        disk.use(holder, readonly=first == "ro")
        disk.attach(other)
        verb = "activate_readonly" if second == "ro" else "activate"
        if possible:
            disk.verb(verb, other)
        else:
            before = disk.saved
            with refused(IN_USE) as sentence:
                disk.verb(verb, other)
            assert records.called(holder) in sentence[0]
            assert disk.saved == before
            disk.verb("deactivate", holder)
            disk.verb(verb, other)
        disk.drop(holder, other)

    @pytest.mark.parametrize("domains", [(GUEST, OTHER_GUEST), (GUEST, DOM0)])
    def test_a_sharable_disk_is_for_all(self, shared_sr: str, domains: "Tuple[str, str]") -> None:
        disk = new_disk(shared_sr, sharable=True)
        given = [disk.use(domain, readonly=index == 0) for index, domain in enumerate(domains)]
        if domains[1] == OTHER_GUEST:
            assert len(blktap.tapdisks()) == 1
            nbd_write(given[1], 0, b"z" * 512)
        else:
            node_write(given[1], 0, b"z" * 512)
        assert nbd_read(given[0], 0, 512) == b"z" * 512
        disk.drop(*domains)

    def test_one_tapdisk_for_all_readers(self, disk: Disk) -> None:
        disk.use(GUEST, readonly=True)
        disk.use(OTHER_GUEST, readonly=True)
        assert len(blktap.tapdisks()) == 1
        disk.drop(GUEST)
        assert nbd_read(disk.attach(OTHER_GUEST), 0, 512) == bytes(512)
        disk.drop(OTHER_GUEST)

    def test_a_reader_becomes_the_writer(self, disk: Disk) -> None:
        given = disk.use(GUEST, readonly=True)
        with pytest.raises(Exception, match=REFUSED):
            nbd_write(given, 0, b"x" * 512)
        disk.verb("activate", GUEST)
        nbd_write(given, 0, b"x" * 512)
        disk.drop(GUEST)

    @pytest.mark.parametrize("verb", ["activate", "activate_readonly"])
    def test_snapshots_are_read_only(self, disk: Disk, verb: str) -> None:
        """Older clients attach them with plain activate."""
        frozen = disk.derive("snapshot")
        guest, dom0 = frozen.attach(GUEST), frozen.attach(DOM0)
        for domain in (GUEST, DOM0, MIGRATION):
            frozen.verb(verb, domain)
        assert set(frozen.record.active.values()) == {"ro"}
        with pytest.raises(Exception, match=REFUSED):
            nbd_write(guest, 0, b"x" * 512)
        with pytest.raises(OSError, match=REFUSED):
            node_write(dom0, 0, b"x" * 512)
        assert nbd_read(guest, 0, 512) == node_read(dom0, 0, 512) == bytes(512)
        frozen.drop(GUEST, DOM0, MIGRATION)

    @only_stand_in  # of xenstore-list
    def test_a_vm_that_is_gone(self, disk: Disk) -> None:
        """The client ignores errors of a deactivate, and calls it for "" if the domain is gone by then."""
        with blktap.domains(GUEST, OTHER_GUEST):
            disk.use(GUEST)
            disk.drop("")
            assert disk.record.active == {GUEST: "rw"}
            with refused(IN_USE):
                disk.use(OTHER_GUEST)
        with blktap.domains(OTHER_GUEST):
            disk.use(OTHER_GUEST)
            assert disk.record.active == {OTHER_GUEST: "rw"}
            assert list(disk.record.attached) == [OTHER_GUEST]
        with blktap.domains():
            disk.drop("")

    @only_stand_in  # of xenstore-list
    def test_a_vm_and_a_migration_that_are_gone(self, disk: Disk) -> None:
        """Both give way at once, but a migration that somebody is connected for does not."""
        with blktap.domains(GUEST):
            disk.use(GUEST, readonly=True)
            uri = disk.use(MIGRATION, readonly=True)["Nbd"]["uri"]
        with blktap.domains(OTHER_GUEST):
            with blktap.connect(uri), refused(IN_USE):
                disk.use(OTHER_GUEST)
            assert disk.record.active == {MIGRATION: "ro"}
        with blktap.domains(GUEST, OTHER_GUEST):
            disk.use(GUEST, readonly=True)
        with blktap.domains(OTHER_GUEST):
            disk.use(OTHER_GUEST)
            assert disk.record.active == {OTHER_GUEST: "rw"}
            disk.drop(OTHER_GUEST)

    @only_stand_in  # of xenstore-list
    def test_a_vm_that_is_gone_and_whose_disk_the_kernel_serves(
        self, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its blkback may still write."""
        monkeypatch.setattr(blockdevice, "BACKENDS", str(tmp_path))
        (tmp_path / f"vbd-{GUEST}-51712").mkdir()
        (tmp_path / f"vbd-{GUEST}1-51712").mkdir()
        with blktap.domains(OTHER_GUEST):
            disk.use(GUEST)
            with refused(IN_USE):
                disk.use(OTHER_GUEST)
            assert disk.record.active == {GUEST: "rw"}
            (tmp_path / f"vbd-{GUEST}-51712").rmdir()
            disk.use(OTHER_GUEST)
            assert disk.record.active == {OTHER_GUEST: "rw"}
            disk.drop(OTHER_GUEST)

    def test_a_dom0_attach_that_was_refused_hinders_nobody(self, disk: Disk) -> None:
        """xapi never detaches it. Still revert, resize and destroy work, and SR.detach if nothing is active."""
        taken = disk.derive("snapshot")
        disk.use(GUEST)
        disk.attach(DOM0)
        with refused(IN_USE):
            disk.verb("activate", DOM0)
        disk.drop(GUEST)
        assert list(disk.record.attached) == [DOM0]
        disk.volume("resize", new_size=128 * MIB)
        call("Volume.revert", sr=disk.sr, key=disk.key, snapshot=taken.key)
        disk.use(OTHER_GUEST)
        disk.drop(OTHER_GUEST)
        configuration = {"sr_uuid": disk.sr[3:]}
        call("SR.detach", sr=disk.sr)
        assert call("SR.attach", configuration=configuration) == disk.sr
        disk.attach(DOM0)
        taken.volume("destroy")
        disk.volume("destroy")


class TestData:
    def test_one_way_in_every_way_out(self, disk: Disk) -> None:
        """Data written through one path is read through every other, and from a snapshot and a clone."""
        disk = new_disk(disk.sr, 8 * MIB)
        expected = bytearray(8 * MIB)

        def write(writer: "Callable[..., None]", given: "Dict[str, Any]", number: int) -> None:
            data = noise(number, MIB)
            writer(given, number * MIB, data)
            expected[number * MIB : (number + 1) * MIB] = data

        def check(one: Disk, content: bytes) -> None:
            given = one.use(DOM0, readonly=True)
            assert node_read(given, 0, len(content)) == content
            one.drop(DOM0)
            given = one.use(GUEST, readonly=True)
            assert nbd_read(given, 0, 8 * MIB) == content
            one.drop(GUEST)

        given = disk.use(GUEST)
        write(nbd_write, given, 1)
        frozen, frozen_content = disk.derive("snapshot"), bytes(expected)
        write(nbd_write, given, 2)
        clone, clone_content = disk.derive("clone"), bytes(expected)
        write(nbd_write, given, 3)
        disk.drop(GUEST)
        given = disk.use(DOM0)
        write(node_write, given, 4)
        disk.drop(DOM0)
        given = disk.use(MIGRATION)
        write(nbd_write, given, 5)
        disk.drop(MIGRATION)
        check(disk, bytes(expected))
        check(frozen, frozen_content)
        check(clone, clone_content)
        call("Volume.revert", sr=disk.sr, snapshot=frozen.key, key=disk.key)
        check(disk, frozen_content)
        call("SR.detach", sr=disk.sr)
        call("SR.attach", configuration={"sr_uuid": disk.sr[3:]})
        check(disk, frozen_content)

    def test_what_was_written_is_on_disk_when_deactivate_returns(self, disk: Disk) -> None:
        """tapdisk never flushes, but the last close of a zvol waits until all data is on disk."""
        given = disk.use(GUEST)
        nbd_write(given, 0, noise(1, 4 * MIB))
        disk.verb("deactivate", GUEST)
        before = run("zfs", "get", "-Hpo", "value", "referenced", disk.zvol)
        run("zpool", "sync", disk.sr)
        assert run("zfs", "get", "-Hpo", "value", "referenced", disk.zvol) == before
        assert int(before) > 4 * MIB
        disk.verb("detach", GUEST)

    def test_snapshots_under_load(self, disk: Disk) -> None:
        """Each snapshot has all writes that had returned before it, despite writes at the same time."""
        frozen = []
        with blktap.connect(disk.use(GUEST)["Nbd"]["uri"]) as connection:
            for number in range(3):
                connection.write(number * MIB, noise(number, MIB))
                process = client.start("Volume.snapshot", sr=disk.sr, key=disk.key)
                while process.poll() is None:
                    connection.write(32 * MIB, noise(99, MIB))
                frozen.append(Disk(disk.sr, client.finish("Volume.snapshot", process)))
        disk.drop(GUEST)
        for number, one in enumerate(frozen):
            given = one.use(DOM0, readonly=True)
            for written in range(3):
                expected = noise(written, MIB) if written <= number else bytes(MIB)
                assert node_read(given, written * MIB, MIB) == expected
            one.drop(DOM0)

    def test_export_of_a_snapshot_while_its_disk_is_in_use(self, disk: Disk) -> None:
        given = disk.use(GUEST)
        nbd_write(given, 0, noise(1, MIB))
        frozen = disk.derive("snapshot")
        nbd_write(given, 0, noise(2, MIB))
        assert node_read(frozen.use(DOM0, readonly=True), 0, MIB) == noise(1, MIB)
        frozen.drop(DOM0)
        disk.drop(GUEST)


class TestVolumeVerbs:
    """Volume verbs that need an idle VDI check its leases."""

    @pytest.mark.parametrize("domain", [GUEST, DOM0])
    def test_refused_while_it_is_active(self, disk: Disk, domain: str) -> None:
        frozen = disk.derive("snapshot")
        disk.use(domain)
        for verb in ("destroy", "revert"):
            with refused(IN_USE) as sentence:
                disk.volume(verb, **({"snapshot": frozen.key} if verb == "revert" else {}))
            assert records.called(domain) in sentence[0]
            assert f"was not {verb.rstrip('y')}" in sentence[0].replace("destroyed", "destroed")
        with refused(SR_IN_USE) as sentence:
            call("SR.detach", sr=disk.sr)
        assert records.called(domain) in sentence[0]
        with refused(SR_IN_USE):
            call("SR.destroy", sr=disk.sr)
        disk.verb("deactivate", domain)
        disk.volume("revert", snapshot=frozen.key)
        disk.use(domain)
        disk.verb("deactivate", domain)
        disk.volume("destroy")
        assert left() == []
        disk.drop(domain)

    def test_growing_under_a_tapdisk(self, disk: Disk) -> None:
        disk.use(GUEST)
        with refused(IN_USE):
            disk.volume("resize", new_size=GIB)
        disk.volume("resize", new_size=64 * MIB)  # the size stays, so no tapdisk has to notice
        disk.verb("deactivate", GUEST)
        disk.volume("resize", new_size=GIB)
        assert disk.use(GUEST) == disk.attach(GUEST)
        assert nbd_read(disk.attach(GUEST), GIB - 512, 512) == bytes(512)
        disk.drop(GUEST)

    def test_growing_online(self, bench: Bench) -> None:
        """blkback sees its device grow."""
        disk = new_disk(bench.sr(device=bench.disk(), datapath="blkback"))
        with open(disk.use(GUEST)["BlockDevice"]["path"], "rb", buffering=0) as file:
            disk.volume("resize", new_size=GIB)
            wait_until(lambda: size_of(file.fileno()) == GIB, "the device to grow", 10)
        disk.drop(GUEST)

    def test_flush_and_discard_reach_the_zvol(self, bench: Bench) -> None:
        """Through blkback's node: discarded data uses no space, flushed data is in the intent log."""
        disk = new_disk(bench.sr(device=bench.disk(), datapath="blkback"))
        path = disk.use(GUEST)["BlockDevice"]["path"]
        node_write({"BlockDevice": {"path": path}}, 0, noise(1, 16 * MIB))
        run("zpool", "sync", disk.sr)
        assert int(run("zfs", "get", "-Hpo", "value", "referenced", disk.zvol)) > 16 * MIB
        run("blkdiscard", "--offset", "0", "--length", str(16 * MIB), path)
        run("zpool", "sync", disk.sr)
        assert int(run("zfs", "get", "-Hpo", "value", "referenced", disk.zvol)) < MIB
        disk.drop(GUEST)

    def test_clone_on_boot(self, disk: Disk) -> None:
        """A VM runs on a clone of its disk, which is destroyed and made again."""
        clone = disk.derive("clone")
        disk.volume("set", k="clone-on-boot", v=clone.key)
        for domain in (GUEST, DOM0):
            clone.use(domain)
            with refused(IN_USE):
                disk.volume("destroy")
            clone.verb("deactivate", domain)
        disk.volume("destroy")
        assert {disk.key, clone.key}.isdisjoint(record["key"] for record in call("SR.ls", sr=disk.sr))


def size_of(descriptor: int) -> int:
    """A block device's size in bytes."""
    (size,) = struct.unpack("Q", fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8)))
    return int(size)
