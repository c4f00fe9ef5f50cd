# SPDX-License-Identifier: LGPL-2.1-only
"""Which disks may be searched for pools, and which a new pool may use: real devices, each refused for one reason."""

from contextlib import contextmanager
import hashlib
import os
from pathlib import Path
import subprocess
from typing import Iterator

import pytest

from tests.client import VerbError, call_inside, new_uuid
from tests.zfs.conftest import MIB, Bench, Disk, Udev, device_node, run, wait_until
from zfsvol.host import blockdevice
from zfsvol.zfs import disks, pools

INVALID_DEVICE, IN_USE = "SR_BACKEND_FAILURE_91", "SR_BACKEND_FAILURE_16"
SIZE = 256 * MIB


def refused(path: str, **configuration: str) -> VerbError:
    """SR.create's refusal; checks that it has written nothing."""
    before = edges(path)
    with pytest.raises(VerbError) as caught:
        call_inside(
            "SR.create", uuid=new_uuid(), configuration={"device": path, **configuration}, name="n", description=""
        )
    assert edges(path) == before
    return caught.value


def edges(path: str) -> str:
    """A checksum of the first and last megabytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        for start in (0, max(0, size - 4 * MIB)):
            file.seek(start)
            digest.update(file.read(4 * MIB))
    return digest.hexdigest()


def settled(path: str) -> str:
    Udev.settle()
    return path


def partitioned(bench: Bench, *lines: str, label: str = "gpt") -> str:
    """A loop device with partitions that the kernel knows."""
    loop = bench.loop(SIZE)
    run("sfdisk", "-q", "--label", label, loop, stdin="".join(line + "\n" for line in lines))
    run("partx", "--update", loop)
    return settled(loop)


@pytest.fixture(autouse=True)
def busy_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the wait for a device in use to become idle."""
    monkeypatch.setattr(disks, "_IDLE_LIMIT", 0.3)


@pytest.fixture
def zvol_node(bench: Bench) -> "Iterator[str]":
    bench.pool(bench.disk())
    run("zfs", "create", "-s", "-V", "512M", "tank/guest")
    with device_node("tank/guest") as link:
        yield os.path.realpath(link)


@contextmanager
def attached_loop(path: str) -> "Iterator[str]":
    loop = run("losetup", "--find", "--show", path).strip()
    try:
        yield settled(loop)
    finally:
        run("losetup", "--detach", loop)


@contextmanager
def mapped(path: str, uuid: str = "") -> "Iterator[str]":
    """A device-mapper device on another device."""
    sectors = run("blockdev", "--getsz", path).strip()
    words = ["--uuid", uuid] if uuid else []
    run("dmsetup", "create", "--noudevsync", "zfsvolmapped", *words, "--table", f"0 {sectors} linear {path} 0")
    number = run("dmsetup", "info", "-c", "--noheadings", "-o", "minor", "zfsvolmapped").strip()
    wait_until(lambda: os.path.exists(f"/dev/dm-{number}"), "the device")
    try:
        yield settled(f"/dev/dm-{number}")
    finally:
        wait_until(
            lambda: (
                subprocess.run(["dmsetup", "remove", "--noudevsync", "zfsvolmapped"], stderr=subprocess.PIPE).returncode
                == 0
            ),
            "its end",
        )


def searched(*named: str) -> "set[str]":
    """The kernel names of the devices that are searched."""
    return {os.path.basename(os.path.realpath(path)) for path in disks.searchable(list(named), pools.disks_in_use())}


def name_of(path: str) -> str:
    return os.path.basename(os.path.realpath(path))


class TestSearch:
    def test_the_hosts_own(self, bench: Bench) -> None:
        assert name_of(bench.disk(SIZE)) in searched()

    def test_never_a_zvol(self, zvol_node: str) -> None:
        assert name_of(zvol_node) not in searched()
        assert name_of(zvol_node) not in searched(zvol_node)

    def test_never_what_lies_on_a_zvol(self, zvol_node: str) -> None:
        with attached_loop(zvol_node) as loop:
            assert name_of(loop) not in searched() | searched(loop)
        with mapped(zvol_node, "mpath-test") as device:
            assert name_of(device) not in searched() | searched(device)

    def test_loop_devices_only_by_name(self, bench: Bench) -> None:
        loop = partitioned(bench, "size=64M")
        assert not {name_of(loop), name_of(loop + "p1")} & searched()
        assert {name_of(loop), name_of(loop + "p1")} <= searched(loop)

    @pytest.mark.parametrize("uuid", ["LVM-abc", "CRYPT-LUKS2-x", ""])
    def test_logical_volumes_only_by_name(self, bench: Bench, uuid: str) -> None:
        with mapped(bench.disk(SIZE), uuid) as device:
            assert name_of(device) not in searched()
            assert name_of(device) in searched(device)

    def test_a_path_of_a_multipath_device_is_searched_through_that(self, bench: Bench) -> None:
        path = bench.disk(SIZE)
        with mapped(path, "mpath-whole") as device:
            assert name_of(device) in searched()
            assert name_of(path) not in searched()

    def test_what_is_not_there(self) -> None:
        assert searched("/dev/zfsvol-gone") == searched()

    def test_pools_of_guests_are_not_seen(self, bench: Bench, zvol_node: str) -> None:
        """They are not, even if device-config names the zvol."""
        bench.write_pool(zvol_node, "guestpool", new_uuid())
        for configuration in ({}, {"device": zvol_node}, {"zpool": "guestpool"}):
            assert call_inside("SR.probe", configuration=configuration) == []
        assert run("zpool", "list", "-H", "-o", "name").split() == ["tank"]


class TestInUse:
    """Devices in use are refused even with force-create."""

    def refused(self, path: str, *words: str, code: str = IN_USE) -> None:
        for force in ("false", "true"):
            error = refused(path, **{"force-create": force})
            assert error.code == code
            for word in words:
                assert word in error.sentence

    def test_a_zvol(self, zvol_node: str) -> None:
        self.refused(zvol_node, "zvol", code=INVALID_DEVICE)

    def test_on_a_zvol(self, zvol_node: str) -> None:
        with attached_loop(zvol_node) as loop:
            self.refused(loop, "zvol", code=INVALID_DEVICE)
        with mapped(zvol_node) as device:
            self.refused(device, "zvol", code=INVALID_DEVICE)

    @pytest.mark.parametrize("part", ["", "p1"])
    def test_open_and_not_exclusively(self, bench: Bench, part: str) -> None:
        """A VM's tapdisk opens it so."""
        loop = partitioned(bench, "size=64M")
        sleeper = subprocess.Popen(["sleep", "600"], stdin=os.open(loop + part, os.O_RDWR))
        try:
            self.refused(loop, f"sleep ({sleeper.pid})")
        finally:
            sleeper.kill()
            sleeper.wait()

    def test_below_a_loop_device(self, bench: Bench) -> None:
        disk = bench.disk(SIZE)
        with attached_loop(disk) as loop:
            self.refused(disk, name_of(loop))

    def test_below_device_mapper(self, bench: Bench) -> None:
        disk = bench.faulty_disk(SIZE)
        self.refused(disk.loop, name_of(disk.path))

    def test_served_by_blkback(self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        disk = bench.disk(SIZE)
        number = os.stat(disk).st_rdev
        (tmp_path / "vbd-17-51712").mkdir()
        (tmp_path / "vbd-17-51712" / "physical_device").write_text(f"{os.major(number):x}:{os.minor(number):x}\n")
        monkeypatch.setattr(blockdevice, "BACKENDS", str(tmp_path))
        self.refused(disk, "domain id 17")

    def test_swap(self, bench: Bench) -> None:
        disk = bench.disk(SIZE)
        run("mkswap", disk)
        run("swapon", disk)
        try:
            self.refused(disk, "swap")
        finally:
            run("swapoff", disk)

    @pytest.mark.parametrize("place", ["with blanks # and 'quotes'", "caf\u00e9", os.fsdecode(b"\xff\xfe")])
    def test_mounted_where_any_bytes_are(self, bench: Bench, tmp_path: Path, place: str) -> None:
        disk = bench.disk(SIZE)
        run("mkfs.ext4", "-q", disk)
        where = tmp_path / place
        where.mkdir()
        run("mount", disk, str(where))
        try:
            self.refused(disk, "mounted")
        finally:
            run("umount", str(where))


class TestEmpty:
    """Devices not known to be empty are refused without force-create."""

    def refused(self, path: str, *words: str) -> None:
        error = refused(path)
        assert error.code == IN_USE
        for word in ("force-create", *words):
            assert word in error.sentence

    def test_nothing(self, bench: Bench) -> None:
        disks.require_empty(bench.disk(SIZE))

    def test_ext4_over_an_old_pool(self, bench: Bench) -> None:
        """blkid finds both and reports neither."""
        disk = bench.disk(SIZE)
        run("zpool", "create", "-o", "cachefile=none", "-m", "none", "old", disk)
        for number in range(30):
            run("zfs", "set", f"a:b={number}", "old")
        run("zpool", "export", "old")
        run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", disk)
        self.refused(disk)
        call_inside(
            "SR.create",
            uuid=new_uuid(),
            configuration={"device": disk, "force-create": "true", "autotrim": "off"},
            name="n",
            description="",
        )

    def test_partitions_that_the_kernel_has_not_read(self, bench: Bench) -> None:
        disk = bench.disk(SIZE)
        run("sfdisk", "-q", "--label", "gpt", "--no-reread", disk, stdin="size=64M\n")
        assert blockdevice.partitions(disk) == []
        self.refused(disk, "partition table")

    def test_a_partition_table_in_a_partition(self, bench: Bench) -> None:
        loop = partitioned(bench, "size=128M")
        run("sfdisk", "-q", "--label", "dos", "--no-reread", loop + "p1", stdin="size=32M\n")
        self.refused(loop + "p1", "partition table")

    @pytest.mark.parametrize("label", ["gpt", "dos"])
    def test_partitions_with_what_nobody_knows(self, bench: Bench, label: str) -> None:
        loop = partitioned(bench, "size=64M", label=label)
        with open(loop + "p1", "r+b") as file:
            file.write(os.urandom(9_000_000))
        self.refused(loop, "partition table", loop + "p1")

    def test_a_partition_that_holds_something(self, bench: Bench) -> None:
        loop = partitioned(bench, "size=64M", "size=64M")
        run("mkfs.ext4", "-q", "-L", "precious", loop + "p2")
        self.refused(loop, f"{loop}p2 holds ext4 (precious)")

    def test_an_empty_partition(self, bench: Bench) -> None:
        loop = partitioned(bench, "size=128M")
        disks.require_free(loop + "p1")
        disks.require_empty(loop + "p1")

    def test_an_exported_pool(self, bench: Bench) -> None:
        disk = bench.disk(SIZE)
        run("zpool", "create", "-o", "cachefile=none", "-m", "none", "theirs", disk)
        run("zpool", "export", "theirs")
        self.refused(disk, "the pool theirs")

    def test_what_a_destroyed_pool_has_left(self, bench: Bench) -> None:
        disk = bench.disk(SIZE)
        run("zpool", "create", "-o", "cachefile=none", "-m", "none", "theirs", disk)
        run("zpool", "destroy", "theirs")
        disks.require_empty(disk)

    def test_what_a_destroyed_pool_has_left_of_a_whole_disk(self, bench: Bench) -> None:
        """The disk has zpool's own partitions."""
        zfs = "type=6A898CC3-1DD2-11B2-99A6-080020736631"
        loop = partitioned(bench, f"size=200M, {zfs}", "size=8M, type=6A945A3B-1DD2-11B2-99A6-080020736631")
        run("zpool", "create", "-o", "cachefile=none", "-m", "none", "theirs", loop + "p1")
        self.exported_and_destroyed(loop)
        # One more partition is not zpool's.
        run("sfdisk", "-q", "--append", "--no-reread", "--force", loop, stdin="size=10M\n")
        run("partx", "--update", loop)
        self.refused(settled(loop), "partition table")

    def exported_and_destroyed(self, loop: str) -> None:
        run("zpool", "export", "theirs")
        self.refused(settled(loop), "the pool theirs")
        run("zpool", "import", "-d", loop + "p1", "theirs")
        run("zpool", "destroy", "theirs")
        disks.require_empty(loop)

    def test_a_layout_that_zpool_refuses_writes_nothing(self, bench: Bench) -> None:
        """zpool would have partitioned the disks before it refuses."""
        small, large = Disk(bench.loop(SIZE)), bench.disk(2 * SIZE)
        bench.there.append(small)
        before = edges(large)
        with pytest.raises(VerbError, match="mirror contains devices of different sizes"):
            call_inside(
                "SR.create",
                uuid=new_uuid(),
                configuration={"vdev": f"mirror {small.path} {large}"},
                name="n",
                description="",
            )
        assert edges(large) == before
