# SPDX-License-Identifier: LGPL-2.1-only
"""Storage motion into an SR: what xapi does at the destination, with the contents compared byte by byte.

The source is a client that does what tapdisk's does: see tests/tapdisk.py.
"""

import os
from pathlib import Path
import random
import signal
import threading
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from tests import client, tapdisk
from tests.client import call_inside as call
from tests.client import new_uuid
from tests.killed import STRIDE, kill
from tests.model import noise
from tests.zfs.conftest import MIB, run, wait_until
from tests.zfs.disk import (
    DOM0,
    FAILED,
    GUEST,
    IN_USE,
    INVALID,
    MIGRATION,
    MISSING,
    Disk,
    clear,
    nbd_read,
    nbd_write,
    new_disk,
    node_read,
    node_write,
    refused,
)
from zfsvol import naming
from zfsvol.motion.written import SECTOR, Written
from zfsvol.repository import family, recording, repair
from zfsvol.repository.job import FINISHED, Job
from zfsvol.repository.sr import LASTING, SR

SIZE = 8 * MIB
COPY = "CPabc123"
INVALID_SIZE = "SR_BACKEND_FAILURE_79"

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def own_sr(shared_sr: str) -> "Iterator[str]":
    """An SR without VDIs. Afterwards it has no VDIs and no recorders, even if the test has failed."""
    yield shared_sr
    for path in Path(SR(shared_sr).directory).glob(f"*.{recording.KIND}"):
        job = Job(SR(shared_sr), path.name.partition(".")[0], recording.KIND)
        if job.is_running():
            job.signal(signal.SIGKILL)
            job.ends(10)
        recording.forget(job.sr, job.key)
    clear()
    call("SR.attach", configuration={"sr_uuid": SR(shared_sr).uuid})
    for record in call("SR.ls", sr=shared_sr):
        call("Volume.destroy", sr=shared_sr, key=record["key"])


class Moving:
    """A disk that moves into the SR, by the VDIs that xapi makes for it: leaf, dummy and parent."""

    def __init__(self, sr: str) -> None:
        self.sr = sr
        self.leaf = new_disk(sr, SIZE)
        self.leaf.volume("set", k="vdi-type", v="user")
        self.dummy = self.leaf.derive("snapshot")
        self.parent = new_disk(sr, SIZE)
        self.parent.volume("set", k="only the parent's", v="x")
        self.job = Job(SR(sr), self.leaf.key, recording.KIND)
        self._old = bytearray(SIZE)
        self._written: "List[Tuple[int, bytes]]" = []

    @property
    def arguments(self) -> "Dict[str, Any]":
        return {"sr": self.sr, "key": self.leaf.key, "key2": self.parent.key}

    def connect(self) -> tapdisk.Mirror:
        """Activates the leaf; returns the source's mirror into it."""
        self.leaf.use(MIGRATION)
        return tapdisk.mirror_into(self.leaf.verb("import_activate", MIGRATION))

    def compose(self) -> None:
        call("Volume.compose", **self.arguments)

    def refuse(self, code: str, **arguments: str) -> str:
        """Checks that Volume.compose is refused with this code, and has changed nothing. Returns its sentence."""
        before = picture(self.sr)
        with refused(code) as sentence:
            call("Volume.compose", **{**self.arguments, **arguments})
        assert picture(self.sr) == before
        return sentence[0]

    def fill(self, given: "Dict[str, Any]", write: "Callable[..., None]") -> None:
        """The old data arrives in the parent."""
        for number in range(4):
            offset = number * SIZE // 4
            data = noise(number, MIB)
            write(given, offset, data)
            self._old[offset : offset + MIB] = data

    def new(self, sector: int, count: int) -> "Tuple[int, bytes]":
        """What the VM writes next, as (offset, data). It counts in the end, whenever the old data arrives."""
        made = sector * SECTOR, noise(len(self._written) + 1000, count * SECTOR)
        self._written.append(made)
        return made

    def require_composed(self) -> None:
        """The leaf is the whole disk, with its own keys; there is no parent; recorders have left nothing."""
        listed = {record["key"]: record for record in call("SR.ls", sr=self.sr)}
        assert self.parent.key not in listed
        assert listed[self.leaf.key]["keys"] == {"vdi-type": "user", "content_id": self.leaf.key}
        expected = bytearray(self._old)
        for offset, data in self._written:
            expected[offset : offset + len(data)] = data
        assert content(self.leaf) == expected
        assert recorded(self.sr) == []

    def remove(self) -> None:
        for disk in (self.dummy, self.leaf, self.parent):
            disk.volume("destroy")
        assert recorded(self.sr) == []
        assert datasets_of(self.sr) == []


def content(disk: Disk) -> bytes:
    given = disk.use(DOM0)
    found = node_read(given, 0, SIZE)
    disk.drop(DOM0)
    return found


def recorded(sr: str) -> "List[str]":
    """What recorders have left."""
    found = [*Path(LASTING).glob("*.written"), *Path(SR(sr).directory).glob(f"*.{recording.KIND}")]
    return [str(path) for path in [*found, *Path("/run/blktap-control/nbd").glob("*/*.in")]]


def datasets_of(sr: str) -> "List[str]":
    """All datasets and snapshots below the SR's root."""
    return run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", sr).split()[1:]


def picture(sr: str) -> "Tuple[List[Dict[str, Any]], List[str]]":
    """All that clients and ZFS know of the SR's disks, but for their space."""
    return [{**record, "physical_utilisation": 0} for record in call("SR.ls", sr=sr)], datasets_of(sr)


def attach_again(sr: str) -> None:
    """Attaches the SR as after a restart of the toolstack; nothing may be wrong afterwards."""
    assert call("SR.attach", configuration={"sr_uuid": SR(sr).uuid}) == sr
    assert [finding.text for finding in repair.inspect(family.read(SR(sr)))] == []


def odd_sectors() -> "List[Tuple[int, int]]":
    """Sectors (first, number): the first and the last of the disk, single ones, runs that overlap."""
    last = SIZE // SECTOR
    chosen = random.Random(1)
    found = [(0, 1), (last - 1, 1), (100, 64), (130, 64), (131, 1)]
    return found + [(chosen.randrange(last - 200), chosen.choice((1, 1, 3, 8, 88, 200))) for _ in range(60)]


def test_a_disk_moves_in(own_sr: str) -> None:
    """The whole sequence of xapi (contract 3.6 b). Meanwhile the source is snapshotted, so that tapdisk reopens it."""
    moving = Moving(own_sr)
    moving.leaf.use(MIGRATION)
    path = client.call("Datapath.import_activate", uri=moving.leaf.uri, domain=MIGRATION)
    assert moving.leaf.verb("import_activate", MIGRATION) == path
    assert len(path) < 108
    mirror = tapdisk.mirror_into(path)
    assert mirror.size == SIZE
    assert moving.leaf.verb("import_activate", MIGRATION) == path

    filled = threading.Thread(target=lambda: moving.fill(moving.parent.use(COPY), nbd_write))
    filled.start()
    for first, count in odd_sectors():
        mirror.write(*moving.new(first, count))
    mirror.close()
    mirror.open()
    many = [moving.new(77, 2) for _ in range(40)]  # at once, and to one place
    for offset, data in many:
        mirror.send(tapdisk.WRITE, offset, len(data), data)
    for _ in many:
        mirror.answer()
    assert mirror.read(77 * SECTOR, 2 * SECTOR) == many[-1][1]
    filled.join()
    moving.parent.drop(COPY)
    moving.parent.volume("set", k="content_id", v="that of the source")

    # The VM stands still; its disk is closed at the source; the destination is told.
    mirror.close()
    moving.leaf.drop(MIGRATION)
    assert moving.job.read()["state"] == FINISHED
    with refused(MISSING) as sentence:  # xapi ignores that compose was refused, and starts the VM
        moving.leaf.use(GUEST)
    assert "only what a VM wrote" in sentence[0]
    moving.leaf.verb("detach", GUEST)
    attach_again(moving.sr)
    client.call("Volume.compose", **moving.arguments)
    moving.dummy.volume("destroy")
    moving.require_composed()
    moving.compose()
    mirror.connection.close()
    assert datasets_of(moving.sr) == [moving.leaf.zvol]
    attach_again(moving.sr)


def test_refusals_change_nothing(own_sr: str) -> None:
    moving = Moving(own_sr)
    assert "Nothing was mirrored" in moving.refuse(INVALID)
    with refused(INVALID):  # nobody has activated it
        moving.leaf.verb("import_activate", MIGRATION)
    moving.refuse(INVALID, key2=moving.leaf.key)
    moving.refuse(MISSING, key2=new_uuid())
    moving.refuse(MISSING, key=new_uuid())
    moving.refuse(INVALID, key2=moving.dummy.key)

    mirror = moving.connect()
    with refused(INVALID):  # not the domain that has activated it
        moving.leaf.verb("import_activate", GUEST)
    mirror.write(*moving.new(5, 1))
    assert "a storage migration (MIRabc123)" in moving.refuse(IN_USE)
    with refused(IN_USE):
        moving.leaf.volume("destroy")
    mirror.connection.close()  # between two requests: all is there
    wait_until(lambda: not moving.job.is_running(), "the recorder to end")
    with refused(FAILED) as sentence:
        moving.leaf.verb("import_activate", MIGRATION)
    assert "has ended" in sentence[0]
    moving.leaf.drop(MIGRATION)

    moving.fill(moving.parent.use(DOM0), node_write)
    moving.refuse(IN_USE)
    moving.parent.verb("deactivate", DOM0)
    assert "is attached to" in moving.refuse(IN_USE)
    moving.parent.verb("detach", DOM0)
    other = new_disk(moving.sr, 2 * SIZE)
    moving.refuse(INVALID_SIZE, key2=other.key)
    other.volume("destroy")
    moving.compose()
    moving.require_composed()
    moving.remove()


def test_a_mirror_that_breaks_off(own_sr: str) -> None:
    """Its leaf lacks something: it is neither composed nor given to a VM, and can be destroyed."""

    def is_killed(_mirror: tapdisk.Mirror) -> None:
        moving.job.signal(signal.SIGKILL)

    def ends_in_a_request(mirror: tapdisk.Mirror) -> None:
        mirror.send(tapdisk.WRITE, 0, SECTOR, b"half of it")

    def has_an_error(mirror: tapdisk.Mirror) -> None:
        mirror.send(tapdisk.WRITE, SIZE, SECTOR, bytes(SECTOR))
        with pytest.raises(tapdisk.MirrorFailed, match="error 22"):
            mirror.answer()

    for breaks, why in ((is_killed, "killed"), (ends_in_a_request, "connection was lost"), (has_an_error, "the end")):
        moving = Moving(own_sr)
        mirror = moving.connect()
        mirror.write(*moving.new(5, 1))
        breaks(mirror)
        mirror.connection.close()
        moving.leaf.drop(MIGRATION)
        sentence = moving.refuse(FAILED)
        assert "broke off" in sentence
        assert why in sentence
        with refused(MISSING):
            moving.leaf.use(GUEST)
        moving.leaf.verb("detach", GUEST)
        moving.remove()


def test_records_that_nobody_needs(own_sr: str) -> None:
    """SR.attach removes what a boot leaves, which forgets the states. SR.detach removes all."""
    moving = Moving(own_sr)
    moving.connect().connection.close()
    moving.leaf.drop(MIGRATION)
    lost = recording.written_path(SR(own_sr), new_uuid())
    Path(lost).touch()
    attach_again(own_sr)
    assert recorded(own_sr) == [recording.written_path(SR(own_sr), moving.leaf.key), moving.job.path]
    call("SR.detach", sr=own_sr)
    assert recorded(own_sr) == []
    assert not os.path.exists(moving.job.path)
    attach_again(own_sr)
    moving.refuse(INVALID)
    moving.remove()


def recorded_disk(sr: str) -> Moving:
    """A disk that is ready to be composed, without a recorder, whose start would take most of the test's time."""
    moving = Moving(sr)
    moving.fill(moving.parent.use(DOM0), node_write)
    given = moving.leaf.use(DOM0)
    with Written(recording.written_path(SR(sr), moving.leaf.key), new=True) as written:
        for sector, count in odd_sectors()[:20]:
            offset, data = moving.new(sector, count)
            node_write(given, offset, data)
            written.add(offset, len(data))
    moving.parent.drop(DOM0)
    moving.leaf.drop(DOM0)
    moving.job.write({"state": FINISHED, "domain": MIGRATION})
    return moving


@pytest.mark.usefixtures("without_udev")
def test_compose_is_killed(own_sr: str) -> None:
    """After each of its changes: all or nothing. SR.attach and a repetition both go on from there.

    Of the changes after which the disk is composed, it takes one in STRIDE.
    """
    moving = recorded_disk(own_sr)
    before = unchanging(own_sr)
    states: "List[bool]" = []
    number = 1
    while kill("Volume.compose", "after", number, moving.arguments):
        states.append(naming.VDI_COMPOSED in SR(own_sr).vdi(moving.leaf.key).values)
        this, number = number, number + (STRIDE if states[-1] else 1)
        is_renamed = moving.parent.zvol not in datasets_of(own_sr)
        if not states[-1] or len(states) % 2:
            attach_again(own_sr)
        if not states[-1]:
            assert unchanging(own_sr) == before
            if not is_renamed:
                continue  # with the same disk: nothing has happened to it
            assert kill("Volume.compose", "after", this, moving.arguments)
        else:
            moving.require_composed()  # and can be used
        moving.compose()
        moving.require_composed()
        moving.remove()
        moving = recorded_disk(own_sr)
        before = unchanging(own_sr)
    moving.require_composed()
    assert states == sorted(states)
    assert set(states) == {False, True}


def unchanging(sr: str) -> "Tuple[List[Dict[str, Any]], List[str]]":
    """The picture without the keys: the parent may have got those of the leaf."""
    records, names = picture(sr)
    return [{**record, "keys": {}} for record in records], names


def test_a_copy_comes_in(own_sr: str) -> None:
    """What DATA.copy does at the destination (contract 3.6 c), for the snapshots of a VM and its read-only disks."""
    disk = new_disk(own_sr, SIZE)
    data = noise(3, MIB)
    nbd_write(disk.use(COPY), 5 * MIB, data)
    disk.drop(COPY)
    disk.volume("set", k="content_id", v="that of the source")
    copied = disk.derive("snapshot")
    disk.volume("destroy")
    record = copied.volume("stat")
    assert (record["read_write"], record["keys"]["content_id"]) == (False, "that of the source")
    expected = bytes(5 * MIB) + data + bytes(2 * MIB)
    assert content(copied) == expected
    made = copied.derive("clone")
    assert nbd_read(made.use(GUEST), 5 * MIB, MIB) == data
    made.drop(GUEST)
    for key in (copied, made):
        key.volume("destroy")
    assert datasets_of(own_sr) == []


def test_a_content_id_is_never_empty(own_sr: str) -> None:
    """Storage migration takes any two VDIs with the same one for copies of each other."""
    disk = new_disk(own_sr, SIZE)
    disk.volume("set", k="content_id", v="")
    assert disk.volume("stat")["keys"]["content_id"] == disk.key
    assert disk.derive("snapshot").volume("stat")["keys"]["content_id"] == disk.key
