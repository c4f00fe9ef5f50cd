# SPDX-License-Identifier: LGPL-2.1-only
"""Sizes, reservations, full pools, and the physical_utilisation of each VDI."""

import errno
import os
from pathlib import Path
from typing import Iterator

import pytest

from tests import zvol
from tests.client import VerbError, call_inside, refused
from tests.zfs.conftest import MIB, Bench, run, wait_until
from tests.zfs.family.relatives import (
    BLOCK,
    FULL,
    INVALID,
    SIZE,
    Members,
    clone,
    create,
    destroy,
    destroy_everything,
    listed,
    names,
    picture,
    prop,
    require_content,
    revert,
    set_key,
    snapshot,
    stat,
    with_nodes,
    write,
)
from zfsvol.zfs import programs


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
        """A thick SR with some 150 MiB."""
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
        """Setting a key that does not fit is refused, the keys before it stay, and disks can still be destroyed."""
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

    def test_no_space_for_the_mark(self, sr: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A zvol that others need is marked when it is removed. If ZFS refuses that, nothing is removed."""
        disk = create(sr)
        taken = snapshot(sr, disk)
        program = tmp_path / "remove.lua"
        refusal = f"zfs.check.set_prop = function() return {errno.ENOSPC} end\n"
        program.write_text(refusal + Path(programs._REMOVE).read_text())
        monkeypatch.setattr(programs, "_REMOVE", str(program))
        assert disk in refused(FULL, "Volume.destroy", sr=sr, key=disk)
        assert set(listed(sr)) == {disk, taken}

    def test_no_space_for_a_part_of_a_text(self, sr: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """All parts are checked before the first is set."""
        disk = create(sr)
        set_key(sr, disk, "k", "old" * 5000)
        program = tmp_path / "set.lua"
        refusal = f"""
            local check, checked = zfs.check.set_prop, 0
            zfs.check.set_prop = function(...)
                checked = checked + 1
                return checked == 2 and {errno.ENOSPC} or check(...)
            end
        """
        program.write_text(refusal + Path(programs._SET).read_text())
        monkeypatch.setattr(programs, "_SET", str(program))
        refused(FULL, "Volume.set", sr=sr, key=disk, k="k", v="new" * 5000)
        assert stat(sr, disk)["keys"]["k"] == "old" * 5000

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
            # ZFS frees what is destroyed in the background.
            wait_until(lambda: self.of_zvols(sr) == self.of_records(sr), "the sums to be equal")
        # The last VDI that needs it is charged all that remains.
        destroy(sr, members.clone)
        run("zpool", "sync", sr)
        assert set(listed(sr)) == {later}
        assert listed(sr)[later]["physical_utilisation"] > 2 * MIB - 64 * BLOCK

    def of_zvols(self, sr: str) -> int:
        return sum(map(int, run("zfs", "list", "-Hp", "-t", "volume", "-o", "used", "-r", sr).split()))

    def of_records(self, sr: str) -> int:
        return sum(record["physical_utilisation"] for record in listed(sr).values())
