# SPDX-License-Identifier: LGPL-2.1-only
"""Snapshots, clones, reverts and destroys on genuine OpenZFS: what becomes of a disk's relatives, and of its space.

ZFSVOL_FAMILY chooses how large the largest families are.
"""

from contextlib import contextmanager
import functools
import itertools
import os
import random
import re
import shlex
import subprocess
import sys
import threading
from typing import Any, Callable, Iterator, NamedTuple

import pytest

from tests import client, zvol
from tests.client import VerbError, call, call_inside, new_uuid
from tests.model import checksum, noise
from tests.zfs.conftest import MIB, Bench, device_node, run, run_status, udevadm, wait_until
from zfsvol.repository import family, lineage, repair
from zfsvol.repository.sr import SR
from zfsvol.verbs import check as checking
from zfsvol.zfs import changes, datasets, pool, programs

SIZE = 2 * MIB
BLOCK = 16384
MEMBERS = int(os.environ.get("ZFSVOL_FAMILY", "24"))
GENERATIONS = min(200, MEMBERS // 2)

INVALID, IN_USE, FULL, NO_VDI, NO_SR = (f"SR_BACKEND_FAILURE_{code}" for code in (1, 24, 44, 46, 47))


@pytest.fixture(scope="module", autouse=True)
def without_udev() -> "Iterator[None]":
    """It would look into the nodes of the many zvols that come and go, and keep these busy."""
    udevadm("control", "--stop-exec-queue")
    yield
    udevadm("control", "--start-exec-queue")


@pytest.fixture
def with_udev() -> "Iterator[None]":
    """For tests of what is as on a host."""
    udevadm("control", "--start-exec-queue")
    yield
    udevadm("settle")
    udevadm("control", "--stop-exec-queue")


def with_nodes(sr: str) -> str:
    """All its zvols have device nodes from now on."""
    run("zfs", "set", "volmode=dev", sr)
    return sr


@pytest.fixture(scope="module")
def shared(without_udev: None, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[str]":
    """One SR for most of the tests: making one takes longer than they do."""
    bench = Bench(tmp_path_factory.mktemp("shared"))
    yield with_nodes(bench.sr())
    bench.close()


def destroy_everything(sr: str) -> None:
    """When every VDI is destroyed, nothing at all is left."""
    try:
        require_well(sr)
        for key in listed(sr):
            call_inside("Volume.destroy", sr=sr, key=key)
        left = names(sr)
        assert left == set()
    except BaseException:
        for name in run("zfs", "list", "-H", "-o", "name", "-d", "1", "-r", sr).split()[1:]:
            run("zfs", "destroy", "-R", name, check=False)
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        raise


@pytest.fixture
def sr(shared: str) -> "Iterator[str]":
    """An SR that must be well after the test, and empty when its VDIs are destroyed. Its zvols have device nodes."""
    yield shared
    destroy_everything(shared)


@pytest.fixture
def tank(bench: Bench) -> "Iterator[str]":
    """The same in a pool of the administrator's."""
    made = with_nodes(bench.sr(zpool=bench.pool()))
    yield made
    destroy_everything(made)


@pytest.fixture
def busy_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in use is refused without the wait for it to become idle."""
    monkeypatch.setattr(pool, "_BUSY_LIMIT", 0.05)
    monkeypatch.setattr(pool, "_BUSY_PAUSE", 0.01)


def create(sr: str, size: int = SIZE, name: str = "disk", description: str = "", *, sharable: bool = False) -> str:
    made = call_inside("Volume.create", sr=sr, name=name, description=description, size=size, sharable=sharable)
    return str(made["key"])


def snapshot(sr: str, key: str) -> str:
    return str(call_inside("Volume.snapshot", sr=sr, key=key)["key"])


def clone(sr: str, key: str) -> str:
    return str(call_inside("Volume.clone", sr=sr, key=key)["key"])


def destroy(sr: str, *keys: str) -> None:
    for key in keys:
        call_inside("Volume.destroy", sr=sr, key=key)


def revert(sr: str, key: str, to: str) -> None:
    call_inside("Volume.revert", sr=sr, snapshot=to, key=key)


def stat(sr: str, key: str) -> "dict[str, Any]":
    read = call_inside("Volume.stat", sr=sr, key=key)
    assert isinstance(read, dict)
    return read


def set_key(sr: str, key: str, k: str, v: str) -> None:
    call_inside("Volume.set", sr=sr, key=key, k=k, v=v)


def listed(sr: str) -> "dict[str, dict[str, Any]]":
    """The records that SR.ls answers with, by key."""
    return {record["key"]: record for record in call_inside("SR.ls", sr=sr)}


def lasting(record: "dict[str, Any]") -> "dict[str, Any]":
    """All of a record but what it takes of the pool."""
    return {name: value for name, value in record.items() if name != "physical_utilisation"}


def records(sr: str) -> "dict[str, dict[str, Any]]":
    return {key: lasting(record) for key, record in listed(sr).items()}


def write(sr: str, key: str, seed: int, length: int = MIB) -> None:
    zvol.write(f"{sr}/{key}", 0, noise(seed, length))


@functools.lru_cache(maxsize=None)
def checksum_of(seed: int, size: int) -> str:
    """Of a VDI that `write` with this seed has written to, once."""
    return checksum(noise(seed, MIB) + bytes(size - MIB))


def require_content(sr: str, seeds: "dict[str, int]", size: int = SIZE) -> None:
    """The VDIs have this size, and hold what `write` with these seeds has written, and nothing else."""
    found = zvol.checksums(dict.fromkeys((f"{sr}/{key}" for key in seeds), size))
    assert found == {f"{sr}/{key}": checksum_of(seed, size) for key, seed in seeds.items()}


def content(sr: str, key: str) -> bytes:
    """All bytes of a VDI, of which there must be as many as its record tells."""
    with zvol.opened(f"{sr}/{key}") as descriptor, open(descriptor, "rb", closefd=False) as file:
        found = file.read()
    assert len(found) == stat(sr, key)["virtual_size"]
    return found


def names(sr: str) -> "set[str]":
    """All datasets and snapshots below the SR's root, by their names without it."""
    found = run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", sr).split()
    return {name[len(sr) + 1 :] for name in found if name.startswith(sr + "/")}


def buried(sr: str) -> "set[str]":
    """The zvols of removed VDIs, by the uuids that they had."""
    return {name[len(".gone-") :].split(".")[0] for name in names(sr) if re.match(r"\.gone-[^@]+\Z", name)}


def prop(name: str, dataset: str) -> str:
    return run("zfs", "get", "-Hp", "-o", "value", name, dataset).strip()


def used(sr: str) -> int:
    return int(prop("used", sr))


def findings(sr: str) -> "list[str]":
    return [finding.text for finding in repair.inspect(family.read(SR(sr)))]


def require_well(sr: str) -> None:
    """Nothing is half done, and nothing is there that nobody needs."""
    assert findings(sr) == []


def picture(sr: str) -> "tuple[set[str], str]":
    """Everything in the SR that somebody has made or set."""
    settings = run("zfs", "get", "-Hp", "-r", "-s", "local", "-o", "name,property,value", "all", sr)
    return names(sr), settings


def refused(code: str, verb: str, **arguments: Any) -> str:
    """Calls a verb that must fail with this code; its sentence."""
    with pytest.raises(VerbError) as caught:
        call_inside(verb, **arguments)
    assert caught.value.code == code, caught.value.sentence
    return caught.value.sentence


def check(dataset: str, *options: str, **environment: str) -> "tuple[int, str, str]":
    """Status, stdout and stderr of `python3 -m zfsvol check`."""
    python = os.environ.get("ZFSVOL_PYTHON", sys.executable)
    done = subprocess.run(
        [python, "-m", "zfsvol", "check", dataset, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**client.environment(), **environment},
        timeout=120,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def told(sr: str, *, mend: bool = False) -> "tuple[bool, list[str]]":
    """The same in this process: whether all is well, and what is wrong or was."""
    lines: "list[str]" = []
    is_well = checking.check(sr, mend=mend, say=lines.append)
    return is_well, [line for line in lines if line.startswith(("WRONG: ", "repaired: ", "all is well"))]


class TestContent:
    def test_through_the_nodes_that_an_attach_makes(self, with_udev: None, bench: Bench) -> None:
        """All else here reads through device nodes that udev leaves alone; this is as on a host."""
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
        """A snapshot of a disk that is written to meanwhile is the disk at one moment of the call."""
        blocks = 64
        disk = create(sr)
        written = 0
        enough = threading.Event()

        def keep_writing(descriptor: int) -> None:
            """One block after the other, round and round; each says which write it was."""
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
        """Only what nobody can have written to is as its origin is."""
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


class Members(NamedTuple):
    """A small family. The disk was written to after everything was made from it."""

    disk: str
    snapshot: str
    clone: str  # of the disk
    clone_of_snapshot: str

    @classmethod
    def two(cls, sr: str) -> "Members":
        """The disk holds 2, the snapshot 1; no clones."""
        disk = create(sr)
        write(sr, disk, 1)
        taken = snapshot(sr, disk)
        write(sr, disk, 2)
        return cls(disk, taken, "", "")

    @classmethod
    def made(cls, sr: str) -> "Members":
        """The disk holds 2, the clone of the snapshot 3, all else 1."""
        disk = create(sr)
        write(sr, disk, 1)
        taken = snapshot(sr, disk)
        made = cls(disk, taken, clone(sr, disk), clone(sr, taken))
        write(sr, disk, 2)
        write(sr, made.clone_of_snapshot, 3)
        return made

    def require(self, sr: str, *gone: str) -> None:
        """All but those that are gone are there as they were made."""
        seeds = {self.disk: 2, self.snapshot: 1, self.clone: 1, self.clone_of_snapshot: 3}
        expected = {key: seed for key, seed in seeds.items() if key and key not in gone}
        assert set(listed(sr)) == set(expected)
        require_content(sr, expected)


class TestDestroy:
    # Each first one with each second one of two; the models take all orders at random.
    @pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::4])
    def test_in_any_order(self, sr: str, order: "tuple[int, ...]") -> None:
        members = Members.made(sr)
        gone: "list[str]" = []
        for number in order:
            destroy(sr, members[number])
            gone.append(members[number])
            members.require(sr, *gone)
            require_well(sr)
        assert names(sr) == set()

    def test_space_of_its_own_is_free(self, sr: str) -> None:
        """Though others were made from it."""
        empty = used(sr)
        disk = create(sr, 64 * MIB)
        write(sr, disk, 1)
        taken = snapshot(sr, disk)
        with zvol.opened(f"{sr}/{disk}", writable=True) as descriptor:
            assert os.pwrite(descriptor, os.urandom(30 * MIB), MIB) == 30 * MIB
            os.fsync(descriptor)
        wait_until(lambda: used(sr) - empty > 30 * MIB, "what was written to count")
        destroy(sr, disk)
        assert buried(sr) == {disk}
        wait_until(lambda: used(sr) - empty < 3 * MIB, "the space of what only the disk had")
        require_content(sr, {taken: 1}, 64 * MIB)
        destroy(sr, taken)
        assert names(sr) == set()
        wait_until(lambda: used(sr) - empty < MIB, "the space of what the snapshot had")

    def test_snapshots_leave_nothing(self, sr: str) -> None:
        disk = create(sr)
        before = names(sr)
        for _ in range(3):
            destroy(sr, snapshot(sr, disk))
            assert names(sr) == before

    def test_again(self, sr: str) -> None:
        members = Members.made(sr)
        for key in (members.disk, members.clone):
            call("Volume.destroy", sr=sr, key=key)
            call("Volume.destroy", sr=sr, key=key)
        members.require(sr, members.disk, members.clone)

    def test_of_what_is_not_there(self, sr: str) -> None:
        destroy(sr, new_uuid())
        refused(NO_SR, "Volume.destroy", sr=f"sr-{new_uuid()}", key=new_uuid())
        refused(NO_SR, "Volume.destroy", sr=f"{sr}/sr-{new_uuid()}", key=new_uuid())

    def test_removed_is_no_vdi(self, sr: str) -> None:
        """Whatever is asked of it."""
        members = Members.made(sr)
        destroy(sr, members.disk)
        before = picture(sr)
        for verb, arguments in VERBS_ON_ONE.items():
            if verb != "Volume.destroy":
                refused(NO_VDI, verb, sr=sr, key=members.disk, **arguments)
        refused(NO_VDI, "Volume.revert", sr=sr, key=members.disk, snapshot=members.snapshot)
        refused(NO_VDI, "Volume.revert", sr=sr, key=members.clone, snapshot=members.disk)
        assert picture(sr) == before


VERBS_ON_ONE: "dict[str, dict[str, Any]]" = {
    "Volume.stat": {},
    "Volume.snapshot": {},
    "Volume.clone": {},
    "Volume.resize": {"new_size": 2 * SIZE},
    "Volume.set_name": {"new_name": "new"},
    "Volume.set_description": {"new_description": "new"},
    "Volume.set": {"k": "k", "v": "v"},
    "Volume.unset": {"k": "k"},
    "Volume.destroy": {},
}


class TestOpen:
    """The node that udev links tells who has it open, so these are on an SR where udev is at work."""

    @pytest.mark.parametrize("has_relatives", [True, False], ids=["with relatives", "alone"])
    def test_is_neither_destroyed_nor_reverted(
        self, with_udev: None, bench: Bench, busy_at_once: None, has_relatives: bool
    ) -> None:
        sr = bench.sr(device=bench.loop())
        disk = create(sr)
        other = snapshot(sr, disk if has_relatives else create(sr))
        with device_node(f"{sr}/{disk}") as node, open(node, "r+b", buffering=0) as file:
            file.write(noise(1, MIB))
            os.fsync(file.fileno())
            before = picture(sr)
            for verb, arguments in (("Volume.destroy", {}), ("Volume.revert", {"snapshot": other})):
                sentence = refused(IN_USE, verb, sr=sr, key=disk, **arguments)
                assert disk in sentence
                assert f"({os.getpid()})" in sentence
                assert picture(sr) == before
                require_well(sr)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            assert file.read(MIB) == noise(1, MIB)
        destroy_everything(sr)

    def test_snapshot_is_not_destroyed(self, sr: str, busy_at_once: None) -> None:
        taken = snapshot(sr, create(sr))
        before = picture(sr)
        with zvol.opened(f"{sr}/{taken}"):
            assert taken in refused(IN_USE, "Volume.destroy", sr=sr, key=taken)
        assert picture(sr) == before

    def test_relatives_do_not_matter(self, sr: str) -> None:
        members = Members.made(sr)
        with zvol.opened(f"{sr}/{members.clone}"), zvol.opened(f"{sr}/{members.snapshot}"):
            revert(sr, members.disk, members.snapshot)
            destroy(sr, members.disk, members.clone_of_snapshot)
        destroy(sr, members.clone)
        require_content(sr, {members.snapshot: 1})


class TestRevert:
    def family(self, sr: str) -> "tuple[str, list[str]]":
        """A disk that holds 4, and its snapshots, which hold 1, 2 and 3."""
        disk = create(sr)
        taken = []
        for seed in (1, 2, 3):
            write(sr, disk, seed)
            taken.append(snapshot(sr, disk))
        write(sr, disk, 4)
        return disk, taken

    @pytest.mark.parametrize("to", [0, 1, 2])
    def test_leaves_all_else(self, sr: str, to: int) -> None:
        disk, taken = self.family(sr)
        before = records(sr)
        call("Volume.revert", sr=sr, snapshot=taken[to], key=disk)
        require_content(sr, {disk: to + 1})
        require_content(sr, dict(zip(taken, (1, 2, 3))))
        assert records(sr) == before
        require_well(sr)
        # It is a disk like any other.
        write(sr, disk, 5)
        taken.append(snapshot(sr, disk))
        require_content(sr, dict(zip(taken, (1, 2, 3, 5))))

    def test_again_and_to_another(self, sr: str) -> None:
        disk, taken = self.family(sr)
        for to in (1, 1, 0, 2):
            revert(sr, disk, taken[to])
            require_content(sr, {disk: to + 1})
            require_well(sr)
        require_content(sr, dict(zip(taken, (1, 2, 3))))
        # One for the first content, which has the snapshots; none for the others, which nothing was made from.
        assert len(buried(sr)) == 1
        assert len([name for name in names(sr) if name.startswith(".gone-") and "@" not in name]) == 1

    def test_restores_the_size(self, sr: str) -> None:
        disk = create(sr)
        write(sr, disk, 1)
        small = snapshot(sr, disk)
        call_inside("Volume.resize", sr=sr, key=disk, new_size=3 * SIZE)
        large = snapshot(sr, disk)
        for to, size in ((small, SIZE), (large, 3 * SIZE)):
            revert(sr, disk, to)
            assert stat(sr, disk)["virtual_size"] == size
            require_content(sr, {disk: 1}, size)

    def test_keeps_what_was_set(self, sr: str) -> None:
        disk = create(sr, name="old")
        taken = snapshot(sr, disk)
        name, description = "n" * 9000, "d💾\n"
        call_inside("Volume.set_name", sr=sr, key=disk, new_name=name)
        call_inside("Volume.set_description", sr=sr, key=disk, new_description=description)
        for k, v in {"vdi-type": "user", "content_id": "c", "x": "y" * 9000}.items():
            set_key(sr, disk, k, v)
        run("zfs", "set", "compression=off", "sync=always", "com.example:note=a b", f"{sr}/{disk}")
        before = records(sr)
        revert(sr, disk, taken)
        assert records(sr) == before
        assert before[disk]["name"] == name
        for setting, value in (("compression", "off"), ("sync", "always"), ("com.example:note", "a b")):
            assert prop(setting, f"{sr}/{disk}") == value
        for setting in ("compression", "sync", "com.example:note"):
            assert prop(setting, f"{sr}/{taken}") != prop(setting, f"{sr}/{disk}")
        # As before, it comes and goes with the root's.
        assert run("zfs", "get", "-H", "-o", "source", "volmode", f"{sr}/{disk}").startswith("inherited")
        assert run("zfs", "get", "-H", "-o", "source", "readonly", f"{sr}/{disk}").strip() == "default"

    def test_of_a_clone_to_where_it_came_from(self, sr: str) -> None:
        disk = create(sr)
        write(sr, disk, 1)
        taken = snapshot(sr, disk)
        made = clone(sr, taken)
        write(sr, made, 2)
        write(sr, disk, 3)
        revert(sr, made, taken)
        require_content(sr, {made: 1, taken: 1, disk: 3})
        assert buried(sr) == set()

    def test_snapshot_of_the_new_content_and_back(self, sr: str) -> None:
        """Snapshots before and after a revert are of two zvols with one uuid."""
        disk, taken = self.family(sr)
        revert(sr, disk, taken[0])
        write(sr, disk, 5)
        later = snapshot(sr, disk)
        revert(sr, disk, taken[2])
        require_content(sr, {disk: 3})
        revert(sr, disk, later)
        require_content(sr, {disk: 5})
        destroy(sr, *taken)
        require_content(sr, {later: 5})
        destroy(sr, disk)
        require_content(sr, {later: 5})

    def test_refused(self, sr: str) -> None:
        disk, taken = self.family(sr)
        other = clone(sr, disk)
        before = picture(sr)
        assert other in refused(INVALID, "Volume.revert", sr=sr, snapshot=other, key=disk)
        assert disk in refused(INVALID, "Volume.revert", sr=sr, snapshot=disk, key=disk)
        assert taken[0] in refused(INVALID, "Volume.revert", sr=sr, snapshot=taken[1], key=taken[0])
        for unknown in (new_uuid(), new_uuid()):
            assert unknown in refused(NO_VDI, "Volume.revert", sr=sr, snapshot=unknown, key=disk)
            assert unknown in refused(NO_VDI, "Volume.revert", sr=sr, snapshot=taken[0], key=unknown)
        refused(NO_SR, "Volume.revert", sr=f"sr-{new_uuid()}", snapshot=taken[0], key=disk)
        assert picture(sr) == before
        require_content(sr, {disk: 4})

    def test_drops_the_clone_on_boot_temporary(self, sr: str) -> None:
        disk, taken = self.family(sr)
        temporary = clone(sr, disk)
        set_key(sr, disk, "clone-on-boot", temporary)
        revert(sr, disk, taken[0])
        assert set(listed(sr)) == {disk, *taken}
        assert "clone-on-boot" not in stat(sr, disk)["keys"]


class TestRevertOfOldClients:
    """They destroy the disk and clone its snapshot, and then take the clone for the disk."""

    def test_snapshots_become_those_of_the_clone(self, sr: str) -> None:
        disk = create(sr)
        taken = [snapshot(sr, disk) for _ in range(3)]
        stranger = snapshot(sr, create(sr))
        destroy(sr, disk)
        made = clone(sr, taken[1])
        found = records(sr)
        assert [found[key]["keys"]["snapshot_of"] for key in taken] == [made] * 3
        assert found[stranger]["keys"]["snapshot_of"] not in (disk, made)
        # Once more, with the disk of the first time.
        later = snapshot(sr, made)
        destroy(sr, made)
        again = clone(sr, taken[2])
        found = records(sr)
        assert [found[key]["keys"]["snapshot_of"] for key in (*taken, later)] == [again] * 4

    def test_of_what_the_client_named(self, sr: str) -> None:
        """Snapshots from elsewhere are disks to the driver, and what they are of is what the client set."""
        lost = new_uuid()
        copies = [create(sr), create(sr)]
        for key in copies:
            set_key(sr, key, "is_a_snapshot", "true")
            set_key(sr, key, "snapshot_of", lost)
        made = clone(sr, copies[0])
        assert [stat(sr, key)["keys"]["snapshot_of"] for key in copies] == [made] * 2

    def test_not_while_the_disk_is_there(self, sr: str) -> None:
        disk = create(sr)
        taken = [snapshot(sr, disk) for _ in range(2)]
        clone(sr, taken[0])
        clone(sr, disk)
        snapshot(sr, taken[0])
        assert [stat(sr, key)["keys"]["snapshot_of"] for key in taken] == [disk] * 2

    def test_a_snapshot_is_not_the_disk(self, sr: str) -> None:
        disk = create(sr)
        taken = snapshot(sr, disk)
        destroy(sr, disk)
        snapshot(sr, taken)
        assert stat(sr, taken)["keys"]["snapshot_of"] == disk


class TestCloneOnBoot:
    def begin(self, sr: str) -> "tuple[str, str]":
        """What the client does when a VM starts whose disk forgets what it writes: the disk, and what is written to."""
        disk = create(sr)
        write(sr, disk, 1)
        temporary = clone(sr, disk)
        set_key(sr, disk, "clone-on-boot", temporary)
        write(sr, temporary, 2)
        return disk, temporary

    def test_of_a_whole_life(self, sr: str) -> None:
        disk, temporary = self.begin(sr)
        require_well(sr)
        require_content(sr, {disk: 1})
        destroy(sr, temporary)
        call_inside("Volume.unset", sr=sr, key=disk, k="clone-on-boot")
        require_content(sr, {disk: 1})
        assert names(sr) == {disk}

    def test_goes_with_its_disk(self, sr: str) -> None:
        """The client destroys the disk twice, where it means the temporary and the disk."""
        disk, _ = self.begin(sr)
        destroy(sr, disk)
        assert names(sr) == set()
        destroy(sr, disk)

    def test_goes_with_a_disk_that_others_need(self, sr: str) -> None:
        disk, _ = self.begin(sr)
        taken = snapshot(sr, disk)
        destroy(sr, disk)
        assert set(listed(sr)) == {taken}
        assert buried(sr) == {disk}
        require_content(sr, {taken: 1})

    def test_in_use(self, sr: str, busy_at_once: None) -> None:
        disk, temporary = self.begin(sr)
        taken = snapshot(sr, disk)
        before = picture(sr)
        with zvol.opened(f"{sr}/{temporary}"):
            assert temporary in refused(IN_USE, "Volume.destroy", sr=sr, key=disk)
            assert temporary in refused(IN_USE, "Volume.revert", sr=sr, key=disk, snapshot=taken)
        assert picture(sr) == before
        require_content(sr, {disk: 1, temporary: 2})

    def test_that_others_were_made_from(self, sr: str) -> None:
        disk, temporary = self.begin(sr)
        taken = snapshot(sr, temporary)
        destroy(sr, disk)
        assert set(listed(sr)) == {taken}
        assert buried(sr) == {disk, temporary}
        require_well(sr)
        require_content(sr, {taken: 2})

    def test_that_has_snapshots_of_others(self, sr: str) -> None:
        disk, temporary = self.begin(sr)
        run("zfs", "snapshot", f"{sr}/{temporary}@by-hand")
        destroy(sr, disk)
        assert not {disk, temporary} & set(listed(sr))
        assert buried(sr) == {disk, temporary}
        run("zfs", "destroy", "-r", f"{sr}@by-hand")
        destroy(sr, create(sr))
        require_well(sr)

    @pytest.mark.parametrize("what", ["itself", "missing", "garbage", "not the other", 'x"]', "x" * 9000])
    def test_names_something_else(self, sr: str, what: str) -> None:
        disk, other = create(sr), create(sr)
        taken = snapshot(sr, disk)
        named = {"itself": disk, "missing": new_uuid(), "not the other": f"not {other}"}
        set_key(sr, disk, "clone-on-boot", named.get(what, what))
        require_well(sr)
        destroy(sr, disk)
        assert set(listed(sr)) == {other, taken}


class TestSnapshotsOfOthers:
    def test_stay_when_the_disks_go(self, sr: str) -> None:
        members = Members.made(sr)
        run("zfs", "snapshot", "-r", f"{sr}@by-hand")
        revert(sr, members.disk, members.snapshot)
        require_content(sr, {members.disk: 1})
        destroy(sr, *members)
        assert listed(sr) == {}
        kept = [name for name in names(sr) if name.endswith("@by-hand")]
        assert len(kept) == len(members)
        assert buried(sr) == set(members)
        for told in findings(sr):
            assert "by-hand" in told
        call("SR.attach", configuration={"sr_uuid": sr[3:]})
        kind, text = call("SR.stat", sr=sr)["health"]
        assert kind == "Healthy"
        assert "by-hand" in text
        refused("SR_BACKEND_FAILURE_39", "SR.destroy", sr=sr)
        run("zfs", "destroy", "-r", f"{sr}@by-hand")
        # Whoever comes by cleans up.
        destroy(sr, create(sr))
        assert names(sr) == set()
        assert call("SR.stat", sr=sr)["health"] == ["Healthy", "ONLINE"]

    def test_held_and_cloned_ones(self, tank: str) -> None:
        """Nobody's hold or clone is touched."""
        disk = create(tank)
        write(tank, disk, 1)
        run("zfs", "snapshot", f"{tank}/{disk}@autosnap_2026-11-26_12:00:00_daily")
        run("zfs", "hold", "mine", f"{tank}/{disk}@autosnap_2026-11-26_12:00:00_daily")
        run("zfs", "clone", f"{tank}/{disk}@autosnap_2026-11-26_12:00:00_daily", "tank/theirs")
        write(tank, disk, 2)
        destroy(tank, disk)
        assert listed(tank) == {}
        assert (
            "(1) are kept by snapshots that are not the driver's: autosnap_*" in call("SR.stat", sr=tank)["health"][1]
        )
        (grave,) = [name for name in names(tank) if name.startswith(".gone-") and "@" not in name]
        # What the disk had beside that snapshot is free.
        assert int(prop("written", f"{tank}/{grave}")) < 64 << 10
        with device_node_of("tank/theirs") as fd:
            assert os.pread(fd, MIB, 0) == noise(1, MIB)
        run("zfs", "destroy", "tank/theirs")
        run("zfs", "release", "mine", f"{tank}/{grave}@autosnap_2026-11-26_12:00:00_daily")
        run("zfs", "destroy", f"{tank}/{grave}@autosnap_2026-11-26_12:00:00_daily")
        call("SR.attach", configuration={"zpool": "tank", "sr_uuid": tank[-36:]})
        assert names(tank) == set()

    def test_of_a_removed_disk_are_kept(self, sr: str) -> None:
        disk = create(sr)
        made = clone(sr, disk)
        destroy(sr, disk)
        run("zfs", "snapshot", "-r", f"{sr}@by-hand")
        run("zfs", "destroy", f"{sr}/{made}@by-hand")
        destroy(sr, made)
        assert buried(sr) == {disk}
        (told,) = findings(sr)
        assert "by-hand" in told
        status, output, _ = check(sr, "--repair")
        assert status == 1
        assert f"WRONG: {told}\n" in output
        assert buried(sr) == {disk}
        run("zfs", "destroy", "-r", f"{sr}@by-hand")
        assert check(sr, "--repair")[0] == 0
        assert names(sr) == set()

    @pytest.mark.parametrize("has_relatives", [True, False], ids=["with relatives", "alone"])
    def test_bookmarks_do_not_forbid(self, sr: str, has_relatives: bool) -> None:
        disk = create(sr)
        write(sr, disk, 1)
        taken = snapshot(sr, disk) if has_relatives else None
        for name in ("a", "b"):
            run("zfs", "snapshot", f"{sr}/{disk}@{name}")
            run("zfs", "bookmark", f"{sr}/{disk}@{name}", f"{sr}/{disk}#{name}")
            run("zfs", "destroy", f"{sr}/{disk}@{name}")
        if taken:
            revert(sr, disk, taken)
            run("zfs", "snapshot", f"{sr}/{disk}@c")
            run("zfs", "bookmark", f"{sr}/{disk}@c", f"{sr}/{disk}#c")
            run("zfs", "destroy", f"{sr}/{disk}@c")
        destroy(sr, disk)
        assert set(listed(sr)) == ({taken} if taken else set())
        if taken:
            require_content(sr, {taken: 1})

    def test_clone_outside_of_the_sr_keeps_what_it_needs(self, tank: str) -> None:
        members = Members.made(tank)
        run("zfs", "clone", f"{tank}/{members.disk}@{members.snapshot}", "tank/mine")
        destroy(tank, *members)
        assert listed(tank) == {}
        assert buried(tank) == {members.disk}
        require_well(tank)
        with zvol.opened("tank/mine") if prop("volmode", "tank/mine") == "dev" else device_node_of("tank/mine") as fd:
            assert os.pread(fd, MIB, 0) == noise(1, MIB)
        with pytest.raises(VerbError):
            call_inside("SR.destroy", sr=tank)
        assert buried(tank) == {members.disk}
        run("zfs", "destroy", "tank/mine")
        assert findings(tank) != []
        assert check("tank", "--repair")[0] == 0
        assert names(tank) == set()

    def test_hold(self, sr: str) -> None:
        disk = create(sr)
        taken = snapshot(sr, disk)
        run("zfs", "hold", "mine", f"{sr}/{disk}@{taken}")
        destroy(sr, taken)
        assert set(listed(sr)) == {disk}
        destroy(sr, disk)
        assert listed(sr) == {}
        assert check(sr, "--repair")[0] == 1
        assert buried(sr) == {disk}
        run("zfs", "release", "mine", next(f"{sr}/{name}" for name in names(sr) if "@" in name))
        assert check(sr, "--repair")[0] == 0
        assert names(sr) == set()


@contextmanager
def device_node_of(zvol_: str) -> "Iterator[int]":
    """A descriptor of a zvol outside of the SR."""
    run("zfs", "set", "volmode=dev", zvol_)
    with zvol.opened(zvol_) as descriptor:
        yield descriptor


class TestResize:
    def test_snapshot_is_refused(self, sr: str) -> None:
        taken = snapshot(sr, create(sr))
        before = picture(sr)
        for size in (SIZE, 2 * SIZE):
            refused(INVALID, "Volume.resize", sr=sr, key=taken, new_size=size)
        assert picture(sr) == before

    def test_snapshot_keeps_its_size(self, sr: str) -> None:
        disk = create(sr)
        write(sr, disk, 1)
        taken, made = snapshot(sr, disk), clone(sr, disk)
        call_inside("Volume.resize", sr=sr, key=disk, new_size=2 * SIZE)
        require_content(sr, {disk: 1}, 2 * SIZE)
        require_content(sr, {taken: 1, made: 1})
        call_inside("Volume.resize", sr=sr, key=made, new_size=3 * SIZE)
        require_content(sr, {disk: 1}, 2 * SIZE)
        require_content(sr, {taken: 1})
        require_content(sr, {made: 1}, 3 * SIZE)


class TestThick:
    @pytest.fixture
    def thick(self, bench: Bench) -> "Iterator[str]":
        """With some 150 MiB."""
        made = with_nodes(bench.sr(device=bench.disk(256 * MIB), provisioning="thick"))
        yield made
        destroy_everything(made)

    def reserved(self, sr: str, key: str) -> int:
        return int(prop("refreservation", f"{sr}/{key}"))

    def test_reservations(self, thick: str) -> None:
        disk = create(thick, 16 * MIB)
        whole = self.reserved(thick, disk)
        assert whole >= 16 * MIB
        taken = snapshot(thick, disk)
        assert self.reserved(thick, taken) == 0
        for source in (disk, taken):
            made = call_inside("Volume.clone", sr=thick, key=source)
            assert made["physical_utilisation"] >= 16 * MIB
            assert stat(thick, made["key"])["physical_utilisation"] >= 16 * MIB
            assert self.reserved(thick, made["key"]) >= whole
        call_inside("Volume.resize", sr=thick, key=disk, new_size=32 * MIB)
        grown = clone(thick, disk)
        assert self.reserved(thick, grown) == self.reserved(thick, disk) >= 32 * MIB
        destroy(thick, disk)
        (grave,) = [name for name in names(thick) if name.startswith(".gone-") and "@" not in name]
        assert self.reserved(thick, grave) == 0
        revert(thick, grown, taken)
        assert whole <= self.reserved(thick, grown) < 32 * MIB

    def test_what_does_not_fit(self, thick: str) -> None:
        free = int(call_inside("SR.stat", sr=thick)["free_space"])
        disk = create(thick, (free // 2 // MIB + 8) * MIB)
        taken = snapshot(thick, disk)
        before = picture(thick)
        for key in (disk, taken):
            assert key in refused(FULL, "Volume.clone", sr=thick, key=key)
            assert picture(thick) == before
        assert "room" in refused(FULL, "Volume.revert", sr=thick, key=disk, snapshot=taken)
        assert picture(thick) == before
        destroy(thick, taken)
        free = int(call_inside("SR.stat", sr=thick)["free_space"])
        with zvol.opened(f"{thick}/{disk}", writable=True) as descriptor:
            os.pwrite(descriptor, os.urandom(free + 4 * MIB), 0)
            os.fsync(descriptor)
        run("zpool", "sync", thick)
        before = picture(thick)
        assert disk in refused(FULL, "Volume.snapshot", sr=thick, key=disk)
        assert picture(thick) == before


class TestFullPool:
    def test_nothing_is_lost_in_silence(self, bench: Bench) -> None:
        """A pool that takes no more properties says so, and what is there can still be destroyed."""
        sr = with_nodes(bench.sr(device=bench.disk(64 * MIB), compression="off"))
        disk = create(sr, 64 * MIB)
        taken = snapshot(sr, disk)
        with zvol.opened(f"{sr}/{disk}", writable=True) as descriptor:
            self.fill(descriptor)
        run("zpool", "sync", sr)
        texts: "dict[str, str]" = {}
        with pytest.raises(VerbError) as caught:  # noqa: PT012 - the first that does not fit
            for number in range(1000):
                text = os.urandom(50000).hex()
                set_key(sr, disk, str(number), text)
                texts[str(number)] = text
        assert caught.value.code == FULL
        found = stat(sr, disk)["keys"]
        assert {k: found.get(k) for k in texts} == texts
        assert str(len(texts)) not in found
        destroy(sr, disk)
        assert set(listed(sr)) == {taken}
        destroy_everything(sr)

    def fill(self, descriptor: int) -> None:
        written = 0
        try:
            while True:
                written += os.pwrite(descriptor, os.urandom(MIB), written)
                os.fsync(descriptor)
        except OSError:
            assert written < 64 * MIB


class TestUtilisation:
    def test_adds_up(self, sr: str) -> None:
        members = Members.made(sr)
        later = snapshot(sr, members.clone_of_snapshot)
        for key in (None, members.disk, members.clone_of_snapshot, members.snapshot):
            if key:
                destroy(sr, key)
            run("zpool", "sync", sr)
            # What is destroyed is freed in the background.
            wait_until(lambda: self.of_zvols(sr) == self.of_records(sr), "the sums to be equal")
        # The last of those that need it has all that remains.
        destroy(sr, members.clone)
        run("zpool", "sync", sr)
        assert set(listed(sr)) == {later}
        assert listed(sr)[later]["physical_utilisation"] > 2 * MIB - 64 * BLOCK

    def of_zvols(self, sr: str) -> int:
        return sum(map(int, run("zfs", "list", "-Hp", "-t", "volume", "-o", "used", "-r", sr).split()))

    def of_records(self, sr: str) -> int:
        return sum(record["physical_utilisation"] for record in listed(sr).values())


class TestSR:
    @pytest.mark.parametrize("place", ["own", "tank"])
    def test_detach_attach_destroy(self, with_udev: None, bench: Bench, place: str) -> None:
        loop = bench.loop()
        where = {"zpool": bench.pool(loop)} if place == "tank" else {"device": loop}
        sr = bench.sr(**where)
        configuration = {"sr_uuid": sr[-36:], **where}
        disk = create(sr)
        taken = snapshot(sr, disk)
        made = clone(sr, taken)
        revert(sr, disk, taken)
        destroy(sr, made)
        made = clone(sr, disk)
        destroy(sr, disk)
        before = picture(sr), records(sr)
        assert len([name for name in before[0][0] if name.startswith(".gone-")]) > 2
        call("SR.detach", sr=sr)
        assert call("SR.attach", configuration=configuration) == sr
        assert (picture(sr), records(sr)) == before
        require_well(sr)
        call("SR.destroy", sr=sr)
        if place == "tank":
            assert run("zfs", "list", "-H", "-o", "name", "-t", "all").count("tank") == 1
        else:
            assert run_status("zpool", "list", sr) != 0


def half_made_snapshot(sr: str, members: Members) -> str:
    run("zfs", "snapshot", f"{sr}/{members.disk}@{new_uuid()}")
    return "was made for a disk that is not there"


def half_made_clone(sr: str, members: Members) -> str:
    uuid = new_uuid()
    run("zfs", "snapshot", f"{sr}/{members.disk}@{uuid}")
    run("zfs", "clone", f"{sr}/{members.disk}@{uuid}", f"{sr}/{uuid}")
    return "is only half made"


def half_made_disk(sr: str, members: Members) -> str:
    run("zfs", "create", "-s", "-V", "1G", f"{sr}/{new_uuid()}")
    return "is only half made"


def start_revert(sr: str, members: Members) -> None:
    values = datasets.settings(SR(sr).zfs, f"{sr}/{members.disk}")
    del values["volsize"]
    changes.clone(SR(sr).zfs, prop("origin", f"{sr}/{members.snapshot}"), f"{sr}/.revert-{members.disk}", values)


def revert_without_effect(sr: str, members: Members) -> str:
    start_revert(sr, members)
    return f"a revert of {members.disk} was interrupted before it had any effect"


def revert_with_effect(sr: str, members: Members) -> str:
    start_revert(sr, members)
    programs.remove(SR(sr).zfs, sr, members.disk, "replace")
    return f"a revert of {members.disk} was interrupted"


def revert_but_for_the_last_step(sr: str, members: Members) -> str:
    start_revert(sr, members)
    lineage.bury(SR(sr), programs.remove(SR(sr).zfs, sr, members.disk, "replace").reserved)
    return f"a revert of {members.disk} was interrupted"


def destroyed_and_not_buried(sr: str, members: Members) -> str:
    programs.remove(SR(sr).zfs, sr, members.disk)
    return f"{members.disk} is removed and still has its name"


def destroyed_with_reservation(sr: str, members: Members) -> str:
    run("zfs", "set", "refreservation=8M", f"{sr}/{members.disk}")
    lineage.bury(SR(sr), dict.fromkeys(programs.remove(SR(sr).zfs, sr, members.disk).reserved, 0))
    return "is removed and has a reservation"


def destroyed_and_not_rolled_back(sr: str, members: Members) -> str:
    """Nothing of the driver's leads to it."""
    run("zfs", "set", "zfsvol:removed=20260101T00:00:00Z", f"{sr}/{members.disk}")
    return f"{members.disk} is removed and takes"


def removed_but_needed_by_nobody(sr: str, members: Members) -> str:
    uuid = create(sr)
    run("zfs", "set", "zfsvol:removed=20260101T00:00:00Z", f"{sr}/{uuid}")
    return f"{uuid} is removed and nothing needs it"


IS_DESTROYED = (destroyed_and_not_buried, destroyed_with_reservation, destroyed_and_not_rolled_back)
IS_REVERTED = (revert_with_effect, revert_but_for_the_last_step)
HALF_DONE = [
    half_made_snapshot,
    half_made_clone,
    half_made_disk,
    revert_without_effect,
    removed_but_needed_by_nobody,
    *IS_DESTROYED,
    *IS_REVERTED,
]


def a_file_system(sr: str) -> str:
    run("zfs", "create", f"{sr}/mine")
    return "mine is no disk of this SR"


def a_zvol(sr: str) -> str:
    run("zfs", "create", "-s", "-V", "1G", f"{sr}/mine")
    return "mine is no disk of this SR"


def a_written_zvol_with_a_uuid(sr: str) -> str:
    uuid = new_uuid()
    run("zfs", "create", "-s", "-V", "1G", f"{sr}/{uuid}")
    zvol.write(f"{sr}/{uuid}", 0, noise(1, 2 * MIB))
    run("zpool", "sync", sr)
    return f"{uuid} is no disk of this SR and holds data; it is left alone"


def a_zvol_with_a_uuid_and_a_snapshot(sr: str) -> str:
    uuid = new_uuid()
    run("zfs", "create", "-s", "-V", "1G", f"{sr}/{uuid}")
    run("zfs", "snapshot", f"{sr}/{uuid}@mine")
    return f"{uuid} is no disk of this SR and holds data; it is left alone"


def a_file_system_called_like_a_removed_disk(sr: str) -> str:
    run("zfs", "create", f"{sr}/.gone-mine")
    return ".gone-mine is no disk of this SR"


FOREIGN = [
    a_file_system,
    a_zvol,
    a_written_zvol_with_a_uuid,
    a_zvol_with_a_uuid_and_a_snapshot,
    a_file_system_called_like_a_removed_disk,
]


class TestCheck:
    def test_all_is_well(self, sr: str) -> None:
        members = Members.made(sr)
        destroy(sr, members.disk)
        before = picture(sr)
        for options in ((), ("--repair",)):
            status, output, errors = check(sr, *options)
            assert (status, errors) == (0, "")
            assert "all is well\n" in output
            assert "WRONG" not in output
            assert picture(sr) == before
        assert "3 removed" not in output
        assert "2 disks, 1 snapshots, 1 removed but needed by these" in output
        # What was made from a disk stands below it.
        lines = output.splitlines()
        assert [line for line in lines if f".gone-{members.disk}" in line and line.startswith("└─ ")]
        for key in members[1:]:
            assert [line for line in lines if re.match(rf"   [├└]─ {key} ", line)]

    @pytest.mark.parametrize("language", ["LANG", "LC_ALL"])
    def test_in_the_c_locale(self, sr: str, language: str) -> None:
        create(sr, name="ö\n\x1b[1m\ud83d💾")
        before = {name: "" for name in os.environ if name.startswith(("LC_", "LANG", "PYTHONUTF8", "PYTHONIO"))}
        status, output, errors = check(sr, **{**before, language: "C"})
        assert (status, errors) == (0, "")
        assert "└─" in output
        assert "\x1b" not in output

    @pytest.mark.parametrize("state", HALF_DONE, ids=lambda state: state.__name__)
    def test_half_done(self, sr: str, state: "Callable[[str, Members], str]") -> None:
        members = Members.two(sr)
        expected = records(sr)
        text = state(sr, members)
        before = picture(sr)
        is_well, said = told(sr)
        assert not is_well
        assert [line for line in said if text in line and line.endswith(" (--repair mends it)")], said
        assert {line[: len("WRONG: ")] for line in said} == {"WRONG: "}
        assert picture(sr) == before
        is_well, said = told(sr, mend=True)
        assert is_well
        assert [line for line in said if line.startswith("repaired: ") and text in line], said
        assert {line[: len("repaired: ")] for line in said} == {"repaired: "}
        require_well(sr)
        self.require_mended(sr, members, state, expected)

    def require_mended(
        self,
        sr: str,
        members: Members,
        state: "Callable[[str, Members], str]",
        expected: "dict[str, dict[str, Any]]",
    ) -> None:
        """The family is as it was, or as the verb was to make it."""
        gone = [members.disk] if state in IS_DESTROYED else []
        found = records(sr)
        for key in (members.disk, members.snapshot):
            assert found.get(key) == (None if key in gone else expected[key])
        seeds = {members.disk: 1 if state in IS_REVERTED else 2, members.snapshot: 1}
        require_content(sr, {key: seed for key, seed in seeds.items() if key not in gone})

    def test_all_at_once(self, sr: str) -> None:
        """Each state in a family of its own, and what is not the driver's beside these; SR.attach mends what it may."""
        states = list(HALF_DONE)
        families = [Members.two(sr) for _ in states]
        expected = records(sr)
        for state, members in zip(states, families):
            state(sr, members)
        a_file_system(sr)
        status, output, errors = check(sr)
        assert (status, errors) == (1, "")
        assert output.count("\nWRONG: ") == output.count("(--repair mends it)\n") + 1 > len(states)
        assert "all is well" not in output
        call("SR.attach", configuration={"sr_uuid": sr[-36:]})
        assert findings(sr) == ["mine is no disk of this SR"]
        status, output, errors = check(sr, "--repair")
        assert (status, errors) == (1, "")
        assert (output.count("\nrepaired: "), output.count("\nWRONG: ")) == (0, 1)
        assert len(listed(sr)) == 2 * len(states) - len(IS_DESTROYED)
        for state, members in zip(states, families):
            self.require_mended(sr, members, state, expected)
        run("zfs", "destroy", f"{sr}/mine")

    @pytest.mark.parametrize("state", FOREIGN, ids=lambda state: state.__name__)
    def test_foreign(self, sr: str, state: "Callable[[str], str]") -> None:
        disk = create(sr)
        text = state(sr)
        before = picture(sr)
        for mend in (False, True):
            assert told(sr, mend=mend) == (False, [f"WRONG: {text}"])
            assert picture(sr) == before
        call_inside("SR.attach", configuration={"sr_uuid": sr[-36:]})
        assert picture(sr) == before
        assert set(listed(sr)) == {disk}
        mine = text.partition(" ")[0]
        run("zfs", "destroy", "-r", f"{sr}/{mine}")

    def test_all_srs_of_a_pool(self, tank: str, bench: Bench) -> None:
        other = bench.sr(zpool="tank")
        create(tank)
        a_file_system(other)
        status, output, _ = check("tank")
        assert status == 1
        assert output.count("all is well") == output.count("WRONG: ") == 1
        assert output.count("SR ") >= 2
        assert check(tank)[0] == 0
        run("zfs", "destroy", f"{other}/mine")

    def test_cannot_be_told(self, bench: Bench) -> None:
        bench.pool()
        for dataset in ("nosuchpool", "tank", "tank/none", "-x", "tänk", "tank@x"):
            for locale in ("C", "C.UTF-8"):
                status, output, errors = check(dataset, LC_ALL=locale)
                assert (status, output) == (2, "")
                if dataset != "-x":  # an option, to argparse
                    assert len(errors.splitlines()) == 1
                    assert errors.endswith(".\n")
                assert "Traceback" not in errors


class TestInterruptedRevert:
    """Whatever is asked for first, it finds the disk, reverted."""

    # After the other state each verb comes in test_kill.
    @pytest.mark.parametrize("verb", [*VERBS_ON_ONE, "Volume.revert"])
    def test_verb_on_the_disk(self, sr: str, verb: str) -> None:
        members = Members.two(sr)
        set_key(sr, members.disk, "k", "old")
        expected = records(sr)
        revert_but_for_the_last_step(sr, members)
        arguments = {"snapshot": members.snapshot} if verb == "Volume.revert" else VERBS_ON_ONE[verb]
        answer = call_inside(verb, sr=sr, key=members.disk, **arguments)
        found = records(sr)
        if verb not in ("Volume.destroy", "Volume.revert"):  # these need its zvol under the name that it should have
            assert findings(sr) != []
            call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        require_well(sr)
        if verb == "Volume.destroy":
            del expected[members.disk]
            assert found == expected
            return
        require_content(sr, {members.disk: 1}, found[members.disk]["virtual_size"])
        if verb == "Volume.stat":
            assert lasting(answer) == expected[members.disk]
        elif answer:
            require_content(sr, {answer["key"]: 1})
            del found[answer["key"]]
        changes: "dict[str, dict[str, Any]]" = {
            "Volume.resize": {"virtual_size": 2 * SIZE},
            "Volume.set_name": {"name": "new"},
            "Volume.set_description": {"description": "new"},
            "Volume.set": {"keys": {**expected[members.disk]["keys"], "k": "v"}},
            "Volume.unset": {"keys": {k: v for k, v in expected[members.disk]["keys"].items() if k != "k"}},
        }
        expected[members.disk].update(changes.get(verb, {}))
        assert found == expected

    def test_without_effect_is_forgotten(self, sr: str) -> None:
        """What the killed one left behind neither stands in the way of the next nor replaces the disk later."""
        members = Members.made(sr)
        revert_without_effect(sr, members)
        assert set(listed(sr)) == set(members)
        require_content(sr, {members.disk: 2})
        revert(sr, members.disk, members.snapshot)
        require_content(sr, {members.disk: 1})
        require_well(sr)
        revert_without_effect(sr, members)
        destroy(sr, members.disk)
        require_well(sr)
        members.require(sr, members.disk)

    @pytest.mark.parametrize("state", IS_REVERTED, ids=lambda state: state.__name__)
    def test_list(self, sr: str, state: "Callable[[str, Members], str]") -> None:
        members = Members.made(sr)
        expected = records(sr)
        state(sr, members)
        assert {record["key"]: lasting(record) for record in call("SR.ls", sr=sr)} == expected
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        require_well(sr)
        require_content(sr, {members.disk: 1})

    @pytest.mark.parametrize("state", IS_REVERTED, ids=lambda state: state.__name__)
    def test_verb_on_a_relative(self, sr: str, state: "Callable[[str, Members], str]") -> None:
        members = Members.two(sr)
        expected = records(sr)
        state(sr, members)
        destroy(sr, snapshot(sr, members.snapshot), clone(sr, members.snapshot))
        assert records(sr) == expected
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        require_content(sr, {members.disk: 1, members.snapshot: 1})


class TestLargeFamilies:
    """Made without the driver's verbs, which would take most of the time, and exactly as these make them."""

    def options(self, sr: str, key: str) -> str:
        """What was set on a VDI, as options of `zfs clone`."""
        values = datasets.settings(SR(sr).zfs, f"{sr}/{key}")
        del values["volsize"]
        return " ".join("-o " + shlex.quote(f"{name}={value}") for name, value in values.items())

    @pytest.mark.parametrize("order", ["oldest first", "random"])
    def test_many_snapshots(self, sr: str, order: str) -> None:
        disk = create(sr)
        taken = [snapshot(sr, disk)]
        options = self.options(sr, taken[0])
        more = [new_uuid() for _ in range(MEMBERS - 1)]
        run(
            *("sh", "-ec"),
            f"for new; do zfs snapshot {sr}/{disk}@$new; zfs clone {options} {sr}/{disk}@$new {sr}/$new; done",
            *("sh", *more),
        )
        taken += more
        destroy(sr, disk)
        if order == "random":
            random.Random(0).shuffle(taken)
        for number, key in enumerate(taken):
            if number == MEMBERS // 2:
                require_well(sr)
                assert set(listed(sr)) == set(taken[number:])
                assert buried(sr) == {disk}
            destroy(sr, key)
        assert names(sr) == set()

    @pytest.mark.parametrize("order", ["root first", "leaf first"])
    def test_many_generations(self, sr: str, order: str) -> None:
        disk = create(sr)
        taken = snapshot(sr, disk)
        made = clone(sr, taken)
        frozen, writable = self.options(sr, taken), self.options(sr, made)
        more = [new_uuid() for _ in range(2 * GENERATIONS - 2)]
        run(
            *("sh", "-ec"),
            f"of=$1; shift; while [ $# -gt 0 ]; do zfs snapshot {sr}/$of@$1; zfs clone {frozen} {sr}/$of@$1 {sr}/$1; "
            f"zfs clone {writable} {sr}/$of@$1 {sr}/$2; of=$2; shift 2; done",
            *("sh", made, *more),
        )
        line = [disk, taken, made, *more]
        if order == "leaf first":
            line.reverse()
        for number, key in enumerate(line):
            if number == GENERATIONS:
                require_well(sr)
                assert set(listed(sr)) == set(line[number:])
            destroy(sr, key)
        assert names(sr) == set()
