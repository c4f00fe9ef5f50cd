# SPDX-License-Identifier: LGPL-2.1-only
"""Groups of devices of an SR's pool: added, removed, grown, made wider; and what is refused."""

import os
from pathlib import Path

import pytest

from tests.care import FAILED, IN_USE, INVALID_DEVICE, WRONG, call, refused, risky, told
from tests.zfs.conftest import MIB, Bench, run
from tests.zfs.test_care_devices import SIZE, leaves, mirror
from tests.zfs.test_care_scrub import fill, tune
from tests.zfs.test_disks import edges
from zfsvol.errors import SRInUse
from zfsvol.host.blockdevice import stable_name

EXPANDS = os.path.exists("/sys/module/zfs/features.pool/org.openzfs:raidz_expansion")


def tops(sr: str) -> "list[str]":
    return [top["name"] for top in call("status", sr)["layout"]]


class TestAdd:
    def test_a_mirror_to_a_mirror(self, bench: Bench) -> None:
        sr, _, _ = mirror(bench)
        new = bench.disks(2, SIZE)
        before = [edges(disk) for disk in new]
        words = "mirror {} {}".format(*new)
        answer = told("add", sr, vdev=words)
        assert answer["commands"] == ["zpool add {} mirror {} {}".format(sr, *map(stable_name, new))]
        assert answer["needs-force"] == []
        assert [edges(disk) for disk in new] == before
        assert call("add", sr, vdev=words)["notes"] == []
        assert tops(sr) == ["mirror-0", "mirror-1"]
        with pytest.raises(SRInUse, match="is in use"):
            call("add", sr, vdev=words)

    def test_a_single_disk_to_a_mirror(self, bench: Bench) -> None:
        sr, _, _ = mirror(bench)
        new = bench.disk(SIZE)
        before = edges(new)
        assert risky("add", sr, vdev=new) == (
            "A device of its own may lose no disk, the rest of the pool 1: once it has lost more, all data of the pool "
            "is lost, not only what is on it."
        )
        assert edges(new) == before
        call("add", sr, vdev=new, force="true")
        assert tops(sr) == ["mirror-0", stable_name(new)]

    def test_others(self, bench: Bench) -> None:
        sr, _, _ = mirror(bench)
        log, cache, spare, special, other = bench.disks(5, SIZE)
        for words in (f"log {log}", f"cache {cache}", f"spare {spare}"):
            assert told("add", sr, vdev=words)["needs-force"] == []
            call("add", sr, vdev=words)
        assert "A special device of its own may lose no disk" in risky("add", sr, vdev=f"special {special}")
        call("add", sr, vdev=f"special mirror {special} {other}")
        assert [top["role"] for top in call("status", sr)["layout"]] == ["data", "special", "log", "cache", "spare"]

    def test_a_stripe_stays_one(self, bench: Bench) -> None:
        sr = bench.sr(device=bench.disk(SIZE))
        new = bench.disk(SIZE)
        assert call("add", sr, vdev=new)["notes"] == []

    def test_raidz_of_another_width(self, bench: Bench) -> None:
        sr = bench.sr(vdev="raidz1 {} {} {}".format(*bench.disks(3, SIZE)))
        words = "raidz1 {} {} {} {}".format(*bench.disks(4, SIZE))
        assert "arranged otherwise than the pool's: pool uses 3-way raidz and new vdev uses 4-way" in risky(
            "add", sr, vdev=words
        )
        answer = call("add", sr, vdev=words, force="true")
        assert "can never be removed again" in answer["notes"][0]
        assert tops(sr) == ["raidz1-0", "raidz1-1"]

    def test_wrong_words(self, bench: Bench) -> None:
        sr, _, _ = mirror(bench)
        new = bench.disk(SIZE)
        for words, sentence in (
            ("mirror", "needs at least 2 devices, 0 given"),
            (f"mirror {new}", "needs at least 2 devices, 1 given"),
            ("log", "no device is named"),
            (f"mirror {new} {new}", "named twice"),
            (f"mirror {new} {stable_name(new)}", "The same device is named twice"),
        ):
            assert sentence in refused(WRONG, "add", sr, vdev=words, force="true")
        for words in ("-f", f"-o ashift=9 {new}", "sdb", "/dev/none"):
            refused(INVALID_DEVICE, "add", sr, vdev=words, force="true")

    def test_what_it_holds(self, bench: Bench) -> None:
        sr, _, _ = mirror(bench)
        one, two = bench.disks(2, SIZE)
        run("mkswap", two)
        words = f"mirror {one} {two}"
        assert risky("add", sr, vdev=words) == f"{two} holds swap, which would be lost."
        call("add", sr, vdev=words, force="true")
        assert tops(sr) == ["mirror-0", "mirror-1"]


class TestRemove:
    def test_log_cache_and_spare(self, bench: Bench) -> None:
        log, cache, spare = bench.disks(3, SIZE)
        sr, _, _ = mirror(bench, f"log {log} cache {cache} spare {spare}")
        for disk in (log, cache, spare):
            assert told("remove", sr, device=disk)["needs-force"] == []
            call("remove", sr, device=disk)
            assert "has no device" in refused(WRONG, "remove", sr, device=disk)
        assert tops(sr) == ["mirror-0"]

    def test_a_group_that_holds_data(self, bench: Bench) -> None:
        # There must be room for a copy, and for a slop of half the pool's smallest size.
        one, two, three, four = (*bench.disks(2), *bench.disks(2, SIZE))
        sr = bench.sr(vdev=f"mirror {one} {two} mirror {three} {four}")
        fill(sr)
        assert "would lose mirror-1 and its space for good" in risky("remove", sr, device="mirror-1")
        suspend = Path("/sys/module/zfs/parameters/zfs_removal_suspend_progress")
        try:
            suspend.write_text("1")
            call("remove", sr, device="mirror-1", force="true")
            assert call("status", sr)["removal"]["state"] == "running"
            assert told("remove", sr, action="stop")["commands"] == [f"zpool remove -s {sr}"]
            call("remove", sr, action="stop")
            assert call("remove", sr, action="stop")["notes"] == ["No removal is running."]
        finally:
            suspend.write_text("0")
        assert tops(sr) == ["mirror-0", "mirror-1"]
        call("remove", sr, device="mirror-1", force="true")
        run("zpool", "wait", "-t", "remove", sr)
        found = call("status", sr)
        assert (tops(sr), found["removal"]["state"]) == (["mirror-0"], "finished")
        assert "is all that holds the pool's data" in refused(WRONG, "remove", sr, device="mirror-0", force="true")

    def test_without_room(self, bench: Bench) -> None:
        one, two = bench.disk(SIZE), bench.disk(128 * MIB)
        sr = bench.sr(device=f"{one},{two}", compression="off")
        fill(sr, 48)
        fill(sr, 48)
        assert "out of space" in refused("SR_BACKEND_FAILURE_44", "remove", sr, device=one, force="true")

    def test_what_cannot_be_removed(self, bench: Bench) -> None:
        sr, one, _ = mirror(bench)
        assert "is a part of mirror-0: 'detach'" in refused(WRONG, "remove", sr, device=one, force="true")
        assert "needs the argument 'device'" in refused(WRONG, "remove", sr)
        raidz = bench.sr(vdev="raidz1 {} {} {}".format(*bench.disks(3, SIZE)))
        assert "that has raidz" in refused(WRONG, "remove", raidz, device="raidz1-0", force="true")


class TestGrow:
    def enlarged(self, bench: Bench, loop: str, size: int) -> None:
        os.truncate(str(bench.directory / f"disk{bench.loops.index(loop)}"), size)
        run("losetup", "--set-capacity", loop)

    def test_a_disk_that_became_larger(self, bench: Bench) -> None:
        loop = bench.loop(SIZE)
        sr = bench.sr(device=loop)
        self.enlarged(bench, loop, 2 * SIZE)
        guid = leaves(sr)[stable_name(loop)]["guid"]
        answer = told("grow", sr)
        assert answer["commands"] == [f"zpool online -e {sr} {guid}"]
        assert answer["size"] == answer["before"]
        answer = call("grow", sr, device=loop)
        assert answer["size"] - answer["before"] >= SIZE // 2
        again = call("grow", sr)
        assert again["size"] == again["before"] == answer["size"]

    def test_a_mirror_grows_with_its_last_half(self, bench: Bench) -> None:
        loops = [bench.loop(SIZE), bench.loop(SIZE)]
        sr = bench.sr(vdev="mirror {} {}".format(*loops))
        sizes = []
        for loop in loops:
            self.enlarged(bench, loop, 2 * SIZE)
            answer = call("grow", sr, device="mirror-0")
            sizes.append(answer["size"] - answer["before"])
        assert sizes[0] == 0
        assert sizes[1] >= SIZE // 2

    def test_what_cannot_grow(self, bench: Bench) -> None:
        spare = bench.disk(SIZE)
        sr, one, _ = mirror(bench, f"spare {spare}")
        assert "No device can grow" in refused(WRONG, "grow", sr, device=spare)
        call("offline", sr, device=one, force="true")
        assert f"{one} (OFFLINE)" in refused(WRONG, "grow", sr, device=one)


class TestWiderRaidz:
    def test_what_is_refused(self, bench: Bench) -> None:
        disks, new = bench.disks(3, SIZE), bench.disk(SIZE)
        sr = bench.sr(vdev="raidz1 {} {} {}".format(*disks))
        before = edges(new)
        for force in ("false", "true"):
            sentence = refused(WRONG, "attach", sr, device=disks[0], new_device=new, force=force)
            assert "is in raidz1-0: only mirrors and single devices" in sentence
            assert "Name raidz1-0 to make it wider" in sentence
        if not EXPANDS:
            sentence = refused(WRONG, "attach", sr, device="raidz1-0", new_device=new, force="true")
            assert "only 2.3 and later can" in sentence
        assert edges(new) == before
        assert "cannot be detached" in refused(WRONG, "detach", sr, device=disks[0], force="true")

    @pytest.mark.skipif(not EXPANDS, reason="this OpenZFS cannot make raidz wider")
    def test_until_it_has_ended(self, bench: Bench) -> None:
        disks, new, another = bench.disks(3, SIZE), stable_name(bench.disk(SIZE)), bench.disk(SIZE)
        sr = bench.sr(vdev="raidz1 {} {} {}".format(*disks))
        fill(sr)
        guid = call("status", sr)["layout"][0]["guid"]
        answer = told("attach", sr, device="raidz1-0", new_device=new)
        assert answer["commands"] == [f"zpool attach {sr} {guid} {new}"]
        assert "keeps its redundancy" in answer["notes"][0]
        try:
            tune("raidz_expand_max_reflow_bytes", "1")
            call("attach", sr, device="raidz1-0", new_device=new)
            found = call("status", sr)["expansion"]
            assert (found["vdev"], found["state"]) == ("raidz1-0", "running")
            before = edges(another)
            sentence = refused(IN_USE, "attach", sr, device="raidz1-0", new_device=another)
            assert sentence == "raidz1-0 gets another device already. Try again when that is done."
            assert edges(another) == before
        finally:
            tune("raidz_expand_max_reflow_bytes", "0")
        run("zpool", "wait", "-t", "raidz_expand", sr)
        found = call("status", sr)
        assert (found["expansion"]["state"], found["layout"][0]["may-still-fail"]) == ("finished", 1)
        assert set(leaves(sr)) == {*map(stable_name, disks), new}

    @pytest.mark.skipif(not EXPANDS, reason="this OpenZFS cannot make raidz wider")
    def test_a_pool_of_an_older_openzfs(self, bench: Bench) -> None:
        run("zpool", "create", "-d", "-m", "none", "tank", "raidz1", *bench.disks(3, SIZE))
        sr = bench.sr(zpool="tank")
        sentence = refused(WRONG, "attach", sr, device="raidz1-0", new_device=bench.disk(SIZE))
        assert "'zpool upgrade tank' changes that" in sentence


def test_a_command_that_zpool_refuses(bench: Bench) -> None:
    """Its reason is told."""
    sr, one, _ = mirror(bench)
    run("zpool", "checkpoint", sr)
    new = bench.disks(2, SIZE)
    call("add", sr, vdev="mirror {} {}".format(*new))
    assert "checkpoint" in refused(FAILED, "detach", sr, device=one, force="true")
