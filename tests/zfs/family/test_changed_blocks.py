# SPDX-License-Identifier: LGPL-2.1-only
"""Which blocks changed between two VDIs, on real ZFS: what is written, zeroed, discarded; disks in use; branches."""

import base64
import json
from pathlib import Path
import re
import subprocess
from typing import Any, Callable, Iterator, List, Set

import pytest

from tests import zvol
from tests.client import VerbError, call, call_badly, call_inside, finish, new_uuid, refused, start
from tests.killed import kill, kill_points
from tests.model import BIT, BLOCK, bits, noise
from tests.zfs.conftest import MIB, Bench, run
from tests.zfs.family.relatives import (
    FULL,
    IN_USE,
    INVALID,
    NO_VDI,
    buried,
    clone,
    content,
    create,
    destroy,
    destroy_everything,
    findings,
    names,
    picture,
    prop,
    revert,
    set_key,
    snapshot,
    stat,
    with_nodes,
)
from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.repository import allocation
from zfsvol.repository.identity import derived, renew
from zfsvol.zfs import datasets

GIB = 1 << 30
LONG = 8 * MIB  # of data: its stream is longer than what a pipe holds
METADATA = "zfsvol:cbt-metadata"
UNKNOWN = "SR_BACKEND_FAILURE_460"


@pytest.fixture
def sr(shared: str) -> "Iterator[str]":
    """The shared SR. After a test it must be well, and empty once its VDIs are destroyed, without any bookmark."""
    yield shared
    # Those that have lost their bookmark are worth a note to `check`.
    destroy(
        shared,
        *(name for name in names(shared) if not re.search("[@#]", name) and prop(METADATA, f"{shared}/{name}") != "-"),
    )
    destroy_everything(shared)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> "List[str]":
    """What the driver logs."""
    lines: "List[str]" = []
    monkeypatch.setattr(log, "info", lines.append)
    return lines


def fill(sr: str, key: str, *blocks: int, seed: int = 1) -> None:
    """Writes blocks of 16 KiB that are not zeros."""
    for block in blocks:
        zvol.write(f"{sr}/{key}", block * BLOCK, noise(seed + block, BLOCK))


def zero(sr: str, key: str, *blocks: int) -> None:
    for block in blocks:
        zvol.write(f"{sr}/{key}", block * BLOCK, bytes(BLOCK))


def discard(sr: str, key: str, *blocks: int) -> None:
    node = zvol.node(f"{sr}/{key}")
    for block in blocks:
        subprocess.run(["blkdiscard", "-o", str(block * BLOCK), "-l", str(BLOCK), node], check=True)


def changes(sr: str, key: str, key2: str, size: int = 0) -> "Set[int]":
    """The numbers of the set bits, for the whole disk. `size`: its size, if it may be gone afterwards."""
    answer = call_inside("Volume.list_changed_blocks", sr=sr, key=key, key2=key2, offset=0, length=-1)
    assert answer["granularity"] == BIT
    bitmap = base64.b64decode(answer["bitmap"])
    assert len(bitmap) == -(-(size or stat(sr, key2)["virtual_size"]) // BIT // 32) * 4
    return bits(bitmap)


def of(*blocks: int) -> "Set[int]":
    """The bits that stand for blocks of 16 KiB."""
    return {block * BLOCK // BIT for block in blocks}


def tracked(sr: str, size: int = GIB) -> str:
    """A new disk with changed block tracking."""
    disk = create(sr, size)
    call_inside("Volume.enable_cbt", sr=sr, key=disk)
    return disk


def destroy_data(sr: str, *keys: str) -> None:
    for key in keys:
        call_inside("Volume.data_destroy", sr=sr, key=key)


def refused_inside(code: str, sr: str, key: str, key2: str) -> None:
    with pytest.raises(VerbError) as error:
        changes(sr, key, key2)
    assert error.value.code == code


def changes_refused(sr: str, key: str, key2: str) -> str:
    return refused(UNKNOWN, "Volume.list_changed_blocks", sr=sr, key=key, key2=key2, offset=0, length=-1)


class TestOneLine:
    def test_written_zeroed_discarded(self, sr: str) -> None:
        """Blocks that never held data, or hold what they held, are not in the answer, wherever they are."""
        disk = tracked(sr)
        fill(sr, disk, 0, 9, 20, 28, 1024, 2000, 40000)
        first = snapshot(sr, disk)
        fill(sr, disk, 9, 5000, seed=99)
        zero(sr, disk, 20, 21)
        discard(sr, disk, 28, 29, 30000)
        second = snapshot(sr, disk)
        expected = of(9, 5000, 20, 28)
        assert changes(sr, first, second) == expected
        assert changes(sr, second, first) == expected
        assert changes(sr, first, disk) == expected
        assert changes(sr, disk, first) == expected
        assert changes(sr, second, disk) == set()
        again = snapshot(sr, second)
        assert changes(sr, second, again) == set()
        assert changes(sr, first, again) == expected

    def test_it_leaves_nothing(self, sr: str) -> None:
        disk = tracked(sr)
        first = snapshot(sr, disk)
        fill(sr, disk, 1)
        before = picture(sr)
        changes(sr, first, disk)
        changes(sr, disk, first)
        assert picture(sr) == before

    @pytest.mark.parametrize("value", ["0", "1"])
    def test_whatever_the_host_sends_of_holes(self, sr: str, value: str) -> None:
        parameter = Path("/sys/module/zfs/parameters/send_holes_without_birth_time")
        before = parameter.read_text()
        disk = tracked(sr)
        fill(sr, disk, 3, 70, 500)
        first = snapshot(sr, disk)
        fill(sr, disk, 3, seed=9)
        discard(sr, disk, 70)
        second = snapshot(sr, disk)
        try:
            parameter.write_text(value)
            assert changes(sr, first, second) == of(3, 70)
            assert parameter.read_text().strip() == value
        finally:
            parameter.write_text(before)

    def test_thin_disk_of_a_tebibyte(self, sr: str, said: "List[str]") -> None:
        disk = tracked(sr, 1 << 40)
        fill(sr, disk, 0, 10_000_000, 60_000_000)
        first = snapshot(sr, disk)
        fill(sr, disk, 10_000_001)
        second = snapshot(sr, disk)
        assert changes(sr, first, second) == of(10_000_001)
        fill(sr, disk, 50_000_000)
        assert changes(sr, second, disk) == of(50_000_000)

    def test_disk_of_64_tebibytes(self, sr: str) -> None:
        disk = tracked(sr, 64 << 40)
        last = (64 << 40) // BLOCK - 1
        first = snapshot(sr, disk)
        fill(sr, disk, 5, last)
        second = snapshot(sr, disk)
        start = (64 << 40) - MIB
        part = call("Volume.list_changed_blocks", sr=sr, key=first, key2=second, offset=start, length=-1)
        assert bits(base64.b64decode(part["bitmap"])) == {MIB // BIT - 1}
        part = call("Volume.list_changed_blocks", sr=sr, key=first, key2=second, offset=0, length=MIB)
        assert bits(base64.b64decode(part["bitmap"])) == of(5)

    def test_grown_between(self, sr: str) -> None:
        disk = tracked(sr, 4 * MIB)
        fill(sr, disk, 1)
        first = snapshot(sr, disk)
        call_inside("Volume.resize", sr=sr, key=disk, new_size=8 * MIB)
        second = snapshot(sr, disk)
        fill(sr, disk, 500)
        third = snapshot(sr, disk)
        assert changes(sr, first, second) == set()
        assert changes(sr, first, third) == of(500)
        assert changes(sr, third, first) == set()

    @pytest.mark.parametrize("size", [2 * MIB, 2 * MIB + 1, 3 * GIB])
    def test_as_a_backup_client_reads_it(self, sr: str, size: int) -> None:
        """In words of 32 bits, big-endian, each for 2 MiB; the bitmap must have nothing but whole words."""
        disk = tracked(sr, size)
        size = stat(sr, disk)["virtual_size"]
        first = snapshot(sr, disk)
        written = [0, 7, size // BLOCK - 1]
        fill(sr, disk, *written)
        second = snapshot(sr, disk)
        answer = call("Volume.list_changed_blocks", sr=sr, key=first, key2=second, offset=0, length=-1)
        bitmap = base64.b64decode(answer["bitmap"])
        assert len(bitmap) == size // (2 * MIB) * 4
        words = [int.from_bytes(bitmap[at : at + 4], "big") for at in range(0, len(bitmap), 4)]
        found = {
            2 * MIB * index // BIT + bit
            for index, word in enumerate(words)
            for bit in range(32)
            if word >> 31 - bit & 1
        }
        assert found == of(*written)

    def test_parts(self, sr: str) -> None:
        disk = tracked(sr, 4 * MIB)
        first = snapshot(sr, disk)
        fill(sr, disk, 4, 5, 40, 255)
        everything = changes(sr, first, disk)
        for offset, length in [
            (0, 0),
            (0, 1),
            (BIT, BIT),
            (BIT - 1, 2),
            (BIT + 1, 9 * BIT),
            (3 * BIT, -1),
            (4 * MIB, -1),
        ]:
            part = call_inside("Volume.list_changed_blocks", sr=sr, key=first, key2=disk, offset=offset, length=length)
            bitmap = base64.b64decode(part["bitmap"])
            end = 4 * MIB if length == -1 else offset + length
            start, last = offset // BIT, -(-end // BIT)
            assert bits(bitmap) == {bit - start for bit in everything if start <= bit < last}
            assert len(bitmap) == -(-(last - start) // 32) * 4

    @pytest.mark.parametrize(("offset", "length"), [(-1, -1), (0, -2), (4 * MIB + 1, -1), (5 * MIB, 1)])
    def test_parts_that_are_none(self, sr: str, offset: int, length: int) -> None:
        disk = tracked(sr, 4 * MIB)
        first = snapshot(sr, disk)
        with pytest.raises(VerbError) as error:
            call_badly("Volume.list_changed_blocks", sr=sr, key=first, key2=disk, offset=offset, length=length)
        assert error.value.code == INVALID

    @pytest.mark.parametrize("block", ["4096", "131072"])
    def test_blocks_of_other_sizes(self, bench: Bench, without_udev: None, block: str) -> None:
        sr = with_nodes(bench.sr(volblocksize=block))
        disk = tracked(sr, 64 * MIB)
        fill(sr, disk, 0, 100, 3000)
        first = snapshot(sr, disk)
        zvol.write(f"{sr}/{disk}", 100 * BLOCK, noise(5, 4096))
        discard_length = int(block)
        run(
            "blkdiscard",
            "-o",
            str(3000 * BLOCK // discard_length * discard_length),
            "-l",
            block,
            zvol.node(f"{sr}/{disk}"),
        )
        second = snapshot(sr, disk)
        found = changes(sr, first, second)
        # A block of 128 KiB has two bits.
        each = max(1, int(block) // BIT)
        expected = {bit // each * each + more for bit in of(100, 3000) for more in range(each)}
        assert found == expected
        destroy_data(sr, first)
        assert changes(sr, first, second) == expected

    def test_thick_disk_without_room_for_a_snapshot(self, bench: Bench, without_udev: None) -> None:
        sr = with_nodes(bench.sr(provisioning="thick", device=bench.disk(256 * MIB)))
        disk = tracked(sr, 100 * MIB)
        first = snapshot(sr, disk)
        zvol.write(f"{sr}/{disk}", 0, noise(1, MIB) * 80)
        before = picture(sr)
        arguments = {"sr": sr, "key": first, "key2": disk, "offset": 0, "length": -1}
        assert "Compare snapshots" in refused(FULL, "Volume.list_changed_blocks", **arguments)
        assert picture(sr) == before

    def test_compression_off(self, bench: Bench, without_udev: None) -> None:
        """Zeros are written then, and no hole."""
        sr = with_nodes(bench.sr(compression="off"))
        disk = tracked(sr, 64 * MIB)
        fill(sr, disk, 0, 100)
        first = snapshot(sr, disk)
        zero(sr, disk, 100, 200)
        assert changes(sr, first, disk) == of(100, 200)

    def test_encrypted(self, bench: Bench, without_udev: None, tmp_path: Path) -> None:
        """With the key loaded, and without."""
        key = tmp_path / "key"
        key.write_bytes(bytes(range(32)))
        sr = with_nodes(bench.sr(**{"encryption-key-file": str(key)}))
        disk = tracked(sr, 64 * MIB)
        fill(sr, disk, 0, 100, 200)
        first = snapshot(sr, disk)
        fill(sr, disk, 100, seed=7)
        discard(sr, disk, 200)
        second = snapshot(sr, disk)
        third = snapshot(sr, disk)
        assert changes(sr, first, second) == of(100, 200)
        destroy_data(sr, first)
        run("zfs", "inherit", "volmode", sr)
        run("zfs", "unload-key", sr)
        assert changes(sr, first, third) == of(100, 200)
        run("zfs", "load-key", "-L", f"file://{key}", sr)


class TestBranches:
    def test_either_side_of_a_revert(self, sr: str) -> None:
        disk = tracked(sr)
        fill(sr, disk, 0, 100)
        before = snapshot(sr, disk)
        fill(sr, disk, 100, 200, seed=5)
        undone = snapshot(sr, disk)
        revert(sr, disk, before)
        fill(sr, disk, 300)
        after = snapshot(sr, disk)
        assert changes(sr, before, after) == of(300)
        assert changes(sr, undone, after) == of(100, 200, 300)
        assert changes(sr, after, undone) == of(100, 200, 300)
        assert changes(sr, undone, disk) == of(100, 200, 300)

    def test_a_clone_and_its_grandparent(self, sr: str) -> None:
        disk = tracked(sr)
        fill(sr, disk, 0)
        first = snapshot(sr, disk)
        fill(sr, disk, 10)
        child = clone(sr, disk)
        fill(sr, child, 20)
        grandchild = clone(sr, child)
        fill(sr, grandchild, 30)
        fill(sr, disk, 40)
        assert changes(sr, first, grandchild) == of(10, 20, 30)
        assert changes(sr, grandchild, first) == of(10, 20, 30)
        assert changes(sr, grandchild, disk) == of(20, 30, 40)
        assert changes(sr, child, grandchild) == of(30)
        destroy(sr, disk)
        assert changes(sr, first, grandchild) == of(10, 20, 30)

    def test_of_different_sizes(self, sr: str) -> None:
        disk = tracked(sr, 4 * MIB)
        fill(sr, disk, 0)
        small = snapshot(sr, disk)
        other = clone(sr, disk)
        call_inside("Volume.resize", sr=sr, key=other, new_size=8 * MIB)
        fill(sr, other, 1, 400)
        assert changes(sr, small, other) == of(1, 400)
        assert changes(sr, other, small) == of(1)
        assert changes(sr, other, disk) == of(1)

    def test_unrelated(self, sr: str) -> None:
        one, other = create(sr), create(sr)
        assert changes_refused(sr, one, other) == (
            "Failed to calculate changed blocks for given VDIs. [opterr=Source and target VDI are unrelated]"
        )
        with pytest.raises(VerbError) as error:
            call("Volume.list_changed_blocks", sr=sr, key=one, key2=other, offset=0, length=-1)
        assert error.value.args[1] == ["", error.value.sentence, ""]

    def test_the_same_twice(self, sr: str) -> None:
        disk = create(sr)
        assert "the same" in changes_refused(sr, disk, disk)

    def test_missing(self, sr: str) -> None:
        disk = create(sr)
        for pair in ((disk, new_uuid()), (new_uuid(), disk)):
            refused(NO_VDI, "Volume.list_changed_blocks", sr=sr, key=pair[0], key2=pair[1], offset=0, length=-1)


class TestTracking:
    def test_who_has_it(self, sr: str) -> None:
        disk = create(sr)
        assert stat(sr, disk)["cbt_enabled"] is False
        call("Volume.enable_cbt", sr=sr, key=disk)
        call("Volume.enable_cbt", sr=sr, key=disk)
        taken, copied = snapshot(sr, disk), clone(sr, disk)
        of_snapshot, clone_of_snapshot = snapshot(sr, taken), clone(sr, taken)
        expected = {disk: True, taken: True, copied: False, of_snapshot: True, clone_of_snapshot: False}
        records = {record["key"]: record for record in call("SR.ls", sr=sr)}
        assert {key: record["cbt_enabled"] for key, record in records.items()} == expected
        assert {key: stat(sr, key)["cbt_enabled"] for key in expected} == expected
        revert(sr, disk, taken)
        assert stat(sr, disk)["cbt_enabled"] is True
        call("Volume.disable_cbt", sr=sr, key=disk)
        call("Volume.disable_cbt", sr=sr, key=disk)
        assert stat(sr, disk)["cbt_enabled"] is False
        assert stat(sr, taken)["cbt_enabled"] is True
        revert(sr, disk, taken)
        assert stat(sr, disk)["cbt_enabled"] is False

    @pytest.mark.parametrize("verb", ["Volume.enable_cbt", "Volume.disable_cbt"])
    @pytest.mark.parametrize("what", ["a snapshot", "another type", "reset at boot"])
    def test_refused(self, sr: str, verb: str, what: str) -> None:
        disk = create(sr)
        if what == "a snapshot":
            disk = snapshot(sr, disk)
        elif what == "another type":
            set_key(sr, disk, "vdi-type", "redo_log")
        else:
            set_key(sr, disk, "clone-on-boot", new_uuid())
        before = picture(sr)
        refused(INVALID, verb, sr=sr, key=disk)
        assert picture(sr) == before

    def test_other_disks_of_vms(self, sr: str) -> None:
        disk = create(sr)
        for kind in ("user", "system", ""):
            set_key(sr, disk, "vdi-type", kind)
            call_inside("Volume.enable_cbt", sr=sr, key=disk)

    def test_not_needed_for_an_answer(self, sr: str) -> None:
        """Nothing has to be switched on beforehand."""
        disk = create(sr)
        first = snapshot(sr, disk)
        fill(sr, disk, 3)
        assert changes(sr, first, disk) == of(3)


class TestDataDestroy:
    def test_the_data_goes_and_the_rest_stays(self, sr: str) -> None:
        disk = tracked(sr)
        zvol.write(f"{sr}/{disk}", 0, noise(1, 4 * MIB))
        taken = snapshot(sr, disk)
        set_key(sr, taken, "k", "v")
        call("Volume.set_name", sr=sr, key=taken, new_name="before the update")
        zvol.write(f"{sr}/{disk}", 0, noise(2, 4 * MIB))
        before = stat(sr, taken)
        call("Volume.data_destroy", sr=sr, key=taken)
        set_key(sr, taken, "vdi-type", "cbt_metadata")
        after = stat(sr, taken)
        before["keys"]["vdi-type"] = "cbt_metadata"
        del before["physical_utilisation"]
        assert after.pop("physical_utilisation") < MIB
        assert after == before
        assert content(sr, taken)[: 4 * MIB] == bytes(4 * MIB)
        assert int(run("zfs", "get", "-Hp", "-o", "value", "usedbysnapshots", f"{sr}/{disk}")) == 0
        assert f"{disk}#cbt-{taken}" in names(sr)
        assert changes(sr, taken, disk) == set(range(4 * MIB // BIT))
        call("Volume.data_destroy", sr=sr, key=taken)
        assert findings(sr) == []
        call("Volume.destroy", sr=sr, key=taken)
        assert names(sr) == {disk}

    @pytest.mark.parametrize(
        ("verb", "arguments"),
        [
            ("Volume.snapshot", {}),
            ("Volume.clone", {}),
            ("Volume.resize", {"new_size": 4 * GIB}),
            ("Volume.enable_cbt", {}),
            ("Volume.revert", {}),
            ("Datapath.attach", {"domain": "u0_backup"}),
        ],
    )
    def test_nothing_can_be_made_of_it(self, sr: str, verb: str, arguments: "dict[str, Any]") -> None:
        disk = tracked(sr)
        taken = snapshot(sr, disk)
        destroy_data(sr, taken)
        before = picture(sr)
        if verb == "Datapath.attach":
            arguments = {**arguments, "uri": stat(sr, taken)["uri"][0]}
        elif verb == "Volume.revert":
            arguments = {"sr": sr, "snapshot": taken, "key": disk}
        else:
            arguments = {**arguments, "sr": sr, "key": taken}
        sentence = refused(INVALID, verb, **arguments)
        assert taken in sentence
        assert picture(sr) == before

    def test_target_without_data(self, sr: str) -> None:
        disk = tracked(sr)
        first = snapshot(sr, disk)
        second = snapshot(sr, disk)
        destroy_data(sr, second)
        assert "destroyed" in changes_refused(sr, first, second)

    def test_refused(self, sr: str) -> None:
        disk = create(sr)
        untracked = snapshot(sr, disk)
        call_inside("Volume.enable_cbt", sr=sr, key=disk)
        opened = snapshot(sr, disk)
        writable = snapshot(sr, disk)
        run("zfs", "set", "readonly=off", f"{sr}/{writable}")
        before = picture(sr)
        for key in (disk, untracked, writable):
            refused(INVALID, "Volume.data_destroy", sr=sr, key=key)
        refused(NO_VDI, "Volume.data_destroy", sr=sr, key=new_uuid())
        with zvol.opened(f"{sr}/{opened}"):
            refused(IN_USE, "Volume.data_destroy", sr=sr, key=opened)
        assert picture(sr) == before

    def test_of_one_of_two_that_share_it(self, sr: str) -> None:
        disk = tracked(sr)
        fill(sr, disk, 0, 1)
        taken = snapshot(sr, disk)
        again = snapshot(sr, taken)
        fill(sr, disk, 9)
        destroy_data(sr, again)
        assert content(sr, taken)[:BLOCK] == noise(1, BLOCK)
        assert changes(sr, again, taken) == set()
        assert changes(sr, again, disk) == of(9)
        destroy_data(sr, taken)
        assert changes(sr, taken, disk) == of(9)
        destroy(sr, again)
        assert names(sr) == {disk, taken, f"{disk}#cbt-{taken}"}
        assert changes(sr, taken, disk) == of(9)

    def test_it_stays_exact(self, sr: str) -> None:
        """What it had allocated is remembered, so holes that never held data do not count."""
        disk = tracked(sr)
        fill(sr, disk, 0, 100, 2000, 40000)
        first = snapshot(sr, disk)
        destroy_data(sr, first)
        fill(sr, disk, 2001)
        discard(sr, disk, 100)
        assert changes(sr, first, disk) == of(2001, 100)

    def test_it_cannot_be_read(self, sr: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """As with damaged blocks. The data goes nevertheless."""
        disk = tracked(sr)
        fill(sr, disk, 0, 1, 2, 3)
        taken = snapshot(sr, disk)
        sent = datasets.sent

        def damaged(*arguments: Any) -> "Iterator[bytes]":
            yield from list(sent(*arguments))[:-1]
            raise StorageError("warning: cannot send: Input/output error")

        monkeypatch.setattr(datasets, "sent", damaged)
        destroy_data(sr, taken)
        monkeypatch.undo()
        fill(sr, disk, 100)
        found = changes(sr, taken, disk)
        assert of(100) <= found
        assert not found & of(0)

    def test_nothing_remembered(self, sr: str, said: "List[str]") -> None:
        """Then holes count, and the log says so. From the next snapshot on it is exact again."""
        disk = tracked(sr)
        fill(sr, disk, 0, 1, 2, 3, 100)
        first = snapshot(sr, disk)
        destroy_data(sr, first)
        run("rm", "-r", allocation.DIRECTORY)
        fill(sr, disk, 2001)
        discard(sr, disk, 100)
        second = snapshot(sr, disk)
        found = changes(sr, first, second)
        assert of(2001, 100) < found
        assert of(0) & found == set()
        assert "all holes in it counted" in said[-1]
        destroy_data(sr, second)
        fill(sr, disk, 7)
        assert changes(sr, second, disk) == of(7)

    @pytest.mark.parametrize("damage", ["cut", "changed", "another's", "empty", "not gzip", "directory"])
    def test_damaged_memory(self, sr: str, damage: str) -> None:
        disk = tracked(sr)
        fill(sr, disk, *range(0, 200, 2))
        first = snapshot(sr, disk)
        fill(sr, disk, 500)
        discard(sr, disk, 100)
        second = snapshot(sr, disk)
        expected = of(500, 100)
        assert changes(sr, first, second) == expected
        guid = int(run("zfs", "get", "-Hp", "-o", "value", "guid", f"{sr}/{disk}@{first}"))
        other = int(run("zfs", "get", "-Hp", "-o", "value", "guid", f"{sr}/{disk}@{second}"))
        (path,) = Path(allocation.DIRECTORY).rglob(f"{guid:016x}")
        data = path.read_bytes()
        if damage == "directory":
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(
                {
                    "cut": data[:-9],
                    "changed": data[:40] + bytes([data[40] ^ 1]) + data[41:],
                    "another's": (path.parent / f"{other:016x}").read_bytes(),
                    "empty": b"",
                    "not gzip": b"x" * 100,
                }[damage]
            )
        assert changes(sr, first, second) == expected
        if damage == "directory":
            path.rmdir()

    def test_disk_destroyed_with_a_living_clone(self, sr: str) -> None:
        disk = tracked(sr)
        fill(sr, disk, 0)
        first = snapshot(sr, disk)
        fill(sr, disk, 10)
        child = clone(sr, disk)
        fill(sr, child, 20)
        destroy_data(sr, first)
        destroy(sr, disk)
        assert buried(sr) == {disk}
        assert changes(sr, first, child) == of(10, 20)

    def test_revert_to_after_it(self, sr: str) -> None:
        disk = tracked(sr)
        fill(sr, disk, 0)
        first = snapshot(sr, disk)
        fill(sr, disk, 10)
        second = snapshot(sr, disk)
        destroy_data(sr, first)
        fill(sr, disk, 20)
        revert(sr, disk, second)
        fill(sr, disk, 30)
        assert changes(sr, first, disk) == of(10, 30)

    def test_revert_to_before_it(self, sr: str, said: "List[str]") -> None:
        """The bookmark is newer than what is left of the old content. Nobody knows what the snapshot held."""
        disk = tracked(sr, 4 * MIB)
        early = snapshot(sr, disk)
        fill(sr, disk, 10)
        late = snapshot(sr, disk)
        destroy_data(sr, late)
        revert(sr, disk, early)
        fill(sr, disk, 30)
        assert changes(sr, late, disk) == set(range(4 * MIB // BIT))
        assert "nobody knows" in said[-1]
        assert changes(sr, early, disk) == of(30)

    def test_revert_to_before_it_with_a_newer_snapshot(self, sr: str, said: "List[str]") -> None:
        disk = tracked(sr)
        fill(sr, disk, 0)
        early = snapshot(sr, disk)
        fill(sr, disk, 10)
        late = snapshot(sr, disk)
        fill(sr, disk, 20)
        latest = snapshot(sr, disk)
        destroy_data(sr, late)
        revert(sr, disk, early)
        fill(sr, disk, 30)
        assert changes(sr, late, disk) == of(10, 20, 30)
        assert "for an older one without data" in said[-1]
        assert changes(sr, late, latest) == of(20)

    def test_key_newer_than_the_target(self, sr: str) -> None:
        disk = tracked(sr)
        first = snapshot(sr, disk)
        fill(sr, disk, 10)
        second = snapshot(sr, disk)
        fill(sr, disk, 20)
        destroy_data(sr, second)
        before = picture(sr)
        # More than it needs: what was written later counts, too.
        assert changes(sr, second, first) == of(10, 20)
        assert picture(sr) == before

    def test_sr_destroyed(self, bench: Bench, without_udev: None) -> None:
        sr = with_nodes(bench.sr(zpool=bench.pool()))
        disk = tracked(sr)
        destroy_data(sr, snapshot(sr, disk), snapshot(sr, disk))
        call_inside("SR.destroy", sr=sr)
        assert run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", "tank").split() == ["tank"]

    def test_all_else_of_the_family_is_gone(self, sr: str) -> None:
        disk = tracked(sr)
        first = snapshot(sr, disk)
        destroy_data(sr, first)
        destroy(sr, disk)
        assert names(sr) == {first}
        other = create(sr)
        assert "unrelated" in changes_refused(sr, first, other)

    def test_destroyed_together_with_others(self, sr: str) -> None:
        disk = tracked(sr)
        keys = [snapshot(sr, disk) for _ in range(3)]
        child = clone(sr, disk)
        destroy_data(sr, keys[0], keys[2])
        destroy(sr, keys[0], disk, keys[1])
        assert changes(sr, keys[2], child) == set()
        destroy(sr, child)
        assert names(sr) == {keys[2]}

    def test_others_bookmarks_stay(self, sr: str) -> None:
        """A bookmark of another program may have the name of a snapshot of the driver's."""
        disk = tracked(sr)
        taken = snapshot(sr, disk)
        theirs = f"{disk}#{taken}"
        run("zfs", "bookmark", f"{sr}/{disk}@{taken}", f"{sr}/{theirs}")
        destroy_data(sr, taken)
        assert changes(sr, taken, disk) == set()
        assert theirs in names(sr)
        destroy(sr, taken)
        assert names(sr) == {disk, theirs}
        assert findings(sr) == []

    def test_others_snapshot_of_it(self, sr: str) -> None:
        """It keeps the data until it goes, as that of a destroyed disk."""
        disk = tracked(sr)
        taken = snapshot(sr, disk)
        run("zfs", "snapshot", f"{sr}/{taken}@autosnap_2026")
        destroy_data(sr, taken)
        assert stat(sr, taken)["cbt_enabled"]
        assert buried(sr) == {taken}
        (theirs,) = [name for name in names(sr) if name.endswith("@autosnap_2026")]
        run("zfs", "destroy", f"{sr}/{theirs}")
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        assert buried(sr) == set()

    def test_others_bookmark_in_its_place(self, sr: str) -> None:
        """Nothing is destroyed then: what changed since could not be asked any more."""
        disk = tracked(sr)
        fill(sr, disk, 0)
        earlier, taken = snapshot(sr, disk), snapshot(sr, disk)
        run("zfs", "bookmark", f"{sr}/{disk}@{earlier}", f"{sr}/{disk}#cbt-{taken}")
        with pytest.raises(VerbError):
            call_inside("Volume.data_destroy", sr=sr, key=taken)
        assert prop(METADATA, f"{sr}/{taken}") == "-"
        assert content(sr, taken)[:BLOCK] == noise(1, BLOCK)
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        destroy_data(sr, taken)
        assert changes(sr, taken, disk) == set()

    def test_record_that_names_a_bookmark_of_others(self, sr: str) -> None:
        disk = tracked(sr)
        taken = snapshot(sr, disk)
        theirs = f"{disk}#monthly"
        run("zfs", "bookmark", f"{sr}/{disk}@{taken}", f"{sr}/{theirs}")
        destroy_data(sr, taken)
        run("zfs", "set", f"{METADATA}=monthly 1 1", f"{sr}/{taken}")
        destroy(sr, taken)
        assert theirs in names(sr)
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        assert names(sr) == {disk, theirs}

    def test_bookmark_destroyed_by_hand(self, sr: str, said: "List[str]") -> None:
        disk = tracked(sr, 4 * MIB)
        taken = snapshot(sr, disk)
        destroy_data(sr, taken)
        run("zfs", "destroy", f"{sr}/{disk}#cbt-{taken}")
        assert "lost its bookmark" in findings(sr)[0]
        assert changes(sr, taken, disk) == set(range(4 * MIB // BIT))
        destroy(sr, taken)

    def test_bookmark_of_nobody(self, sr: str) -> None:
        disk = tracked(sr)
        taken = snapshot(sr, disk)
        run("zfs", "bookmark", f"{sr}/{disk}@{taken}", f"{sr}/{disk}#cbt-{new_uuid()}")
        assert len(findings(sr)) == 1
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        assert findings(sr) == []

    def test_while_it_is_attached(self, bench: Bench, without_udev: None) -> None:
        sr = bench.sr()
        disk = tracked(sr)
        taken = snapshot(sr, disk)
        uri = stat(sr, taken)["uri"][0]
        call_inside("Datapath.attach", uri=uri, domain="u0_x")
        call_inside("Datapath.activate", uri=uri, domain="u0_x")
        assert "u0_x" in refused(IN_USE, "Volume.data_destroy", sr=sr, key=taken)
        call_inside("Datapath.deactivate", uri=uri, domain="u0_x")
        call_inside("Datapath.detach", uri=uri, domain="u0_x")
        destroy_data(sr, taken)


class TestMeanwhile:
    """Others change the family while it is read."""

    @pytest.fixture
    def during(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> "Iterator[List[Callable[[], object]]]":
        """What happens once the first stream has begun, or the first one of a whole snapshot."""
        needs_whole = hasattr(request, "param")
        todo: "List[Callable[[], object]]" = []
        sent = datasets.sent

        def begun(zfs: Any, base: Any, target: str) -> "Iterator[bytes]":
            for chunk in sent(zfs, base, target):
                while todo and (base is None or not needs_whole):
                    todo.pop()()
                yield chunk

        monkeypatch.setattr(datasets, "sent", begun)
        yield todo
        assert todo == []

    @pytest.mark.parametrize("doomed", ["first", "second", "disk"])
    def test_destroyed(self, sr: str, during: "List[Callable[[], object]]", doomed: str) -> None:
        disk = tracked(sr)
        first = snapshot(sr, disk)
        zvol.write(f"{sr}/{disk}", 0, noise(1, LONG))
        second = snapshot(sr, disk)
        target = disk if doomed == "disk" else second
        during.append(lambda: destroy(sr, {"first": first, "second": second, "disk": disk}[doomed]))
        found, code = set(range(LONG // BIT)), NO_VDI
        try:
            found = changes(sr, first, target, size=GIB)
        except VerbError as error:
            code = error.code
        assert (found, code) == (set(range(LONG // BIT)), NO_VDI)
        assert findings(sr) == []

    @pytest.mark.parametrize("to", ["first", "second"])
    def test_reverted(self, sr: str, during: "List[Callable[[], object]]", to: str) -> None:
        disk = tracked(sr)
        first = snapshot(sr, disk)
        fill(sr, disk, 5)
        second = snapshot(sr, disk)
        fill(sr, disk, 9)
        during.append(lambda: revert(sr, disk, first if to == "first" else second))
        # What it was, or what it is.
        assert changes(sr, first, disk) in (of(5, 9), of() if to == "first" else of(5))
        assert findings(sr) == []

    @pytest.mark.parametrize("during", ["a whole snapshot"], indirect=True)
    def test_its_data_destroyed(self, sr: str, during: "List[Callable[[], object]]") -> None:
        disk = tracked(sr)
        zvol.write(f"{sr}/{disk}", 0, noise(1, LONG))
        first = snapshot(sr, disk)
        discard(sr, disk, 5)
        during.append(lambda: destroy_data(sr, first))
        assert changes(sr, first, disk) == of(5)
        assert findings(sr) == []
        assert not [name for name in names(sr) if "@" in name]

    def test_the_one_destroyed_that_is_read_instead(self, sr: str, during: "List[Callable[[], object]]") -> None:
        disk = tracked(sr)
        first = snapshot(sr, disk)
        fill(sr, disk, 5)
        second = snapshot(sr, disk)
        zvol.write(f"{sr}/{disk}", 0, noise(1, LONG))
        third = snapshot(sr, disk)
        destroy_data(sr, second)
        during.append(lambda: destroy(sr, third))
        assert changes(sr, second, first) == set(range(LONG // BIT))
        assert names(sr) == {disk, first, second, f"{disk}@{first}", f"{disk}#cbt-{second}"}

    @pytest.mark.parametrize("during", ["a whole snapshot"], indirect=True)
    def test_the_only_clone_destroyed(self, sr: str, during: "List[Callable[[], object]]") -> None:
        """Its origin is read just then, since holes are compared with it."""
        disk = tracked(sr)
        zvol.write(f"{sr}/{disk}", 0, noise(1, LONG))
        child = clone(sr, disk)
        discard(sr, disk, 0)
        during.append(lambda: destroy(sr, child))
        refused_inside(NO_VDI, sr, disk, child)
        assert names(sr) == {disk}

    def test_written(self, sr: str, during: "List[Callable[[], object]]") -> None:
        disk = tracked(sr)
        first = snapshot(sr, disk)
        fill(sr, disk, 5)
        during.append(lambda: fill(sr, disk, 900))
        assert changes(sr, first, disk) == of(5)

    @pytest.mark.parametrize("purges", [False, True])
    def test_the_family_is_renamed_before_it_is_read(
        self, sr: str, monkeypatch: pytest.MonkeyPatch, purges: bool
    ) -> None:
        """Then it looks again."""
        disk = tracked(sr)
        first = snapshot(sr, disk)
        fill(sr, disk, 5)
        second = snapshot(sr, disk)
        todo = [disk]
        sent = datasets.sent

        def destroyed_first(*arguments: Any) -> "Iterator[bytes]":
            while todo:
                destroy(sr, todo.pop())
            return sent(*arguments)

        monkeypatch.setattr(datasets, "sent", destroyed_first)
        if purges:
            destroy_data(sr, first)
            assert todo == []
        assert changes(sr, first, second) == of(5)

    def test_many_at_once(self, sr: str) -> None:
        disk = tracked(sr)
        fill(sr, disk, 7)
        first = snapshot(sr, disk)
        fill(sr, disk, 5)
        discard(sr, disk, 7)
        arguments = {"sr": sr, "key": first, "key2": disk, "offset": 0, "length": -1}
        running = [start("Volume.list_changed_blocks", **arguments) for _ in range(6)]
        for process in running:
            answer = finish("Volume.list_changed_blocks", process)
            assert bits(base64.b64decode(answer["bitmap"])) == of(5, 7)
        assert names(sr) == {disk, first, f"{disk}@{first}"}


class TestCopies:
    def test_replica(self, sr: str, bench: Bench) -> None:
        """ZFS replicates no bookmarks: a snapshot without data cannot be compared there, and all else can."""
        disk = tracked(sr)
        gone, first = snapshot(sr, disk), snapshot(sr, disk)
        fill(sr, disk, 5)
        second = snapshot(sr, disk)
        destroy_data(sr, gone)
        pool = bench.pool()
        copy = f"{pool}/{sr}"
        run("sh", "-c", f"zfs snapshot -r {sr}@copy && zfs send -R {sr}@copy | zfs receive -u {copy}")
        for root in (sr, copy):
            for name in run("zfs", "list", "-H", "-o", "name", "-t", "snapshot", "-r", root).split():
                if name.endswith("@copy"):
                    run("zfs", "destroy", name)
        moved = renew(copy)
        assert call_inside("SR.attach", configuration={"sr_uuid": moved[-36:], "zpool": pool}) == moved
        keys = {key: derived(moved[-36:], key) for key in (disk, gone, first, second)}
        assert stat(moved, keys[gone])["cbt_enabled"]
        assert changes(moved, keys[first], keys[second]) == of(5)
        assert "unrelated" in changes_refused(moved, keys[gone], keys[second])
        destroy(moved, *keys.values())
        call_inside("SR.detach", sr=moved)

    def test_moved_pool(self, bench: Bench, without_udev: None) -> None:
        """Another host knows the same, but not which holes never held data."""
        sr = with_nodes(bench.sr())
        disk = tracked(sr)
        fill(sr, disk, 0, 1, 2, 3)
        gone = snapshot(sr, disk)
        destroy_data(sr, gone)
        fill(sr, disk, 100)
        call_inside("SR.detach", sr=sr)
        run("rm", "-r", allocation.DIRECTORY)
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        found = changes(sr, gone, disk)
        assert of(100) <= found
        assert not found & of(0)


class TestKilled:
    """Around each of its changes: the snapshot is whole, or the record of its changes is."""

    def test_data_destroy(self, sr: str) -> None:
        disk, taken = tracked(sr), ""
        seen = set()

        def arguments() -> "dict[str, Any]":
            nonlocal taken
            fill(sr, disk, 0, 100, 200)
            taken = snapshot(sr, disk)
            fill(sr, disk, 100, seed=3)
            discard(sr, disk, 200)
            return {"sr": sr, "key": taken}

        for moment, number in kill_points("Volume.data_destroy", arguments):
            record = stat(sr, taken)
            is_whole = taken in names(sr) and prop(METADATA, f"{sr}/{taken}") == "-"
            seen.add(is_whole)
            assert record["cbt_enabled"], (moment, number)
            assert changes(sr, taken, disk) == of(100, 200)
            if not is_whole:
                refused(INVALID, "Volume.clone", sr=sr, key=taken)
            call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
            assert findings(sr) == []
            assert (prop(METADATA, f"{sr}/{taken}") == "-") == is_whole
            if is_whole:
                assert content(sr, taken)[:BLOCK] == noise(1, BLOCK)
            destroy_data(sr, taken)
            assert changes(sr, taken, disk) == of(100, 200)
            destroy(sr, taken)
            assert names(sr) == {disk}
        assert seen == {False, True}

    def test_destroy_of_what_is_left(self, sr: str) -> None:
        disk, taken = tracked(sr), ""

        def arguments() -> "dict[str, Any]":
            nonlocal taken
            taken = snapshot(sr, disk)
            destroy_data(sr, taken)
            return {"sr": sr, "key": taken}

        for _ in kill_points("Volume.destroy", arguments):
            destroy(sr, taken)
            call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
            assert names(sr) == {disk}

    def test_destroy_of_what_is_left_with_others_snapshot(self, sr: str) -> None:
        """The zvol stays for that, but not the bookmark."""
        disk = tracked(sr)
        taken = snapshot(sr, disk)
        destroy_data(sr, taken)
        run("zfs", "snapshot", f"{sr}/{taken}@autosnap_2026")
        assert kill("Volume.destroy", "after", 1, {"sr": sr, "key": taken})
        assert f"{disk}#cbt-{taken}" in names(sr)
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        assert buried(sr) == {taken}
        assert f"{disk}#cbt-{taken}" not in names(sr)
        (theirs,) = [name for name in names(sr) if name.endswith("@autosnap_2026")]
        run("zfs", "destroy", f"{sr}/{theirs}")
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        assert names(sr) == {disk}

    def test_list_changed_blocks(self, sr: str) -> None:
        disk = tracked(sr)
        taken = snapshot(sr, disk)
        fill(sr, disk, 5)
        before = names(sr)
        arguments = {"sr": sr, "key": taken, "key2": disk, "offset": 0, "length": -1}
        for _ in kill_points("Volume.list_changed_blocks", lambda: arguments):
            assert changes(sr, taken, disk) == of(5)
            call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
            assert names(sr) == before


class TestBackup:
    """As Xen Orchestra does it: a full copy, then only the chunks that the bitmap names."""

    @pytest.mark.parametrize("purges", [False, True])
    def test_thirty_rounds(self, sr: str, purges: bool) -> None:
        size = 8 * MIB
        disk = tracked(sr, size)
        fill(sr, disk, *range(0, 500, 7))
        base = snapshot(sr, disk)
        copy = bytearray(content(sr, base))
        early = base
        if purges:
            destroy_data(sr, base)
        for number in range(30):
            fill(sr, disk, *(number * 13 % 500 + more for more in range(3)), seed=number)
            discard(sr, disk, number * 31 % 500)
            zero(sr, disk, number * 17 % 500)
            if number == 12 and not purges:
                revert(sr, disk, early)
            taken = snapshot(sr, disk)
            found = changes(sr, base, taken)
            current = content(sr, taken)
            for bit in found:
                copy[bit * BIT : (bit + 1) * BIT] = current[bit * BIT : (bit + 1) * BIT]
            assert copy == current
            if number != 12:
                assert len(found) <= 6
            if number == 20:
                verb = "Volume.data_destroy" if purges else "Volume.list_changed_blocks"
                more = {"key": taken} if purges else {"key": base, "key2": disk, "offset": 0, "length": -1}
                assert kill(verb, "after", 1, {"sr": sr, **more})
                call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
            if purges:
                destroy_data(sr, taken)
            if base != early:
                destroy(sr, base)
            base = taken
        destroy(sr, base)


class TestMemory:
    def test_it_is_bounded_and_tidy(self, bench: Bench, without_udev: None, monkeypatch: pytest.MonkeyPatch) -> None:
        sr = with_nodes(bench.sr())
        disk = tracked(sr)
        fill(sr, disk, 1, 5)
        taken = [snapshot(sr, disk)]
        for number in range(3):
            fill(sr, disk, number * 4)
            discard(sr, disk, 500)
            taken.append(snapshot(sr, disk))
            changes(sr, taken[-2], taken[-1])
        remembered = list(Path(allocation.DIRECTORY).rglob(f"*/{sr[3:]}/*"))
        assert len(remembered) == 4
        destroy(sr, taken[0])
        changes(sr, taken[1], taken[2])
        assert len(list(Path(allocation.DIRECTORY).rglob(f"*/{sr[3:]}/*"))) == 3
        monkeypatch.setattr(allocation, "_LARGEST_SUM", 0)
        changes(sr, taken[1], taken[2])
        assert list(Path(allocation.DIRECTORY).rglob(f"*/{sr[3:]}/*")) == []
        monkeypatch.setattr(allocation, "_LARGEST", 0)
        assert changes(sr, taken[1], taken[2]) == of(4)
        monkeypatch.undo()
        changes(sr, taken[1], taken[2])
        call_inside("SR.destroy", sr=sr)
        assert not list(Path(allocation.DIRECTORY).rglob(sr[3:]))

    def test_it_reads_no_more_than_it_must(self, sr: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only the increment since the newest content that is known; nothing if the content itself is."""
        disk = tracked(sr)
        fill(sr, disk, 1, 5)
        read: "List[Any]" = []
        sent = datasets.sent

        def counted(dataset: Any, base: "Any", target: str) -> "Iterator[bytes]":
            read.append((base, target))
            return sent(dataset, base, target)

        monkeypatch.setattr(datasets, "sent", counted)
        first, second, third = (snapshot(sr, disk) for _ in range(3))
        destroy_data(sr, first, second, third)
        taken = [f"{sr}/{disk}@{key}" for key in (first, second, third)]
        marks = [f"{sr}/{disk}#cbt-{key}" for key in (first, second)]
        assert read == [(None, taken[0]), (marks[0], taken[1]), (marks[1], taken[2])]
        fourth = snapshot(sr, disk)
        discard(sr, disk, 5)
        changes(sr, fourth, disk)
        del read[:]
        destroy_data(sr, fourth)
        assert read == []
        other = tracked(sr, 2 * MIB)
        fill(sr, other, *range(2 * MIB // BLOCK))
        fifth = snapshot(sr, other)
        fill(sr, other, 9)
        sixth = snapshot(sr, other)
        # There is no hole, so nothing is compared.
        assert changes(sr, fifth, sixth) == of(9)
        assert read == [(f"{sr}/{other}@{fifth}", f"{sr}/{other}@{sixth}")]

    def test_it_keeps_only_what_stays(self, sr: str) -> None:
        """Not what a disk held for the moment of an answer, nor what a snapshot held that is gone."""
        disk = tracked(sr)
        fill(sr, disk, 1, 5)
        first = snapshot(sr, disk)
        discard(sr, disk, 5)
        for _ in range(2):
            changes(sr, first, disk)
        assert len(list(Path(allocation.DIRECTORY).rglob(f"*/{sr[3:]}/*"))) == 1
        destroy(sr, first)
        second = snapshot(sr, disk)
        destroy_data(sr, second)
        assert len(list(Path(allocation.DIRECTORY).rglob(f"*/{sr[3:]}/*"))) == 1

    def test_it_cannot_be_written(self, sr: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(allocation, "DIRECTORY", "/proc/nowhere")
        disk = tracked(sr)
        fill(sr, disk, 0, 100)
        first = snapshot(sr, disk)
        discard(sr, disk, 100)
        assert changes(sr, first, disk) == of(100)
        destroy_data(sr, first)


def test_answers_over_the_wire(sr: str) -> None:
    """Under the interpreter of dom0."""
    disk = tracked(sr)
    fill(sr, disk, 0, 100)
    first = snapshot(sr, disk)
    fill(sr, disk, 5)
    discard(sr, disk, 100)
    call("Volume.data_destroy", sr=sr, key=first)
    answer = call("Volume.list_changed_blocks", sr=sr, key=first, key2=disk, offset=0, length=-1)
    assert bits(base64.b64decode(json.loads(json.dumps(answer))["bitmap"])) == of(5, 100)
