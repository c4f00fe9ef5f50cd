# SPDX-License-Identifier: LGPL-2.1-only
"""Reverts: new clients call Volume.revert, old ones use a clone."""

import pytest

from tests.client import call, call_inside, new_uuid, refused
from tests.zfs.conftest import run
from tests.zfs.family.relatives import (
    INVALID,
    NO_SR,
    NO_VDI,
    SIZE,
    buried,
    clone,
    create,
    destroy,
    listed,
    names,
    picture,
    prop,
    records,
    require_content,
    require_well,
    revert,
    set_key,
    snapshot,
    stat,
    write,
)


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
        # One for the first zvol, which has the snapshots. None for the later zvols: nothing was made from them.
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
        # As before the revert, volmode is inherited and readonly is the default.
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
        """Snapshots from before and after a revert belong to two zvols with the same uuid."""
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
    """Old clients destroy the disk, clone its snapshot, and then use the clone as the disk."""

    def test_snapshots_become_those_of_the_clone(self, sr: str) -> None:
        disk = create(sr)
        taken = [snapshot(sr, disk) for _ in range(3)]
        stranger = snapshot(sr, create(sr))
        destroy(sr, disk)
        made = clone(sr, taken[1])
        found = records(sr)
        assert [found[key]["keys"]["snapshot_of"] for key in taken] == [made] * 3
        assert found[stranger]["keys"]["snapshot_of"] not in (disk, made)
        # Once more, with the disk that the first revert made.
        later = snapshot(sr, made)
        destroy(sr, made)
        again = clone(sr, taken[2])
        found = records(sr)
        assert [found[key]["keys"]["snapshot_of"] for key in (*taken, later)] == [again] * 4

    def test_of_what_the_client_named(self, sr: str) -> None:
        """To the driver, snapshots from elsewhere are disks. Only what the client set says whose snapshots they are."""
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
