# SPDX-License-Identifier: LGPL-2.1-only
"""Snapshots, bookmarks, holds and clones that other programs have made of the SR's disks."""

from contextlib import contextmanager
import os
from typing import Iterator

import pytest

from tests import zvol
from tests.client import VerbError, call, call_inside
from tests.model import noise
from tests.zfs.conftest import MIB, run
from tests.zfs.family.relatives import (
    Members,
    buried,
    check,
    clone,
    create,
    destroy,
    findings,
    listed,
    names,
    prop,
    refused,
    require_content,
    require_well,
    revert,
    snapshot,
    write,
)


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
