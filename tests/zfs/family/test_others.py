# SPDX-License-Identifier: LGPL-2.1-only
"""Snapshots, bookmarks, holds and clones that other programs have made of the SR's disks."""

from contextlib import contextmanager
import os
from pathlib import Path
from typing import Iterator

import pytest

from tests import zvol
from tests.client import VerbError, call, call_inside, new_uuid, refused
from tests.model import noise
from tests.zfs.conftest import MIB, Bench, run, wait_until
from tests.zfs.family.relatives import (
    Members,
    buried,
    check,
    clone,
    create,
    destroy,
    findings,
    graves,
    listed,
    names,
    prop,
    require_content,
    require_well,
    revert,
    snapshot,
    write,
)
from zfsvol.repository import family
from zfsvol.zfs import programs


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
        # The next destroy cleans up.
        destroy(sr, create(sr))
        assert names(sr) == set()
        assert call("SR.stat", sr=sr)["health"] == ["Healthy", "ONLINE"]

    def test_held_and_cloned_ones(self, tank: str) -> None:
        """The driver leaves the holds and clones of others alone."""
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
        # The space of all that the snapshot does not hold is free.
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
        assert status == 0
        assert f"note: {told}\n" in output
        assert "all is well" in output
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

    def test_bookmarks_that_somebody_keeps_making(self, sr: str, monkeypatch: pytest.MonkeyPatch) -> None:
        disk = create(sr)
        write(sr, disk, 1)
        taken = snapshot(sr, disk)
        bookmark(f"{sr}/{disk}", "newer")
        monkeypatch.setattr(programs, "_destroy_newest_bookmarks", lambda pool, zvol: None)
        assert "bookmarks" in refused("SR_BACKEND_FAILURE", "Volume.destroy", sr=sr, key=disk)
        monkeypatch.undo()
        assert set(listed(sr)) == {disk, taken}
        require_content(sr, {disk: 1, taken: 1})

    def test_taken_in_the_moment_of_a_destroy(self, sr: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """ZFS does not roll back to a snapshot of the current transaction group: the next group allows it."""
        disk = create(sr)
        taken = snapshot(sr, disk)
        write(sr, disk, 1)
        somebody = f"""
            if not zfs.exists("{sr}/{disk}@by-hand") then
                zfs.sync.snapshot("{sr}/{disk}@by-hand")
            end
        """
        at_once = tmp_path / "remove.lua"
        at_once.write_text(somebody + Path(programs._REMOVE).read_text())
        monkeypatch.setattr(programs, "_REMOVE", str(at_once))
        destroy(sr, disk)
        assert set(listed(sr)) == {taken}
        assert f"{graves(sr)[0]}@by-hand" in run("zfs", "list", "-H", "-o", "name", "-t", "snapshot", "-r", sr)
        monkeypatch.undo()
        run("zfs", "destroy", f"{graves(sr)[0]}@by-hand")
        destroy(sr, create(sr))

    def test_newest_goes_first(self, sr: str) -> None:
        """The zvol was rolled back to the newest snapshot. When that is gone, nobody needs the zvol's content."""
        disk = create(sr)
        run("zfs", "snapshot", f"{sr}/{disk}@autosnap_monthly")
        write(sr, disk, 1)
        run("zfs", "snapshot", f"{sr}/{disk}@autosnap_hourly")
        destroy(sr, disk)
        (grave,) = graves(sr)
        run("zfs", "destroy", f"{grave}@autosnap_hourly")
        wait_until(lambda: int(prop("written", grave)) > MIB // 2, "what nobody needs")
        assert "that nobody needs (--repair mends it)" in check(sr)[1]
        destroy(sr, create(sr))
        assert int(prop("written", grave)) < family.EMPTY_CLONE
        assert check(sr)[0] == 0
        run("zfs", "destroy", f"{grave}@autosnap_monthly")
        destroy(sr, create(sr))

    def test_bookmarks_that_do_not_forbid_stay(self, sr: str) -> None:
        """Replication continues from them."""
        disk = create(sr)
        bookmark(f"{sr}/{disk}", "older")
        run("zfs", "snapshot", f"{sr}/{disk}@by-hand")
        run("zfs", "bookmark", f"{sr}/{disk}@by-hand", f"{sr}/{disk}#same")
        bookmark(f"{sr}/{disk}", "newer")
        write(sr, disk, 1)
        destroy(sr, disk)
        (grave,) = graves(sr)
        found = run("zfs", "list", "-H", "-o", "name", "-t", "bookmark", "-d", "1", grave).split()
        assert sorted(found) == [f"{grave}#older", f"{grave}#same"]
        assert int(prop("written", grave)) < family.EMPTY_CLONE
        run("zfs", "destroy", f"{grave}@by-hand")
        destroy(sr, create(sr))

    def test_bookmarks_of_what_is_removed(self, sr: str) -> None:
        """The snapshot goes and its bookmark stays, as replication leaves them."""
        disk = create(sr)
        taken = snapshot(sr, disk)
        write(sr, disk, 1)
        run("zfs", "snapshot", f"{sr}/{disk}@a")
        destroy(sr, disk)
        (grave,) = graves(sr)
        run("zfs", "bookmark", f"{grave}@a", f"{grave}#a")
        run("zfs", "destroy", f"{grave}@a")
        wait_until(lambda: int(prop("written", grave)) > MIB // 2, "what nobody needs")
        assert check(sr, "--repair")[0] == 0
        assert int(prop("written", grave)) < family.EMPTY_CLONE
        destroy(sr, taken)

    def test_bookmarks_between_what_stays_and_what_goes(self, sr: str) -> None:
        """A killed verb has left the newest snapshot. The bookmark forbids the rollback only once that is gone."""
        disk = create(sr)
        run("zfs", "snapshot", f"{sr}/{disk}@by-hand")
        bookmark(f"{sr}/{disk}", "newer")
        run("zfs", "snapshot", f"{sr}/{disk}@{new_uuid()}")
        write(sr, disk, 1)
        destroy(sr, disk)
        (grave,) = graves(sr)
        assert int(prop("written", grave)) < family.EMPTY_CLONE
        run("zfs", "destroy", f"{grave}@by-hand")
        destroy(sr, create(sr))

    @pytest.mark.parametrize("verb", ["Volume.destroy", "Volume.revert", "SR.attach"])
    def test_of_what_a_killed_revert_has_left(self, sr: str, verb: str) -> None:
        disk = create(sr)
        write(sr, disk, 1)
        taken = snapshot(sr, disk)
        write(sr, disk, 2)
        run("zfs", "clone", "-o", 'zfsvol:name="disk"', prop("origin", f"{sr}/{taken}"), f"{sr}/.revert-{disk}")
        run("zfs", "snapshot", "-r", f"{sr}@by-hand")
        if verb == "Volume.destroy":
            destroy(sr, disk)
        elif verb == "Volume.revert":
            revert(sr, disk, taken)
        else:
            call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        assert set(listed(sr)) == {taken, *([] if verb == "Volume.destroy" else [disk])}
        assert [name for name in names(sr) if ".revert-" in name] == []
        if verb != "Volume.destroy":
            revert(sr, disk, taken)
            require_content(sr, {disk: 1})
            destroy(sr, disk)
        destroy(sr, taken)
        run("zfs", "destroy", "-r", f"{sr}@by-hand")
        destroy(sr, create(sr))

    def test_of_what_a_killed_revert_has_left_and_a_killed_destroy_removed(self, sr: str) -> None:
        """Both zvols are marked as removed, and neither may take the other's name."""
        disk = create(sr)
        taken = snapshot(sr, disk)
        run("zfs", "clone", "-o", 'zfsvol:name="disk"', prop("origin", f"{sr}/{taken}"), f"{sr}/.revert-{disk}")
        run("zfs", "snapshot", "-r", f"{sr}@by-hand")
        for name in (disk, f".revert-{disk}"):
            run("zfs", "set", "zfsvol:removed=20260101T00:00:00Z", f"{sr}/{name}")
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        assert set(listed(sr)) == {taken}
        assert len(graves(sr)) == 2
        destroy(sr, taken)
        run("zfs", "destroy", "-r", f"{sr}@by-hand")
        destroy(sr, create(sr))

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

    def test_a_disk_made_from_one(self, sr: str) -> None:
        """The disk goes, and the snapshot stays."""
        disk, made = create(sr), new_uuid()
        run("zfs", "snapshot", f"{sr}/{disk}@by-hand")
        run("zfs", "clone", "-o", 'zfsvol:name="disk"', f"{sr}/{disk}@by-hand", f"{sr}/{made}")
        destroy(sr, made)
        assert names(sr) == {disk, f"{disk}@by-hand"}
        run("zfs", "destroy", f"{sr}/{disk}@by-hand")

    def test_a_disk_of_another_sr(self, tank: str, bench: Bench) -> None:
        """What it was made from belongs to the other SR, whose lock nobody has."""
        other, made = bench.sr(zpool="tank"), new_uuid()
        disk = create(tank)
        taken = snapshot(tank, disk)
        run("zfs", "clone", "-o", 'zfsvol:name="disk"', prop("origin", f"{tank}/{taken}"), f"{other}/{made}")
        destroy(tank, taken, disk)
        destroy(other, made)
        assert buried(tank) == {disk}
        assert check(tank, "--repair")[0] == 0
        assert names(tank) == set()

    def test_hold(self, sr: str) -> None:
        disk = create(sr)
        taken = snapshot(sr, disk)
        run("zfs", "hold", "mine", f"{sr}/{disk}@{taken}")
        destroy(sr, taken)
        assert set(listed(sr)) == {disk}
        require_well(sr)
        destroy(sr, disk)
        assert listed(sr) == {}
        status, output, _ = check(sr, "--repair")
        assert status == 0
        assert f"keep 0.1 MiB: {taken}\n" in output
        assert "are kept by snapshots that are not the driver's: holds" in call("SR.stat", sr=sr)["health"][1]
        assert buried(sr) == {disk}
        run("zfs", "release", "mine", f"{graves(sr)[0]}@{taken}")
        destroy(sr, create(sr))
        assert names(sr) == set()


def bookmark(dataset: str, name: str) -> None:
    """Makes a bookmark whose snapshot is gone."""
    run("zfs", "snapshot", f"{dataset}@{name}")
    run("zfs", "bookmark", f"{dataset}@{name}", f"{dataset}#{name}")
    run("zfs", "destroy", f"{dataset}@{name}")


@contextmanager
def device_node_of(zvol_: str) -> "Iterator[int]":
    """A descriptor of a zvol outside of the SR."""
    run("zfs", "set", "volmode=dev", zvol_)
    with zvol.opened(zvol_) as descriptor:
        yield descriptor
