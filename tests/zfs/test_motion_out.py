# SPDX-License-Identifier: LGPL-2.1-only
"""Storage motion out of an SR, as xapi does it: disks that are written meanwhile are the same at the other end."""

import os
from pathlib import Path
import random
import threading
import time
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from tests import blktap
from tests.client import call_inside as call
from tests.model import noise
from tests.motion import BESIDE, HALTED, MIRROR, Migration
from tests.zfs.conftest import MIB, Bench, device_node, run, wait_until
from tests.zfs.disk import (
    FAILED,
    GUEST,
    IN_USE,
    INVALID,
    OTHER_GUEST,
    SR_IN_USE,
    Disk,
    nbd_read,
    nbd_write,
    new_disk,
    refused,
)
from zfsvol import naming
from zfsvol.repository import family, repair
from zfsvol.repository.sr import SR
from zfsvol.service.upkeep import Upkeep

SIZE = 16 * MIB
BLOCK = 16 << 10

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def two_srs(tmp_path_factory: "pytest.TempPathFactory") -> "Iterator[Tuple[str, str]]":
    """The SRs that disks move between."""
    made = Bench(tmp_path_factory.mktemp("srs"))
    yield made.sr(), made.sr(volblocksize="65536")
    made.close()


class Writer:
    """A VM that writes its disk, and what the disk then holds. `interval`: seconds between two writes."""

    interval = 0.01

    def __init__(self, disk: Disk, given: "Dict[str, Any]", seed: int = 1, size: int = SIZE) -> None:
        self.content = bytearray(size)
        self.connect(given)
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def connect(self, given: "Dict[str, Any]") -> None:
        self._connection = blktap.connect(given["Nbd"]["uri"])

    def write(self, offset: int, data: bytes) -> None:
        self._connection.write(offset, data)
        self.content[offset : offset + len(data)] = data

    def step(self) -> None:
        """Writes something somewhere: sectors, blocks, zeroes."""
        length = self._random.choice([512, 4096, BLOCK, 5 * BLOCK])
        offset = self._random.randrange(0, (len(self.content) - length) // 512) * 512
        zero = self._random.random() < 0.3
        self.write(offset, bytes(length) if zero else noise(self._random.randrange(1 << 30), length))

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            self.step()

    def start(self) -> None:
        self._thread.start()

    def pause(self) -> None:
        """As xapi does before it deactivates the disk."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.close()

    def close(self) -> None:
        """The VM does not use the disk any more."""
        self._connection.close()


@pytest.fixture
def live(two_srs: "Tuple[str, str]", tmp_path: Path) -> "Tuple[Migration, Writer]":
    """A disk with something on it that a VM uses, before its migration."""
    source, destination = new_disk(two_srs[0], SIZE), new_disk(two_srs[1], SIZE)
    writer = Writer(source, source.use(GUEST))
    for _ in range(40):
        writer.step()
    return Migration(source, destination, tmp_path, GUEST), writer


def content(disk: Disk) -> bytes:
    with device_node(disk.zvol) as node:
        return Path(node).read_bytes()


def snapshots(sr: str) -> "List[str]":
    return run("zfs", "list", "-H", "-o", "name", "-t", "snapshot", "-r", sr).splitlines()


def require_nothing(migration: Migration) -> None:
    """Nothing of the migration is left in the source's SR but the disk."""
    wait_until(lambda: not migration.is_running(), "the job's end")
    assert snapshots(migration.source.sr) == []


def require_whole(migration: Migration, writer: Writer) -> None:
    """The VM still has its disk, with all that it has written."""
    writer.step()
    writer.close()
    migration.source.drop(GUEST)
    assert content(migration.source) == writer.content
    migration.source.volume("destroy")
    require_nothing(migration)


class TestALiveDisk:
    def test_it_moves(self, live: "Tuple[Migration, Writer]") -> None:
        migration, writer = live
        source, destination = migration.source, migration.destination
        writer.start()
        migration.start()
        assert migration.wait() == {"failed": False, "complete": True, "progress": 1.0}
        migration.leave()
        assert migration.is_running()
        assert migration.stat()["complete"]
        writer.pause()
        migration.finish()
        require_nothing(migration)
        destination.drop(OTHER_GUEST)
        assert content(destination) == writer.content
        assert source.key not in run("zfs", "list", "-H", "-o", "name", "-r", source.sr)

    def test_it_is_copied(self, live: "Tuple[Migration, Writer]") -> None:
        """The source stays, and is what it was."""
        migration, writer = live
        writer.start()
        migration.start()
        assert migration.wait()["complete"]
        migration.leave()
        writer.pause()
        migration.finish(keeps_source=True)
        require_nothing(migration)
        assert content(migration.destination) == content(migration.source) == writer.content

    def test_what_is_done_beside_it(self, live: "Tuple[Migration, Writer]") -> None:
        """Snapshots and clones are made and removed while the disk is copied, and hold what they should."""
        migration, writer = live
        migration.source.derive("snapshot").volume("destroy")
        migration.start()
        snapshot = migration.source.derive("snapshot")
        before = bytes(writer.content)
        writer.step()
        assert migration.wait()["complete"]
        clone = migration.source.derive("clone")
        snapshot.volume("destroy")
        writer.step()
        clone.volume("destroy")
        last = migration.source.derive("snapshot")
        migration.leave()
        writer.close()
        migration.finish()
        assert content(migration.destination) == writer.content != before
        assert content(last) == writer.content
        last.volume("destroy")

    def test_what_is_refused_meanwhile(self, live: "Tuple[Migration, Writer]") -> None:
        migration, writer = live
        source = migration.source
        snapshot = source.derive("snapshot")
        migration.start()
        migration.wait()
        for verb, words in (
            ("destroy", {}),
            ("resize", {"new_size": 2 * SIZE}),
        ):
            with refused(IN_USE) as said:
                source.volume(verb, **words)
            assert "is being copied to another SR (100 % done)" in said[0]
        with refused(IN_USE):
            call("Volume.revert", sr=source.sr, snapshot=snapshot.key, key=source.key)
        with refused(IN_USE):
            migration.start()
        with refused(SR_IN_USE) as said:
            call("SR.detach", sr=source.sr)
        assert "is being copied" in said[0]
        snapshot.volume("destroy")
        migration.cancel()
        wait_until(lambda: migration.stat()["failed"], "the end")
        migration.leave()
        require_whole(migration, writer)

    @pytest.mark.parametrize("asks", [True, False])
    def test_the_vm_reboots(self, live: "Tuple[Migration, Writer]", asks: bool) -> None:
        """What the VM writes after that is not copied, and xapi must learn of it."""
        migration, writer = live
        migration.start()
        assert migration.wait()["complete"]
        writer.close()
        migration.source.verb("deactivate", GUEST)
        migration.source.verb("detach", GUEST)
        assert migration.stat()["complete"]
        migration.source.use(OTHER_GUEST)
        if asks:
            assert migration.stat()["failed"]
        else:
            with refused(FAILED) as said:
                migration.source.verb("deactivate", OTHER_GUEST)
            assert "written again after it was copied" in said[0]
        migration.source.drop(OTHER_GUEST)
        migration.leave()
        migration.destination.drop(MIRROR)

    def test_the_vm_is_shut_down_too_early(self, live: "Tuple[Migration, Writer]") -> None:
        migration, writer = live
        migration.relay.rate = 1e5
        migration.start()
        writer.close()
        migration.source.drop(GUEST)
        assert migration.stat()["failed"]
        assert "before the copy was complete" in migration.state["error"]
        migration.leave()
        require_nothing(migration)
        migration.destination.drop(MIRROR)


class TestADiskOfAHaltedVM:
    def test_it_moves(self, two_srs: "Tuple[str, str]", tmp_path: Path) -> None:
        source, destination = new_disk(two_srs[0], SIZE), new_disk(two_srs[1], SIZE)
        given = source.use(GUEST)
        data = noise(3, 300000 // 512 * 512)
        nbd_write(given, 5 * MIB, data)
        source.drop(GUEST)
        migration = Migration(source, destination, tmp_path, HALTED)
        migration.start()
        assert migration.wait()["complete"]
        assert migration.relay.moved < 2 * MIB
        migration.leave()
        require_nothing(migration)
        source.volume("destroy")
        # xapi leaves the destination attached then. The next who needs it ends that.
        assert list(destination.record.active) == [MIRROR]
        migration.relay.cut()
        given = destination.use(OTHER_GUEST)
        assert nbd_read(given, 5 * MIB, len(data)) == data
        assert list(destination.record.attached) == [OTHER_GUEST]
        destination.drop(OTHER_GUEST)

    def test_a_server_that_cannot_flush(self, two_srs: "Tuple[str, str]", tmp_path: Path) -> None:
        """As a tapdisk. The copy is complete when a ZFS that it is on has written it; xapi destroys the source then."""
        source = new_disk(two_srs[0], SIZE)
        given = source.use(GUEST)
        nbd_write(given, 5 * MIB, b"x" * 512)
        source.drop(GUEST)
        source.attach(BESIDE)
        path = tmp_path / "nbd"
        pwrite = f"pwrite=cat > {tmp_path}/written"
        run("nbdkit", "--unix", str(path), "eval", f"get_size=echo {SIZE}", "pread=exit 1", pwrite)
        operation = call("Data.mirror", uri=source.uri, domain=HALTED, remote=f"nbd+unix:///?socket={path}")
        wait_until(lambda: call("Data.stat", operation=operation)["complete"], "the copy")
        assert time.time() - (tmp_path / "written").stat().st_mtime > 5
        source.drop(BESIDE)
        run("pkill", "nbdkit")
        source.volume("destroy")

    def test_the_destination_is_in_use_until_the_end(self, two_srs: "Tuple[str, str]", tmp_path: Path) -> None:
        source, destination = new_disk(two_srs[0], SIZE), new_disk(two_srs[1], SIZE)
        migration = Migration(source, destination, tmp_path, HALTED)
        migration.start()
        assert migration.wait()["complete"]
        destination.attach(OTHER_GUEST)
        with refused(IN_USE):
            destination.verb("activate", OTHER_GUEST)
        with refused(IN_USE):
            destination.volume("destroy")
        migration.leave()
        migration.relay.cut()
        source.volume("destroy")
        destination.verb("detach", OTHER_GUEST)
        destination.volume("destroy")

    @pytest.mark.parametrize("has_run", [False, True])
    def test_xapi_cancels_it_later(self, two_srs: "Tuple[str, str]", tmp_path: Path, has_run: bool) -> None:
        """Its toolstack restarts, and it takes the migration for one under way."""
        sr = SR(two_srs[1])
        sr.mark_attached(sr.guid)  # other tests have removed the mark
        source, destination = new_disk(two_srs[0], SIZE), new_disk(two_srs[1], SIZE)
        given = source.use(GUEST)
        nbd_write(given, 0, noise(1, 2 * MIB))
        source.drop(GUEST)
        migration = Migration(source, destination, tmp_path, HALTED)
        migration.start()
        assert migration.wait()["complete"]
        migration.leave()
        migration.relay.cut()
        source.volume("destroy")
        if has_run:
            destination.use(OTHER_GUEST)
            destination.drop(OTHER_GUEST)
        else:
            now = [0.0]
            upkeep = Upkeep(SR(destination.sr), lambda: now[0])
            for time in (0, 600):
                now[0] = time
                assert list(destination.record.active) == [MIRROR]
                upkeep.run()
        destination.drop(MIRROR)
        with refused(IN_USE) as said:
            destination.volume("destroy")
        assert "xapi, which cancels ended migrations" in said[0]
        mark = Path(destination.record.let_go)
        assert content(destination) == noise(1, 2 * MIB) + bytes(SIZE - 2 * MIB)
        os.utime(mark, (mark.stat().st_mtime - 61,) * 2)
        destination.volume("destroy")

    def test_a_cancelled_disk_without_data(self, two_srs: "Tuple[str, str]") -> None:
        """That of a migration that failed before it began."""
        destination = new_disk(two_srs[1], SIZE)
        destination.verb("detach", MIRROR)
        destination.volume("destroy")

    def test_nobody_has_it(self, two_srs: "Tuple[str, str]") -> None:
        source = new_disk(two_srs[0], SIZE)
        with refused(INVALID):
            call("Data.mirror", uri=source.uri, domain=HALTED, remote="nbd+unix:///a?socket=/b")
        source.attach(BESIDE)
        with refused(INVALID):
            call("Data.mirror", uri=source.uri, domain=GUEST, remote="nbd+unix:///a?socket=/b")
        with refused(INVALID):
            call("Data.stat", operation=["MirrorV1", f"{source.zvol}@none"])
        source.drop(BESIDE)


class TestFailures:
    @pytest.mark.parametrize("moment", ["before", "copying", "in step"])
    def test_it_is_cancelled(self, live: "Tuple[Migration, Writer]", moment: str) -> None:
        migration, writer = live
        if moment == "copying":
            migration.relay.rate = 1e5
        if moment != "before":
            migration.start()
        if moment == "in step":
            migration.wait()
        migration.cancel()
        migration.leave()
        if moment == "in step":
            # For all that the driver knows, this is the hand-over.
            wait_until(lambda: not migration.is_running(), "the end")
            with refused(FAILED):
                migration.source.verb("deactivate", GUEST)
            writer.connect(migration.source.use(GUEST))
        require_whole(migration, writer)

    def test_the_connection_ends(self, live: "Tuple[Migration, Writer]") -> None:
        migration, writer = live
        writer.write(0, noise(5, 8 * MIB))  # more than is on its way from zfs send
        migration.relay.cut_after = 100000
        migration.start()
        assert dict(migration.wait(), progress=0.0) == {"failed": True, "complete": False, "progress": 0.0}
        assert "NBD server" in migration.state["error"]
        require_nothing(migration)
        migration.leave()
        require_whole(migration, writer)
        migration.destination.drop(MIRROR)

    def test_the_connection_ends_before_the_hand_over(self, live: "Tuple[Migration, Writer]") -> None:
        """The VM must not go on with a disk that lacks what it wrote last. Told once; the disk is free even then."""
        migration, writer = live
        migration.start()
        assert migration.wait()["complete"]
        migration.leave()
        migration.relay.cut()
        writer.step()
        writer.close()
        with refused(FAILED) as said:
            migration.source.verb("deactivate", GUEST)
        assert "is not complete" in said[0]
        require_nothing(migration)
        assert migration.source.record.active == {}
        migration.source.drop(GUEST)
        assert content(migration.source) == writer.content
        migration.destination.drop(MIRROR)

    def test_it_is_told_of_a_failure_once(self, live: "Tuple[Migration, Writer]") -> None:
        migration, writer = live
        migration.start()
        migration.wait()
        migration.relay.cut()
        wait_until(lambda: not migration.is_running(), "the end")
        assert migration.stat() == {"failed": True, "complete": True, "progress": 1.0}
        migration.leave()
        require_whole(migration, writer)
        migration.destination.drop(MIRROR)

    @pytest.mark.parametrize("is_in_step", [False, True])
    def test_the_job_is_killed(self, live: "Tuple[Migration, Writer]", is_in_step: bool) -> None:
        migration, writer = live
        if not is_in_step:
            migration.relay.rate = 1e5
        migration.start()
        if is_in_step:
            migration.wait()
        wait_until(lambda: snapshots(migration.source.sr), "a snapshot")
        migration.kill()
        assert migration.stat()["failed"]
        assert "killed" in migration.state["error"]
        assert len(snapshots(migration.source.sr)) == 1
        findings = repair.inspect(family.read(SR(migration.source.sr)))
        assert ["was made by a mirror that has ended" in finding.text for finding in findings] == [True]
        migration.leave()
        require_whole(migration, writer)
        migration.destination.drop(MIRROR)

    def test_a_boot(self, two_srs: "Tuple[str, str]") -> None:
        """It leaves nothing but ZFS snapshots. SR.attach removes them, those of removed disks included."""
        source, removed = new_disk(two_srs[0], SIZE), new_disk(two_srs[0], SIZE)
        for number, disk in enumerate((source, removed)):
            run("zfs", "snapshot", f"{disk.zvol}@{naming.mirror_snapshot(disk.key, number)}")
        removed.volume("destroy")
        assert len(snapshots(source.sr)) == 2
        repair.repair(SR(source.sr))
        assert snapshots(source.sr) == []
        assert ".gone" not in run("zfs", "list", "-H", "-o", "name", "-r", source.sr)
        source.volume("destroy")

    def test_a_small_disk(self, two_srs: "Tuple[str, str]", tmp_path: Path) -> None:
        source, destination = new_disk(two_srs[0], SIZE), new_disk(two_srs[1], SIZE // 2)
        migration = Migration(source, destination, tmp_path, HALTED)
        migration.start()
        assert migration.wait()["failed"]
        assert f"the disk at the other end has {SIZE // 2} bytes" in migration.state["error"]
        migration.cancel()
        migration.leave()
        require_nothing(migration)

    def test_nobody_listens(self, two_srs: "Tuple[str, str]", tmp_path: Path) -> None:
        source = new_disk(two_srs[0], SIZE)
        source.attach(BESIDE)
        operation = call("Data.mirror", uri=source.uri, domain=HALTED, remote=f"nbd+unix:///a?socket={tmp_path}/none")
        wait_until(lambda: call("Data.stat", operation=operation)["failed"], "the failure")
        source.drop(BESIDE)
