# SPDX-License-Identifier: LGPL-2.1-only
"""What snapshots and clones hold, and what their records say."""

import os
import re
import threading
from typing import Any

import pytest

from tests import zvol
from tests.client import call, call_inside, new_uuid, refused
from tests.model import noise
from tests.zfs.conftest import MIB, Bench, device_node, run
from tests.zfs.family.relatives import (
    BLOCK,
    NO_SR,
    NO_VDI,
    SIZE,
    clone,
    content,
    create,
    destroy,
    destroy_everything,
    lasting,
    names,
    records,
    require_content,
    set_key,
    snapshot,
    stat,
    write,
)


class TestContent:
    def test_through_the_nodes_that_an_attach_makes(self, with_udev: None, bench: Bench) -> None:
        """The other tests use device nodes that udev leaves alone. This one uses udev, as a host does."""
        sr = bench.sr(device=bench.loop())
        disk = create(sr)
        with device_node(f"{sr}/{disk}") as node, open(node, "wb") as file:
            file.write(noise(1, MIB))
        made = [call(verb, sr=sr, key=disk)["key"] for verb in ("Volume.snapshot", "Volume.clone")]
        with device_node(f"{sr}/{disk}") as node, open(node, "wb") as file:
            file.write(noise(2, MIB))
        for key, seed in [(disk, 2), *((key, 1) for key in made)]:
            with device_node(f"{sr}/{key}") as node, open(node, "rb") as file:
                assert file.read() == noise(seed, MIB) + bytes(SIZE - MIB)
        destroy_everything(sr)

    def test_of_each_is_its_own(self, sr: str) -> None:
        disk = create(sr)
        write(sr, disk, 1)
        snapshot_1, clone_1 = snapshot(sr, disk), clone(sr, disk)
        write(sr, disk, 2)
        snapshot_2 = snapshot(sr, disk)
        write(sr, clone_1, 3)
        require_content(sr, {disk: 2, snapshot_1: 1, clone_1: 3, snapshot_2: 2})

    def test_snapshot_of_a_snapshot(self, sr: str) -> None:
        disk = create(sr)
        write(sr, disk, 1)
        first = snapshot(sr, disk)
        write(sr, disk, 2)
        second = snapshot(sr, first)
        require_content(sr, {second: 1})
        destroy(sr, first)
        require_content(sr, {second: 1})

    def test_clone_of_a_snapshot(self, sr: str) -> None:
        disk = create(sr)
        write(sr, disk, 1)
        taken = snapshot(sr, disk)
        write(sr, disk, 2)
        made = clone(sr, taken)
        require_content(sr, {made: 1})
        write(sr, made, 3)
        require_content(sr, {taken: 1, disk: 2})

    def test_clone_of_a_clone(self, sr: str) -> None:
        disk = create(sr)
        write(sr, disk, 1)
        first = clone(sr, disk)
        write(sr, first, 2)
        second = clone(sr, first)
        write(sr, first, 3)
        require_content(sr, {disk: 1, first: 3, second: 2})

    def test_snapshot_cannot_be_written(self, sr: str) -> None:
        taken = snapshot(sr, create(sr))
        with pytest.raises(OSError, match=r"Read-only|not permitted|denied"):
            write(sr, taken, 1)

    def test_of_an_open_disk(self, sr: str) -> None:
        """A snapshot of a disk that is being written to holds the disk as it was at one moment of the call."""
        blocks = 64
        disk = create(sr)
        written = 0
        enough = threading.Event()

        def keep_writing(descriptor: int) -> None:
            """Writes one block after the other, round and round. Each block holds the number of its write."""
            nonlocal written
            while not enough.is_set():
                number = written + 1
                os.pwrite(descriptor, number.to_bytes(8, "big") * (BLOCK // 8), written % blocks * BLOCK)
                os.fsync(descriptor)
                written = number

        taken = []
        with zvol.opened(f"{sr}/{disk}", writable=True) as descriptor:
            writer = threading.Thread(target=keep_writing, args=(descriptor,))
            writer.start()
            try:
                for verb in ("Volume.snapshot", "Volume.clone", "Volume.snapshot"):
                    before = written
                    taken.append((call_inside(verb, sr=sr, key=disk)["key"], before, written + 1))
            finally:
                enough.set()
                writer.join()
        for key, earliest, latest in taken:
            found = content(sr, key)
            numbers = [int.from_bytes(found[start : start + 8], "big") for start in range(0, blocks * BLOCK, BLOCK)]
            assert found == b"".join(number.to_bytes(8, "big") * (BLOCK // 8) for number in numbers).ljust(SIZE, b"\0")
            newest = max(numbers)
            assert earliest <= newest <= latest
            expected = [max(0, newest - (newest - 1 - block) % blocks) for block in range(blocks)]
            assert numbers == expected

    @pytest.mark.parametrize("kind", ["clone", "snapshot"])
    def test_of_what_an_administrator_changed(self, sr: str, kind: str) -> None:
        """What somebody may have written to can differ from its origin, even if it is read-only now."""
        disk = create(sr)
        write(sr, disk, 1)
        made = (clone if kind == "clone" else snapshot)(sr, disk)
        run("zfs", "set", "readonly=off", f"{sr}/{made}")
        write(sr, made, 2)
        if kind == "clone":
            run("zfs", "set", "readonly=on", f"{sr}/{made}")
            assert stat(sr, made)["read_write"] is False
        require_content(sr, {clone(sr, made): 2})
        require_content(sr, {snapshot(sr, made): 2})


class TestRecords:
    def source(self, sr: str) -> str:
        key = create(sr, name="n" * 9000, description="d💾\n" * 3000, sharable=True)
        for k, v in {"vdi-type": "system", "content_id": "c", "clone-on-boot": new_uuid(), "other": "o"}.items():
            set_key(sr, key, k, v)
        return key

    def unset_temporary(self, sr: str, key: str) -> None:
        call_inside("Volume.unset", sr=sr, key=key, k="clone-on-boot")

    def test_snapshot(self, sr: str) -> None:
        key = self.source(sr)
        made = call("Volume.snapshot", sr=sr, key=key)
        keys = made["keys"]
        assert re.match(r"\d{8}T\d\d:\d\d:\d\dZ\Z", keys.pop("snapshot_time"))
        assert keys.pop("content_id") == "c"  # as the client sets it
        assert keys == {"is_a_snapshot": "true", "snapshot_of": key, "vdi-type": "system"}
        self.require_same(sr, key, call("Volume.stat", sr=sr, key=made["key"]), read_write=False)
        self.unset_temporary(sr, key)

    def test_clone(self, sr: str) -> None:
        key = self.source(sr)
        made = call("Volume.clone", sr=sr, key=key)
        assert made["keys"].pop("content_id") not in ("", "c")
        assert made["keys"] == {"vdi-type": "system"}
        self.require_same(sr, key, call("Volume.stat", sr=sr, key=made["key"]), read_write=True)
        self.unset_temporary(sr, key)

    def require_same(self, sr: str, key: str, made: "dict[str, Any]", *, read_write: bool) -> None:
        source = stat(sr, key)
        for name in ("name", "description", "virtual_size", "sharable"):
            assert made[name] == source[name]
        assert made["sharable"] is True
        assert made["read_write"] is read_write
        assert made["uri"] == [f"zvol://{sr}/{made['key']}"]

    def test_answers_are_what_is_read_later(self, sr: str) -> None:
        disk = self.source(sr)
        self.unset_temporary(sr, disk)
        made = [lasting(call_inside(verb, sr=sr, key=disk)) for verb in ("Volume.snapshot", "Volume.clone")]
        made += [lasting(call_inside(verb, sr=sr, key=made[0]["key"])) for verb in ("Volume.snapshot", "Volume.clone")]
        assert [lasting(stat(sr, record["key"])) for record in made] == made
        everything = records(sr)
        assert [everything[record["key"]] for record in made] == made

    def test_snapshot_of_a_snapshot_names_that(self, sr: str) -> None:
        first = snapshot(sr, create(sr))
        assert stat(sr, snapshot(sr, first))["keys"]["snapshot_of"] == first

    def test_clone_of_a_snapshot_is_no_snapshot(self, sr: str) -> None:
        made = call_inside("Volume.clone", sr=sr, key=snapshot(sr, create(sr)))
        assert made["read_write"] is True
        assert set(made["keys"]) == {"content_id"}

    @pytest.mark.parametrize("verb", ["Volume.snapshot", "Volume.clone"])
    def test_of_what_is_not_there(self, sr: str, verb: str) -> None:
        key = new_uuid()
        assert key in refused(NO_VDI, verb, sr=sr, key=key)
        refused(NO_SR, verb, sr=f"sr-{new_uuid()}", key=key)
        assert names(sr) == set()
