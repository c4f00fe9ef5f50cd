# SPDX-License-Identifier: LGPL-2.1-only
"""Statistics of SRs on real pools, read as xcp-rrdd reads them, and compared with what was really written and read."""

import gc
import math
import os
from pathlib import Path
import subprocess
import sys
import time
from typing import Iterator

import pytest

from tests import blktap, zvol
from tests.client import call_inside as call
from tests.rrdd import Daemon, NoUpdate, Number
from tests.service import Service
from tests.zfs.conftest import GIB, MIB, Bench, run, state_of, wait_until
from tests.zfs.disk import DOM0, GUEST, nbd_write, new_disk
from tests.zfs.test_health import tune, write_some
from zfsvol.host.blockdevice import stable_name
from zfsvol.repository import journal
from zfsvol.repository.sr import SR
from zfsvol.service import sources
from zfsvol.service.follower import Follower
from zfsvol.service.messages import Sender
from zfsvol.service.metrics import DIRECTORY
from zfsvol.service.sight import Looker
from zfsvol.service.statistics import Statistics

NEAR = 0.05  # relative
STEPS = int(os.environ.get("ZFSVOL_STEPS", "40"))


class Clock:
    """Publishes into a directory of its own, five seconds after the last time, whenever it is asked to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()  # as the daemon does
        self.now = 1000.0
        self.followed: "list[Follower]" = []
        self.statistics = Statistics(str(directory))
        self.daemon = Daemon(directory)

    def follow(self, *datasets: str) -> None:
        """Follows these SRs from now on, without a thread."""
        self.followed = [Follower(SR(dataset), "", Sender()) for dataset in datasets]
        self.look()

    def look(self) -> None:
        """Has the followers look."""
        for follower in self.followed:
            follower.sight = Looker(follower.sr).look()

    def tick(self, seconds: float = 5) -> "dict[tuple[str, str], Number]":
        """What is published after so many seconds."""
        self.now += seconds
        self.statistics.update(self.now, self.followed)
        return self.daemon.read()


@pytest.fixture
def clock(tmp_path: Path) -> "Iterator[Clock]":
    made = Clock(tmp_path / "metrics")
    yield made
    made.statistics.close()
    assert list(made.directory.iterdir()) == []


def of_sr(numbers: "dict[tuple[str, str], Number]", sr: str) -> "dict[str, float]":
    """The values of one SR's data sources by name."""
    owner = f"sr {SR(sr).uuid}"
    return {name: number.value for (one, name), number in numbers.items() if one == owner}


def write(node: str, mebibytes: int, *, at: int = 0) -> None:
    """Writes random data, not through the host's cache."""
    argv = ["dd", "if=/dev/urandom", f"of={node}", "bs=1M", f"count={mebibytes}", f"seek={at}", "oflag=direct"]
    run(*argv, "iflag=fullblock", "status=none")


def read(node: str, mebibytes: int) -> None:
    run("dd", f"if={node}", "of=/dev/null", "bs=64k", f"count={mebibytes * 16}", "iflag=direct", "status=none")


def quiet(values: "dict[str, float]") -> bool:
    names = ("read_bytes", "write_bytes", "read_requests", "write_requests")
    return [values[name] for name in names] == [0, 0, 0, 0]


class TestTraffic:
    def test_what_dd_writes_and_reads(self, bench: Bench, clock: Clock) -> None:
        sr = bench.sr()
        disk = new_disk(sr)
        node = disk.use(DOM0)["BlockDevice"]["path"]
        clock.follow(sr)
        values = of_sr(clock.tick(), sr)
        assert math.isnan(values["read_bytes"])
        assert math.isnan(values["write_requests"])
        assert quiet(of_sr(clock.tick(), sr))
        write(node, 20)
        values = of_sr(clock.tick(), sr)
        assert values["write_bytes"] == pytest.approx(20 * MIB / 5, rel=NEAR)
        assert values["write_requests"] == pytest.approx(20 / 5, rel=NEAR)
        assert values["write_latency"] >= 0
        read(node, 10)
        values = of_sr(clock.tick(10), sr)
        assert values["read_bytes"] == pytest.approx(10 * MIB / 10, rel=NEAR)
        assert values["read_requests"] == pytest.approx(160 / 10, rel=NEAR)
        assert values["write_bytes"] == 0
        assert quiet(of_sr(clock.tick(), sr))
        disk.drop(DOM0)

    def test_against_zpool_iostat(self, bench: Bench, clock: Clock) -> None:
        sr = bench.sr(compression="off")
        disk = new_disk(sr, GIB)
        node = disk.use(DOM0)["BlockDevice"]["path"]
        clock.follow(sr)
        clock.tick()
        seconds = 15  # enough for all of it to reach the pool's disk
        iostat = subprocess.Popen(["zpool", "iostat", "-Hpy", sr, str(seconds), "1"], stdout=subprocess.PIPE)
        time.sleep(1)
        write(node, 100)
        run("zpool", "sync", sr)
        fields = iostat.communicate(timeout=60)[0].decode().split()
        assert fields[0] == sr
        values = of_sr(clock.tick(seconds), sr)
        assert values["write_bytes"] == pytest.approx(int(fields[6]), rel=NEAR)
        disk.drop(DOM0)

    def test_several_disks_whatever_serves_them(self, bench: Bench, clock: Clock) -> None:
        sr = bench.sr()
        node_disk, tapdisk_disk, idle = (new_disk(sr) for _ in range(3))
        node = node_disk.use(DOM0)["BlockDevice"]["path"]
        given = tapdisk_disk.use(GUEST)
        clock.follow(sr)
        clock.tick()
        write(node, 8)
        for place in range(4):
            nbd_write(given, place * MIB, os.urandom(MIB))
        values = of_sr(clock.tick(), sr)
        assert values["write_bytes"] == pytest.approx(12 * MIB / 5, rel=NEAR)
        assert values["disks"] == 3
        tapdisk_disk.drop(GUEST)
        node_disk.drop(DOM0)
        assert idle.key not in os.listdir(SR(sr).directory)

    def test_only_the_srs_own_disks(self, bench: Bench, clock: Clock) -> None:
        """In a pool with a file system and a zvol of somebody else, and a second SR."""
        pool = bench.pool()
        run("zfs", "create", "-o", f"mountpoint={bench.directory}/fs", f"{pool}/fs")
        run("zfs", "create", "-s", "-V", "64M", "-o", "volmode=dev", f"{pool}/other")
        mine, neighbour = bench.sr(zpool=pool), bench.sr(zpool=pool)
        disks = [new_disk(mine), new_disk(neighbour)]
        nodes = [disk.use(DOM0)["BlockDevice"]["path"] for disk in disks]
        clock.follow(mine, neighbour)
        clock.tick()
        write(nodes[0], 6)
        write(nodes[1], 3)
        write(zvol.node(f"{pool}/other"), 20)
        (bench.directory / "fs" / "file").write_bytes(os.urandom(20 * MIB))
        run("zpool", "sync", pool)
        numbers = clock.tick()
        assert of_sr(numbers, mine)["write_bytes"] == pytest.approx(6 * MIB / 5, rel=NEAR)
        assert of_sr(numbers, neighbour)["write_bytes"] == pytest.approx(3 * MIB / 5, rel=NEAR)
        for disk in disks:
            disk.drop(DOM0)

    def test_disks_come_and_go(self, bench: Bench, clock: Clock) -> None:
        """What a disk did before it is seen, or under an earlier attachment, does not count."""
        sr = bench.sr()
        steady, other = new_disk(sr), new_disk(sr)
        node = steady.use(DOM0)["BlockDevice"]["path"]
        clock.follow(sr)
        clock.tick()
        for turn in range(3):
            there = other.use(DOM0)["BlockDevice"]["path"]
            write(there, 10)
            assert quiet(of_sr(clock.tick(), sr)), turn
            write(there, 2)
            write(node, 1)
            assert of_sr(clock.tick(), sr)["write_bytes"] == pytest.approx(3 * MIB / 5, rel=NEAR)
            other.drop(DOM0)
            assert quiet(of_sr(clock.tick(), sr))
        # Gone and back between two readings, with higher counters than before.
        there = other.use(DOM0)["BlockDevice"]["path"]
        clock.tick()
        other.drop(DOM0)
        write(other.use(DOM0)["BlockDevice"]["path"], 10)
        assert quiet(of_sr(clock.tick(), sr))
        other.drop(DOM0)
        steady.drop(DOM0)

    def test_export_and_import(self, bench: Bench, clock: Clock) -> None:
        sr = bench.sr()
        disk = new_disk(sr)
        write(disk.use(DOM0)["BlockDevice"]["path"], 20)
        clock.follow(sr)
        clock.tick()
        write(str(disk.record.node), 5)
        disk.drop(DOM0)
        call("SR.detach", sr=sr)
        call("SR.attach", configuration={"sr_uuid": sr[3:]})
        node = disk.use(DOM0)["BlockDevice"]["path"]
        read(node, 30)
        values = of_sr(clock.tick(), sr)
        assert quiet(values)
        write(node, 1)
        assert of_sr(clock.tick(), sr)["write_bytes"] == pytest.approx(MIB / 5, rel=NEAR)
        disk.drop(DOM0)


class TestState:
    def test_space_and_disks(self, bench: Bench, clock: Clock) -> None:
        sr = bench.sr()
        first, _ = new_disk(sr, 100 * MIB), new_disk(sr, 200 * MIB)
        node = first.use(DOM0)["BlockDevice"]["path"]
        with open(node, "wb") as file:
            file.write((os.urandom(4096) + bytes(12288)) * 640)  # three quarters zeros
            os.fsync(file.fileno())
        first.drop(DOM0)
        run("zpool", "sync", sr)
        clock.follow(sr)
        values = of_sr(clock.tick(), sr)
        told = dict(
            line.split("\t")[1:3] for line in run("zfs", "get", "-Hp", "used,available,compressratio", sr).splitlines()
        )
        assert values["used"] == pytest.approx(int(told["used"]), rel=NEAR)
        assert values["available"] == pytest.approx(int(told["available"]), rel=NEAR)
        assert values["compression_ratio"] == pytest.approx(float(told["compressratio"]), abs=0.02)
        assert values["compression_ratio"] > 1.5
        taken = int(run("zfs", "get", "-Hp", "-o", "value", "referenced", first.record.zvol))
        assert values["disks"] == 2
        assert values["promised"] == pytest.approx(300 * MIB - taken, rel=NEAR)
        full = values["used"] + values["promised"]
        assert values["promised_ratio"] == pytest.approx(full / (values["used"] + values["available"]))
        assert 0 <= values["pool_fragmentation"] <= 1
        assert math.isnan(values["pool_scrub_progress"])
        assert math.isnan(values["pool_resilver_progress"])
        assert [values[f"pool_{kind}_errors"] for kind in ("read", "write", "checksum", "data")] == [0] * 4

    def test_scrub(self, bench: Bench, clock: Clock) -> None:
        sr = bench.sr()
        write_some(sr)
        try:
            tune("zfs_scan_suspend_progress", "1")
            run("zpool", "scrub", sr)
            clock.follow(sr)
            values = of_sr(clock.tick(), sr)
            assert 0 <= values["pool_scrub_progress"] <= 1
            assert math.isnan(values["pool_resilver_progress"])
        finally:
            tune("zfs_scan_suspend_progress", "0")
        run("zpool", "wait", "-t", "scrub", sr)
        clock.look()
        assert math.isnan(of_sr(clock.tick(), sr)["pool_scrub_progress"])

    def test_resilver(self, bench: Bench, clock: Clock) -> None:
        """Of a slow disk: the progress is published at each look, and grows."""
        sr = bench.sr()
        write_some(sr)
        new = bench.faulty_disk()
        try:
            tune("zfs_scan_suspend_progress", "1")
            run("zpool", "attach", sr, stable_name(bench.there[0].path), new.path)
            new.be_slow(50)
        finally:
            tune("zfs_scan_suspend_progress", "0")
        clock.follow(sr)
        seen = [0.0]
        while not math.isnan(seen[-1]):
            clock.look()
            values = of_sr(clock.tick(), sr)
            assert math.isnan(values["pool_scrub_progress"])
            seen.append(values["pool_resilver_progress"])
            time.sleep(0.3)
        assert seen[:-1] == sorted(seen[:-1])
        assert any(0.1 < value < 0.99 for value in seen)
        assert seen[-2] <= 1

    def test_errors_of_a_disk(self, bench: Bench, clock: Clock) -> None:
        good, bad = bench.faulty_disk(), bench.faulty_disk()
        sr = bench.sr(vdev=f"mirror {good.path} {bad.path}")
        write_some(sr)
        bad.fail()
        run("zpool", "scrub", "-w", sr)
        clock.follow(sr)
        values = of_sr(clock.tick(), sr)
        assert values["pool_read_errors"] + values["pool_write_errors"] > 0
        assert values["pool_data_errors"] == 0

    def test_arc(self, bench: Bench, clock: Clock) -> None:
        sr = bench.sr()
        disk = new_disk(sr)
        node = disk.use(DOM0)["BlockDevice"]["path"]
        write(node, 10)
        clock.follow(sr)
        numbers = clock.tick()
        assert 0 < numbers["host", "zfs_arc_size"].value < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for _ in range(3):
            read(node, 10)
        numbers = clock.tick()
        assert 0.9 < numbers["host", "zfs_arc_hit_ratio"].value <= 1
        disk.drop(DOM0)


class TestSick:
    def test_suspended(self, bench: Bench, clock: Clock) -> None:
        sr = bench.sr()
        disk = new_disk(sr)
        disk.use(DOM0)
        clock.follow(sr)
        assert not math.isnan(of_sr(clock.tick(), sr)["used"])
        clock.tick()
        bench.there[0].fail()
        waiting = subprocess.Popen(["zfs", "set", "foo:bar=1", sr])  # until the disk is back
        wait_until(lambda: state_of(sr) == "SUSPENDED", "the pool's suspension")
        for _ in range(2):  # as the follower has seen it, and after its next look
            values = of_sr(clock.tick(), sr)
            assert math.isnan(values["used"])
            assert quiet(values)
            clock.look()
        assert values["pool_read_errors"] + values["pool_write_errors"] + values["pool_checksum_errors"] > 0
        bench.there[0].mend()
        run("zpool", "clear", sr)
        waiting.wait(60)
        clock.look()
        assert not math.isnan(of_sr(clock.tick(), sr)["used"])
        disk.drop(DOM0)

    def test_missing(self, bench: Bench, clock: Clock) -> None:
        """The pool was exported behind the driver's back."""
        sr = bench.sr()
        new_disk(sr)
        clock.follow(sr)
        clock.tick()
        run("zpool", "export", sr)
        for _ in range(2):
            values = of_sr(clock.tick(), sr)
            assert all(math.isnan(values[name]) for name in ("used", "read_bytes", "inflight", "disks"))
            clock.look()
        call("SR.attach", configuration={"sr_uuid": sr[3:]})
        clock.look()
        assert of_sr(clock.tick(), sr)["disks"] == 1


# What rrdp-iostat makes of the disks that tapdisks serve (contract 6.4b and its source): type, units, kind of value.
RRDP_IOSTAT = {
    "read": ("derive", "B/s", "int64"),
    "write": ("derive", "B/s", "int64"),
    "read_latency": ("gauge", "μs", "int64"),
    "write_latency": ("gauge", "μs", "int64"),
    "io_throughput_read": ("absolute", "MiB/s", "float"),
    "io_throughput_write": ("absolute", "MiB/s", "float"),
    "io_throughput_total": ("absolute", "MiB/s", "float"),
    "iops_read": ("absolute", "requests/s", "int64"),
    "iops_write": ("absolute", "requests/s", "int64"),
    "iops_total": ("absolute", "requests/s", "int64"),
    "iowait": ("absolute", "s/s", "float"),
    "inflight": ("gauge", "requests", "int64"),
    "latency": ("gauge", "μs", "float"),
    "avgqu_sz": ("gauge", "requests", "float"),
}


def of_iostat(numbers: "dict[tuple[str, str], Number]", owner: str, name: str) -> "dict[str, float]":
    """The values of the owner's data sources of this kind; `name` has a {} in place of what is measured."""
    before, after = name.split("{}")
    found = {}
    for (one, whole), number in numbers.items():
        if one == owner and whole.startswith(before) and whole.endswith(after):
            kind = whole[len(before) : len(whole) - len(after)]
            assert (number.kind, number.units, number.value_type) == RRDP_IOSTAT[kind]
            assert number.is_default
            found[kind] = number.value
    return found


def store(vm: str, domid: str, **devices: str) -> "dict[str, str]":
    """What the toolstack writes into xenstore of a running VM; `devices`: the path that blkback got, by name."""
    values = {f"/local/domain/{domid}/vm": f"/vm/{vm}"}
    for number, (name, path) in enumerate(devices.items()):
        backend = f"/local/domain/0/backend/vbd/{domid}/{51712 + 16 * number}"
        values.update({f"{backend}/params": path, f"{backend}/dev": name})
    return values


VM = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"


@pytest.mark.skipif(blktap.GENUINE, reason="the genuine xenstore has other domains")
class TestBlkback:
    def test_what_orchestra_draws(self, bench: Bench, clock: Clock) -> None:
        sr = bench.sr(datapath="blkback")
        first, second = new_disk(sr), new_disk(sr)
        clock.follow(sr)
        clock.tick()
        name = f"{{}}_{sr[3:11]}"
        assert of_iostat(clock.tick(), "host", name) == {}
        nodes = [disk.use(GUEST)["BlockDevice"]["path"] for disk in (first, second)]
        clock.tick()
        write(nodes[0], 6)
        write(nodes[1], 4)
        values = of_iostat(clock.tick(10), "host", name)
        # Sums, which the daemon divides.
        assert values["io_throughput_write"] == values["io_throughput_total"] == pytest.approx(10, rel=NEAR)
        assert (values["iops_read"], values["iops_write"], values["iops_total"]) == (0, 10, 10)
        assert values["io_throughput_read"] == 0
        read(nodes[0], 5)
        values = of_iostat(clock.tick(), "host", name)
        assert values["io_throughput_read"] == pytest.approx(5, rel=NEAR)
        assert values["iops_read"] == pytest.approx(80, rel=NEAR)
        assert {*values, "read", "write"} == set(RRDP_IOSTAT)
        first.drop(GUEST)
        second.drop(GUEST)
        assert of_iostat(clock.tick(), "host", name) == {}

    def test_tapdisk_has_rrdp_iostat(self, bench: Bench, clock: Clock) -> None:
        sr = bench.sr()
        by_tapdisk, by_blkback = new_disk(sr), new_disk(sr)
        run("zfs", "set", "zfsvol:sr-datapath=blkback", by_blkback.zvol)
        clock.follow(sr)
        clock.tick()
        name = f"{{}}_{sr[3:11]}"
        by_tapdisk.use(GUEST)
        assert of_iostat(clock.tick(), "host", name) == {}
        by_blkback.use(GUEST)
        assert of_iostat(clock.tick(), "host", name) == {}
        by_tapdisk.drop(GUEST)
        assert set(of_iostat(clock.tick(), "host", name)) == set(RRDP_IOSTAT) - {"read", "write"}
        by_tapdisk.use(DOM0)
        assert of_iostat(clock.tick(), "host", name) != {}
        by_blkback.drop(GUEST)
        assert of_iostat(clock.tick(), "host", name) == {}
        by_tapdisk.drop(DOM0)

    def test_disks_of_vms(self, bench: Bench, clock: Clock) -> None:
        sr = bench.sr(datapath="blkback")
        first, second = new_disk(sr), new_disk(sr)
        clock.follow(sr)
        clock.tick()
        given = [disk.use(GUEST)["BlockDevice"]["path"] for disk in (first, second)]
        with blktap.domains(GUEST), blktap.xenstore(store(VM, GUEST, xvda=given[0], xvdb=given[1])):
            owner = f"vm {VM}"
            wait_until(lambda: of_iostat(clock.tick(), owner, "vbd_xvda_{}"), "the VM's name")
            before = of_iostat(clock.tick(), owner, "vbd_xvda_{}")
            reads = blktap.xenstore_reads()
            write(given[0], 7)
            write(given[1], 3)
            numbers = clock.tick()
            values = of_iostat(numbers, owner, "vbd_xvda_{}")
            assert set(values) == set(RRDP_IOSTAT)
            assert values["write"] - before["write"] == pytest.approx(7 * MIB, rel=NEAR)
            assert values["io_throughput_write"] == pytest.approx(7, rel=NEAR)
            assert of_iostat(numbers, owner, "vbd_xvdb_{}")["io_throughput_write"] == pytest.approx(3, rel=NEAR)
            # The sums go on where they were if the service is started again, and while other disks come and go.
            again = Clock(bench.directory / "again")
            again.followed = clock.followed
            again.tick()
            wait_until(lambda: of_iostat(again.tick(), owner, "vbd_xvda_{}"), "the VM's name")
            assert of_iostat(again.tick(), owner, "vbd_xvda_{}")["write"] == values["write"]
            again.statistics.close()
            second.drop(GUEST)
            numbers = clock.tick()
            assert of_iostat(numbers, owner, "vbd_xvda_{}")["write"] == values["write"]
            assert of_iostat(numbers, owner, "vbd_xvdb_{}") == {}
            # Nothing is asked twice: again only after the second start.
            assert blktap.xenstore_reads() == 2 * reads
        first.drop(GUEST)

    def test_toolstack_is_late(self, bench: Bench, clock: Clock) -> None:
        """The disk is activated before its backend is in xenstore."""
        sr = bench.sr(datapath="blkback")
        disk = new_disk(sr)
        node = disk.use(GUEST)["BlockDevice"]["path"]
        clock.follow(sr)
        for _ in range(5):
            assert not [owner for owner, _ in clock.tick() if owner.startswith("vm ")]
            time.sleep(0.1)
        migrating = VM[:-12] + "000000000001"
        values = {**store(migrating, GUEST, xvda=node), f"/vm/{migrating}/final-uuid": VM}
        with blktap.domains(GUEST), blktap.xenstore(values):
            wait_until(lambda: of_iostat(clock.tick(), f"vm {VM}", "vbd_xvda_{}"), "the VM's name")
        disk.drop(GUEST)


class TestFile:
    def test_changes_with_the_srs(self, bench: Bench, clock: Clock) -> None:
        assert clock.tick() == {}
        first, second = bench.sr(), bench.sr()
        clock.follow(first)
        assert set(of_sr(clock.tick(), first)) == {template.name for template in sources.SR}
        (name,) = os.listdir(str(clock.directory))
        clock.tick()
        assert os.listdir(str(clock.directory)) == [name]
        clock.follow(first, second)
        numbers = clock.tick()
        assert of_sr(numbers, first)["disks"] == of_sr(numbers, second)["disks"] == 0
        assert os.listdir(str(clock.directory)) != [name]
        clock.follow(second)
        assert of_sr(clock.tick(), first) == {}
        clock.follow()
        assert clock.tick() == {}
        assert os.listdir(str(clock.directory)) == []

    def test_of_the_service(self, bench: Bench, tmp_path: Path) -> None:
        """It follows, ends, is killed and starts again."""
        sr = bench.sr()
        running, daemon = Service(tmp_path), Daemon(Path(DIRECTORY))
        wait_until(lambda: of_sr(fresh(daemon), sr), "the statistics")
        running.stop()
        assert mine() == []
        running = Service(tmp_path)
        wait_until(lambda: of_sr(fresh(daemon), sr), "the statistics")
        left = mine()
        running.kill()
        assert mine() == left
        running = Service(tmp_path)
        # At no time two files, nor the old one with the new process.
        wait_until(lambda: mine() != left, "the old file to go")
        wait_until(lambda: of_sr(fresh(daemon), sr), "the statistics")
        (name,) = mine()
        assert f"-{running.process.pid}-" in name
        running.close()


def mine() -> "list[str]":
    return sorted(name for name in os.listdir(DIRECTORY) if name.startswith("zfs-vol-"))


def fresh(daemon: Daemon) -> "dict[tuple[str, str], Number]":
    """What there is to read; nothing if there is nothing new."""
    try:
        return daemon.read()
    except (NoUpdate, FileNotFoundError):
        return {}


class TestSpace:
    def test_a_disk_that_grows_is_looked_at(self, bench: Bench, clock: Clock) -> None:
        """An SR that fills up is noticed within seconds, not at the next look of the minute."""
        sr = bench.sr()
        disk = new_disk(sr)
        node = disk.use(DOM0)["BlockDevice"]["path"]
        clock.follow(sr)
        (follower,) = clock.followed
        follower._due = 1e9
        clock.tick()
        write(node, 5)
        clock.tick()
        assert follower._due == 1e9
        write(node, 5, at=5)
        clock.tick()
        assert follower._due == 0
        disk.drop(DOM0)

    def test_what_the_pool_has_not_counted_yet(
        self, bench: Bench, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A look right after a write may be too early, so that more follow."""
        monkeypatch.setattr(journal, "DIRECTORY", str(tmp_path / "journal"))
        sr = bench.sr()
        disk = new_disk(sr)
        node = disk.use(DOM0)["BlockDevice"]["path"]
        clock.follow(sr)
        (follower,) = clock.followed
        clock.tick()
        write(node, 20)
        looks = 0
        for _ in range(6):
            follower._due = 1e9
            clock.tick()
            if follower._due == 0:
                looks += 1
                follower._look()
        assert looks == 3
        disk.drop(DOM0)


def test_memory(bench: Bench, clock: Clock) -> None:
    """It does not grow with time. tests/unit has a hundred times as many updates, without ZFS."""
    sr = bench.sr()
    disk = new_disk(sr)
    disk.use(DOM0)
    clock.follow(sr)

    def taken(ticks: int) -> int:
        """The size of all containers. What is kept is in one of them; Python's own stores of free objects are not."""
        for _ in range(ticks):
            clock.tick()
        gc.collect()
        return sum(map(sys.getsizeof, gc.get_objects()))

    before = taken(50)
    assert taken(STEPS * 17) - before < 4000
    disk.drop(DOM0)
