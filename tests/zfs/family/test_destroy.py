# SPDX-License-Identifier: LGPL-2.1-only
"""What happens to the relatives of a destroyed disk, and to what it leaves behind.

ZFSVOL_FAMILY sets the size of the largest families.
"""

import itertools
import os
import random
import shlex

import pytest

from tests import zvol
from tests.client import call, call_inside, new_uuid, refused
from tests.model import noise
from tests.zfs.conftest import MIB, Bench, device_node, run, run_status, wait_until
from tests.zfs.family.relatives import (
    IN_USE,
    NO_SR,
    NO_VDI,
    VERBS_ON_ONE,
    Members,
    buried,
    clone,
    create,
    destroy,
    destroy_everything,
    listed,
    names,
    picture,
    records,
    require_content,
    require_well,
    revert,
    set_key,
    snapshot,
    used,
    write,
)
from zfsvol.repository.sr import SR
from zfsvol.zfs import datasets

MEMBERS = int(os.environ.get("ZFSVOL_FAMILY", "24"))
GENERATIONS = min(200, MEMBERS // 2)


class TestDestroy:
    # Six of 24 orders, in which each member goes first at least once. The models try all orders at random.
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
        """A destroyed disk frees the space that only it used, even if others were made from it."""
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

    def test_of_what_is_no_disk(self, sr: str) -> None:
        """Somebody else has made the zvol. Nor is it removed as a disk's clone-on-boot temporary."""
        key, disk = new_uuid(), create(sr)
        run("zfs", "create", "-s", "-V", "2M", f"{sr}/{key}")
        set_key(sr, disk, "clone-on-boot", key)
        destroy(sr, key, disk)
        assert names(sr) == {key}
        run("zfs", "destroy", f"{sr}/{key}")

    def test_removed_is_no_vdi(self, sr: str) -> None:
        """All verbs but Volume.destroy say that there is no such VDI."""
        members = Members.made(sr)
        destroy(sr, members.disk)
        before = picture(sr)
        for verb, arguments in VERBS_ON_ONE.items():
            if verb != "Volume.destroy":
                refused(NO_VDI, verb, sr=sr, key=members.disk, **arguments)
        refused(NO_VDI, "Volume.revert", sr=sr, key=members.disk, snapshot=members.snapshot)
        refused(NO_VDI, "Volume.revert", sr=sr, key=members.clone, snapshot=members.disk)
        assert picture(sr) == before


class TestOpen:
    """The driver learns from the node that udev links who has a zvol open, so the first test runs with udev."""

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


class TestCloneOnBoot:
    def begin(self, sr: str) -> "tuple[str, str]":
        """What the client does when a VM starts with a disk that forgets its writes. The disk, and its temporary."""
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
        """The client means to destroy the temporary and the disk, but destroys the disk twice."""
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


class TestLargeFamilies:
    """Made by zfs commands, exactly as the driver's verbs make them: the verbs would take most of the time."""

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
