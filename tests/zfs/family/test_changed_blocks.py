# SPDX-License-Identifier: LGPL-2.1-only
"""Which blocks changed between two VDIs, on real ZFS: what is written, zeroed, discarded; disks in use; branches."""

import base64
import json
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from tests import zvol
from tests.client import VerbError, call, call_badly, call_inside, finish, new_uuid, refused, start
from tests.killed import kill, kill_points
from tests.model import BIT, BLOCK, bits, noise
from tests.zfs.conftest import MIB, Bench, run
from tests.zfs.family.changes import (
    GIB,
    LONG,
    changes,
    changes_refused,
    destroy_data,
    discard,
    fill,
    of,
    said,
    sr,
    tracked,
    zero,
)
from tests.zfs.family.relatives import (
    FULL,
    INVALID,
    NO_VDI,
    clone,
    content,
    create,
    destroy,
    findings,
    names,
    picture,
    revert,
    set_key,
    snapshot,
    stat,
    with_nodes,
)
from zfsvol.repository import allocation
from zfsvol.repository.identity import derived, renew
from zfsvol.zfs import datasets

__all__ = ["said", "sr"]


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
        changes_refused(sr, disk, child, NO_VDI)
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

    def test_killed(self, sr: str) -> None:
        disk = tracked(sr)
        taken = snapshot(sr, disk)
        fill(sr, disk, 5)
        before = names(sr)
        arguments = {"sr": sr, "key": taken, "key2": disk, "offset": 0, "length": -1}
        for _ in kill_points("Volume.list_changed_blocks", lambda: arguments):
            assert changes(sr, taken, disk) == of(5)
            call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
            assert names(sr) == before


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


class TestBackup:
    """As Xen Orchestra does it: a full copy, then only the chunks that the bitmap names."""

    @pytest.mark.parametrize("purges", [False, True])
    def test_many_rounds(self, sr: str, purges: bool) -> None:
        size = 8 * MIB
        disk = tracked(sr, size)
        fill(sr, disk, *range(0, 500, 7))
        base = snapshot(sr, disk)
        copy = bytearray(content(sr, base))
        early = base
        if purges:
            destroy_data(sr, base)
        for number in range(12):
            fill(sr, disk, *(number * 13 % 500 + more for more in range(3)), seed=number)
            discard(sr, disk, number * 31 % 500)
            zero(sr, disk, number * 17 % 500)
            if number == 6 and not purges:
                revert(sr, disk, early)
            taken = snapshot(sr, disk)
            found = changes(sr, base, taken)
            current = content(sr, taken)
            for bit in found:
                copy[bit * BIT : (bit + 1) * BIT] = current[bit * BIT : (bit + 1) * BIT]
            assert copy == current
            if number != 6:
                assert len(found) <= 6
            if number == 10:
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
