# SPDX-License-Identifier: LGPL-2.1-only
"""What the resident service tells xapi of real pools: each fault once, soon, and its end."""

import json
import os
from pathlib import Path
import re
import subprocess
import time
from typing import Any, Dict, Iterator, List

import pytest

from tests.client import call
from tests.rrdd import Daemon
from tests.service import Service
from tests.xapi import Message, Xapi
from tests.zfs.conftest import MIB, Bench, Disk, device_node, run, wait_until
from tests.zfs.disk import DOM0, new_disk
from tests.zfs.test_statistics import fresh, of_sr
from zfsvol.care import events
from zfsvol.repository import journal
from zfsvol.repository.sr import SR
from zfsvol.service.follower import Follower
from zfsvol.service.maintenance import Maintenance
from zfsvol.service.messages import Sender
from zfsvol.service.metrics import DIRECTORY
from zfsvol.service.sight import Looker

pytestmark = pytest.mark.skipif("ZFSVOL_XENAPI" not in os.environ, reason="needs dom0's XenAPI module")

# Seconds in which a message comes in the lab, where everything is slower: of what the kernel tells; and of what only
# shows at the look once a minute, as the space of a pool that takes long to count what was written.
FEW, LONG = 20, 90


class Watched:
    """An SR, on a mirror unless another is given, that a service looks after; what xapi gets of it."""

    def __init__(self, bench: Bench, directory: Path, sr: str = "") -> None:
        self.xapi = Xapi()
        self.xapi.start()
        self.directory = directory
        self.disks: "List[Disk]" = [] if sr else [bench.faulty_disk() for _ in range(2)]
        self.sr = sr or bench.sr(vdev="mirror " + " ".join(disk.path for disk in self.disks))
        self.uuid = self.sr[-36:]
        self.xapi.srs.add(self.uuid)
        self.seen = 0
        self.service = self.started()

    def started(self) -> Service:
        service = Service(self.directory)
        service.wait_for(f"{self.sr} is followed")
        wait_until(lambda: list(Path(journal.DIRECTORY).glob(f"*-{self.uuid}.json")), "the first look")
        return service

    def told(self, name: str) -> Message:
        """Waits for the next message, which must have this name and tell of this SR.

        Passes over errors of a disk: a look may see them before ZFS gives the disk up.
        """

        def is_next() -> bool:
            for message in self.xapi.messages[self.seen :]:
                if not message.name.startswith("ZFSVOL_DEVICE_ERRORS"):
                    return True
                self.seen += 1
            return False

        wait_until(is_next, f"a message; the log: {self.service.read()}", FEW)
        message = self.xapi.messages[self.seen]
        self.seen += 1
        assert (message.name, message.cls, message.obj_uuid) == ("ZFSVOL_" + name, "SR", self.uuid)
        assert message.body in " ".join(self.service.read())
        return message

    def told_among_others(self, name: str, number: int = 1, limit: float = FEW) -> Message:
        """Waits until there are so many messages of this name, of which there may not be more; returns the last."""

        def found() -> "List[Message]":
            return [message for message in self.xapi.messages if message.name == "ZFSVOL_" + name]

        wait_until(lambda: len(found()) >= number, f"{name}; the log: {self.service.read()}", limit)
        assert len(found()) == number
        self.seen = len(self.xapi.messages)
        return found()[-1]

    @property
    def journal(self) -> "Dict[str, Any]":
        (path,) = Path(journal.DIRECTORY).glob(f"*-{self.uuid}.json")
        content: "Dict[str, Any]" = json.loads(path.read_text())
        return content

    def require_silence(self, seconds: float = 4) -> None:
        time.sleep(seconds)
        assert [message.name for message in self.xapi.messages[self.seen :]] == []

    def corrupt(self, disk: Disk) -> None:
        """Overwrites one leg of the mirror where no label is, and reads everything."""
        run("dd", "if=/dev/urandom", f"of={disk.loop}", "bs=1M", "seek=8", "count=900", "conv=notrunc", "status=none")

    def close(self) -> None:
        self.service.close()
        self.xapi.stop()
        for path in Path(journal.DIRECTORY).glob("*"):
            path.unlink()


@pytest.fixture
def watched(bench: Bench, tmp_path: Path) -> "Iterator[Watched]":
    made = Watched(bench, tmp_path)
    yield made
    made.close()


def volume(sr: str, size: int = 256 * MIB) -> str:
    made = call("Volume.create", sr=sr, name="n", description="", size=size, sharable=False)
    return str(made["key"])


def fill(sr: str, key: str, mebibytes: int) -> None:
    with device_node(f"{sr}/{key}") as node:
        run("dd", "if=/dev/urandom", f"of={node}", "bs=1M", f"count={mebibytes}", "conv=fsync", "status=none")


def test_a_disk_that_dies_and_returns(watched: Watched) -> None:
    key = volume(watched.sr)
    watched.disks[1].fail()
    fill(watched.sr, key, 8)
    message = watched.told("DEVICE_FAULTED")
    assert message.priority == 3
    assert (
        f'SR "sr" ({watched.sr[3:]}): the disk /dev/disk/by-id/dm-name-{watched.disks[1].name} is FAULTED'
        in message.body
    )
    assert "The pool is DEGRADED: no other disk may fail now." in message.body
    watched.require_silence()
    watched.service.kill()
    watched.service = watched.started()
    watched.require_silence()
    watched.disks[1].mend()
    run("zpool", "clear", watched.sr)
    assert watched.told("DEVICE_FAULTED_OVER").priority == 4
    assert watched.told("RESILVER_FINISHED").priority == 4


def test_checksum_errors(watched: Watched) -> None:
    fill(watched.sr, volume(watched.sr), 64)
    watched.corrupt(watched.disks[0])
    run("zpool", "scrub", watched.sr)
    wait_until(lambda: "ZFSVOL_SCRUB_FINISHED" in names(watched), "the scrub's end", 60)
    told = watched.xapi.messages
    (scrub,) = [message for message in told if message.name == "ZFSVOL_SCRUB_FINISHED"]
    assert scrub.priority == 3
    assert re.search(r"[1-9][0-9.]* MiB were repaired; everything is readable", scrub.body)
    # Errors are told again at ten times as many, and a sight may come at any number of them.
    assert {*names(watched)} - {scrub.name} <= {f"ZFSVOL_DEVICE_{what}" for what in ("ERRORS", "DEGRADED", "FAULTED")}
    bodies = [message.body for message in told if message is not scrub]
    found = [re.search(r"0 read, 0 write and ([1-9][0-9]*) checksum errors", body) for body in bodies]
    digits = [len(match.group(1)) for match in found if match]
    assert digits == sorted({*digits})
    assert digits


def names(watched: Watched) -> "List[str]":
    """Of all messages so far."""
    return [message.name for message in watched.xapi.messages]


def test_a_scrub_without_findings(watched: Watched) -> None:
    run("zpool", "scrub", watched.sr)
    message = watched.told("SCRUB_FINISHED")
    assert message.priority == 5
    assert "everything is readable" in message.body
    told = [event["what"] for event in events.events(watched.sr) if event["source"] == "alarm"]
    assert told == [f"{message.name}: {message.body}"]


def test_all_disks_die(watched: Watched) -> None:
    for disk in watched.disks:
        disk.fail()
    subprocess.Popen(["zfs", "set", "foo:bar=1", watched.sr])
    wait_until(lambda: "ZFSVOL_POOL_SUSPENDED" in names(watched), "alarm", FEW)
    (suspended,) = [message for message in watched.xapi.messages if message.name == "ZFSVOL_POOL_SUSPENDED"]
    assert suspended.priority == 1
    for disk in watched.disks:
        disk.mend()
    run("zpool", "clear", watched.sr)
    wait_until(lambda: "ZFSVOL_POOL_SUSPENDED_OVER" in names(watched), "end", FEW)


def test_space_that_runs_out_and_returns(watched: Watched) -> None:
    run("zfs", "create", "-V", "700M", f"{watched.sr}/mine")  # not sparse: the space is used at once
    assert watched.told("SPACE").priority == 5
    run("zfs", "destroy", f"{watched.sr}/mine")
    assert watched.told("SPACE_OVER").priority == 4


def test_more_promised_than_there_is(watched: Watched) -> None:
    key = volume(watched.sr, 2048 * MIB)
    assert watched.told("OVERCOMMITTED").priority == 5
    call("Volume.destroy", sr=watched.sr, key=key)
    assert watched.told("OVERCOMMITTED_OVER").priority == 4


def test_xapi_is_away(watched: Watched) -> None:
    watched.xapi.stop()
    run("zpool", "scrub", watched.sr)
    watched.service.wait_for("SCRUB_FINISHED")
    watched.service.wait_for("messages wait until xapi takes them")
    watched.service.kill()
    watched.xapi.start()
    watched.service = watched.started()
    wait_until(lambda: watched.xapi.messages, "the message", 30)
    assert [message.name for message in watched.xapi.messages] == ["ZFSVOL_SCRUB_FINISHED"]


def test_xapi_cannot_write(watched: Watched) -> None:
    watched.xapi.can_write = False
    run("zpool", "scrub", watched.sr)
    watched.service.wait_for("xapi could not write the message")
    watched.xapi.can_write = True
    wait_until(lambda: watched.xapi.messages, "the message", 30)
    watched.seen = 1
    watched.require_silence()


def test_xapi_does_not_know_the_sr(watched: Watched) -> None:
    watched.xapi.srs.clear()
    run("zpool", "scrub", watched.sr)
    watched.service.wait_for("xapi does not know the SR")
    watched.xapi.srs.add(watched.sr[3:])
    watched.require_silence()


def test_a_scrub_that_is_due(bench: Bench) -> None:
    sr = SR(bench.sr())
    seen = Looker(sr).look()
    later = time.localtime(seen.time + 40 * 86400)
    seen.time = time.mktime((later.tm_year, later.tm_mon, later.tm_mday, 2, 5, 0, 0, 0, -1))
    maintenance = Maintenance(sr)
    maintenance.run(seen)
    wait_until(lambda: Looker(sr).look().topology.scans[0]["state"] == "finished", "the scrub")  # type: ignore[union-attr]
    again = Looker(sr).look()
    maintenance.run(again)
    assert again.topology is not None
    assert Looker(sr).look().topology.scans == again.topology.scans  # type: ignore[union-attr]


def test_a_disk_that_comes_and_goes(watched: Watched) -> None:
    """A loose cable. ZFS does not use the disk any more, so that it is told once however often it fails."""
    node = new_disk(watched.sr).use(DOM0)["BlockDevice"]["path"]
    watched.disks[1].be_flaky(1, 1)
    while "FAULTED" not in run("zpool", "status", watched.sr):
        write(node, 2)
    assert watched.told_among_others("DEVICE_FAULTED").priority == 3
    for _ in range(3):
        write(node, 2)
        watched.require_silence(1)
    watched.disks[1].mend()
    run("zpool", "clear", watched.sr)
    watched.told_among_others("DEVICE_FAULTED_OVER")
    watched.told_among_others("RESILVER_FINISHED")


def write(node: str, mebibytes: int) -> None:
    run("dd", "if=/dev/urandom", f"of={node}", "bs=1M", f"count={mebibytes}", "oflag=direct", "status=none")


def test_files_that_are_removed(bench: Bench, tmp_path: Path) -> None:
    """In an administrator's pool of files, one goes away and returns; another goes for ever, and is replaced."""
    files = [tmp_path / name for name in ("one", "two", "three")]
    for file in files:
        run("truncate", "-s", "256M", str(file))
    bench.pool("mirror", *map(str, files[:2]))
    watched = Watched(bench, tmp_path, bench.sr(zpool="tank"))
    try:
        for number, file in enumerate(files[:2], 1):
            file.rename(tmp_path / "away")
            # ZFS has the file open, and notices when it opens it again.
            run("zpool", "offline", "tank", str(file))
            run("zpool", "online", "tank", str(file), check=False)
            message = watched.told_among_others("DEVICE_UNAVAIL", number)
            assert f"the disk {file} is UNAVAIL. The pool is DEGRADED: no other disk may fail now." in message.body
            if number == 1:
                (tmp_path / "away").rename(file)
                run("zpool", "online", "tank", str(file))
            else:
                run("zpool", "replace", "tank", str(file), str(files[2]))
            assert str(file) in watched.told_among_others("DEVICE_UNAVAIL_OVER", number).body
        watched.told_among_others("RESILVER_FINISHED", 2)
        assert watched.journal["open"] == {}
    finally:
        watched.close()


def test_a_pool_that_is_full(bench: Bench, tmp_path: Path) -> None:
    """A guest writes until nothing is left: the service goes on, and publishes."""
    watched = Watched(bench, tmp_path, bench.sr(device=bench.disk(256 * MIB)))
    try:
        disk, daemon = new_disk(watched.sr, 512 * MIB), Daemon(Path(DIRECTORY))
        node = disk.use(DOM0)["BlockDevice"]["path"]
        with pytest.raises(AssertionError, match="No space left on device"):
            write(node, 512)
        wait_until(lambda: ("ZFSVOL_SPACE", 2) in [one[:2] for one in watched.xapi.messages], "the alarm", LONG)
        wait_until(lambda: of_sr(fresh(daemon), watched.sr).get("available") == 0, "the statistics", FEW)
        disk.drop(DOM0)
        call("Volume.destroy", sr=watched.sr, key=disk.key)
        watched.told_among_others("SPACE_OVER", limit=LONG)
        wait_until(lambda: of_sr(fresh(daemon), watched.sr).get("disks") == 0, "the statistics", FEW)
        assert not [line for line in watched.service.read() if "fault of the service" in line]
        assert watched.journal["open"] == {}
    finally:
        watched.close()


def test_space_that_a_guest_gives_back(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells of a discard."""
    monkeypatch.setattr(journal, "DIRECTORY", str(tmp_path / "journal"))
    sr = bench.sr(device=bench.disk(256 * MIB))
    disk = new_disk(sr, 128 * MIB)
    node = disk.use(DOM0)["BlockDevice"]["path"]
    follower = Follower(SR(sr), "", Sender())
    write(node, 110)
    run("zpool", "sync", sr)
    follower._look()
    assert "space" in follower._journal.open
    run("blkdiscard", node)
    run("zpool", "sync", sr)
    follower._look()
    assert "space" not in follower._journal.open
    disk.drop(DOM0)
