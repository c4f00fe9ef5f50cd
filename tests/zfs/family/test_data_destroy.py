# SPDX-License-Identifier: LGPL-2.1-only
"""Snapshots whose data is destroyed: what is left of them, and what can still be asked."""

from pathlib import Path
from typing import Any, Iterator, List

import pytest

from tests import zvol
from tests.client import VerbError, call, call_inside, new_uuid, refused
from tests.killed import kill, kill_points
from tests.model import BIT, BLOCK, noise
from tests.zfs.conftest import MIB, Bench, run
from tests.zfs.family.changes import (
    GIB,
    METADATA,
    changes,
    changes_refused,
    destroy_data,
    discard,
    fill,
    of,
    said,
    sr,
    tracked,
)
from tests.zfs.family.relatives import (
    IN_USE,
    INVALID,
    NO_VDI,
    buried,
    clone,
    content,
    create,
    destroy,
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
from zfsvol.errors import StorageError
from zfsvol.repository import allocation
from zfsvol.zfs import datasets

__all__ = ["said", "sr"]


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
