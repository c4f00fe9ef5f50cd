# SPDX-License-Identifier: LGPL-2.1-only
"""Devices of an SR's pool: replaced, attached, detached, taken off- and online, cleared; and what is refused."""

import os
import signal
import threading
import time
from typing import Any, List

import pytest

from tests.care import FAILED, IN_USE, INVALID_DEVICE, LOCKED, UNAVAILABLE, WRONG, call, refused, risky, told
from tests.client import VerbError, call_inside, new_uuid
from tests.zfs.conftest import MIB, Bench, device_node, run, state_of, wait_until
from tests.zfs.test_care_scrub import fill, slowly  # noqa: F401 - a fixture
from tests.zfs.test_care_status import new_volume
from tests.zfs.test_disks import edges
from zfsvol.care import target
from zfsvol.errors import StorageError
from zfsvol.host import command, lock
from zfsvol.host.blockdevice import stable_name
from zfsvol.repository.sr import SR
from zfsvol.zfs import disks as checks

SIZE = 256 * MIB


def leaves(sr: str) -> "dict[str, dict[str, Any]]":
    """The disks of the pool by their paths."""
    todo = list(call("status", sr)["layout"])
    found = {}
    while todo:
        vdev = todo.pop()
        todo += vdev.get("children", [])
        if vdev["kind"] == "disk":
            found[vdev["name"]] = vdev
    return found


def mirror(bench: Bench, more: str = "") -> "tuple[str, str, str]":
    """An SR on a mirror, and the mirror's halves by their stable names."""
    one, two = bench.disks(2, SIZE)
    return bench.sr(vdev=f"mirror {one} {two} {more}"), stable_name(one), stable_name(two)


def resilvered(sr: str) -> None:
    run("zpool", "wait", "-t", "resilver", sr)
    wait_until(lambda: state_of(sr) == "ONLINE", "the pool")


class TestReplace:
    def test_a_failed_disk(self, bench: Bench) -> None:
        good, bad = bench.faulty_disk(SIZE), bench.faulty_disk(SIZE)
        sr = bench.sr(vdev=f"mirror {good.path} {bad.path}")
        fill(sr)
        bad.fail()
        run("zpool", "scrub", "-w", sr)
        old, new = leaves(sr)[stable_name(bad.path)], bench.disk(SIZE)
        command = f"zpool replace {sr} {old['guid']} {stable_name(new)}"
        before = edges(new)
        answer = told("replace", sr, device=bad.path, new_device=new)
        assert (answer["commands"], answer["needs-force"]) == ([command], [])
        assert edges(new) == before
        assert call("replace", sr, device=bad.path, new_device=new)["commands"] == [command]
        resilvered(sr)
        wait_until(lambda: set(leaves(sr)) == {stable_name(good.path), stable_name(new)}, "the old disk to go")
        assert call("status", sr)["pool"]["health"] == "ONLINE"
        sentence = refused(WRONG, "replace", sr, device=bad.path, new_device=new)
        assert f"has no device '{bad.path}'. It has mirror-0, " in sentence

    def test_by_a_spare(self, bench: Bench) -> None:
        spare = bench.disk(SIZE)
        sr, one, _ = mirror(bench, f"spare {spare}")
        answer = call("replace", sr, device=one, new_device=spare)
        assert answer["commands"][0].endswith(stable_name(spare))
        run("zpool", "wait", "-t", "resilver", sr)
        assert leaves(sr)[stable_name(spare)]["state"] in ("ONLINE", "INUSE")
        assert "is in use" in refused(IN_USE, "replace", sr, device=one, new_device=spare)
        call("detach", sr, device=one)
        assert one not in leaves(sr)

    def test_what_the_new_device_holds(self, bench: Bench) -> None:
        sr, one, _ = mirror(bench)
        new = bench.disk(SIZE)
        run("mkfs.ext4", "-q", new)
        before = edges(new)
        assert risky("replace", sr, device=one, new_device=new) == f"{new} holds ext4, which would be lost."
        assert edges(new) == before
        call("replace", sr, device=one, new_device=new, force="true")
        resilvered(sr)
        assert stable_name(new) in leaves(sr)

    def test_a_new_device_that_is_too_small(self, bench: Bench) -> None:
        sr, one, _ = mirror(bench)
        new = bench.disk(128 * MIB)
        before = edges(new)
        assert f"{new} has {128 * MIB} bytes, less than the {SIZE} of {one}" in risky(
            "replace", sr, device=one, new_device=new
        )
        assert edges(new) == before
        assert "device is too small" in refused(FAILED, "replace", sr, device=one, new_device=new, force="true")

    @pytest.mark.parametrize("force", ["false", "true"])
    def test_what_no_pool_may_get(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, force: str) -> None:
        monkeypatch.setattr(checks, "_IDLE_LIMIT", 0.3)
        sr, one, two = mirror(bench)
        bench.pool(bench.disk(SIZE))

        def attempt(code: str, new: str) -> str:
            return refused(code, "replace", sr, device=one, new_device=new, force=force)

        assert "not the path of a device" in attempt(INVALID_DEVICE, "sdb")
        assert "not the path of a device" in attempt(INVALID_DEVICE, "/etc/../dev/sdb")
        assert "No such file" in attempt(INVALID_DEVICE, "/dev/none")
        assert "not a block device" in attempt(INVALID_DEVICE, "/dev/null")
        assert "names several" in attempt(WRONG, "/dev/sdx,/dev/sdy")
        assert f"the pool {sr} is on it" in attempt(IN_USE, two)
        key = new_volume(sr)
        with device_node(f"{sr}/{key}") as node:
            assert "is a zvol" in attempt(INVALID_DEVICE, os.path.realpath(node))
        used = bench.disk(SIZE)
        with open(used, "rb"):
            child = os.fork()
            if child == 0:
                with open(used, "rb"):
                    time.sleep(60)
                os._exit(0)
            try:
                time.sleep(0.2)
                assert "has it open" in attempt(IN_USE, used)
            finally:
                os.kill(child, 9)
                os.waitpid(child, 0)

    def test_which_device(self, bench: Bench) -> None:
        sr, one, _ = mirror(bench)
        new = bench.disk(SIZE)
        names = (one, os.path.basename(one), os.path.realpath(one), os.path.basename(os.path.realpath(one)))
        commands = [told("replace", sr, device=name, new_device=new)["commands"] for name in names[:3]]
        commands.append(told("replace", sr, device=leaves(sr)[one]["guid"], new_device=new)["commands"])
        assert commands == commands[:1] * 4
        assert "is a group of devices: name one" in refused(WRONG, "replace", sr, device="mirror-0", new_device=new)

    def test_a_cache(self, bench: Bench) -> None:
        cache = bench.disk(SIZE)
        sr, _, _ = mirror(bench, f"cache {cache}")
        assert "is a cache" in refused(WRONG, "replace", sr, device=cache, new_device=bench.disk(SIZE))

    def test_beside_sr_create(self, bench: Bench) -> None:
        """Only one of the two gets the device."""
        sr, one, _ = mirror(bench)
        for _ in range(3):
            new = bench.disk(SIZE)
            won: "list[str]" = []

            def take(new: str = new, won: "list[str]" = won) -> None:
                try:
                    configuration = {"device": new, "autotrim": "off"}
                    call_inside("SR.create", uuid=new_uuid(), configuration=configuration, name="", description="")
                    won.append("create")
                except VerbError as error:
                    assert error.code == IN_USE, error  # noqa: PT017 - in a thread

            thread = threading.Thread(target=take)
            thread.start()
            try:
                call("replace", sr, device=one, new_device=new)
                won.append("replace")
                one = stable_name(new)
            except StorageError as error:
                assert error.code in (IN_USE, WRONG), error  # noqa: PT017 - either may win
            thread.join()
            assert len(won) == 1, won
            run("zpool", "wait", "-t", "resilver", sr)


def test_locks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing changes the devices of a pool while it is imported or exported, or while another device is chosen."""
    monkeypatch.setattr(target, "_POOL_LIMIT", 0.1)
    monkeypatch.setattr(lock, "DEVICES_LIMIT", 0.1)
    sr, one, _ = mirror(bench)
    new = {"device": one, "new_device": "/dev/none"}
    labelling = [("replace", new), ("attach", new), ("add", {"vdev": "/dev/none"})]
    others = [(function, {"device": one}) for function in ("detach", "offline", "online", "clear", "remove", "grow")]
    for held, functions in (
        (lock.pool(call("status", sr)["pool"]["guid"]), [*labelling, *others]),
        (lock.devices(), labelling),
    ):
        with held:
            for function, arguments in functions:
                assert "Another operation has held a lock" in refused(LOCKED, function, sr, **arguments)
            for function in ("list", "status"):
                call(function)


def test_killed_while_zpool_works(bench: Bench) -> None:
    """What comes next waits for the command, which goes on."""
    sr, one, two = mirror(bench)
    new = bench.disk(SIZE)
    child = os.fork()
    if child == 0:

        class Child(command.Child):
            def __init__(self, argv: "List[str]", **how: Any) -> None:
                is_it = argv[:2] == ["zpool", "replace"]
                super().__init__(["sh", "-c", 'sleep 2; exec "$0" "$@"', *argv] if is_it else argv, **how)
                if is_it:
                    os.kill(os.getpid(), signal.SIGKILL)

        command.Child = Child  # type: ignore[misc]
        call("replace", sr, device=one, new_device=new)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    began = time.monotonic()
    with pytest.raises(StorageError, match=f"{new} is in use: the pool {sr} is on it"):
        call("attach", sr, device=two, new_device=new)
    assert time.monotonic() - began > 1
    resilvered(sr)
    wait_until(lambda: set(leaves(sr)) == {stable_name(new), two}, "the replaced disk to go")


def test_in_a_pool_of_an_administrator(bench: Bench) -> None:
    one, two = (stable_name(disk) for disk in bench.disks(2, SIZE))
    bench.pool(one)
    sr = bench.sr(zpool="tank")
    call("attach", sr, device=one, new_device=two)
    run("zpool", "wait", "-t", "resilver", "tank")
    assert "has no redundancy left" in risky("detach", sr, device=one)
    call("offline", sr, device=one, force="true")
    call("online", sr, device=one)


class TestAttachAndDetach:
    def test_a_single_disk_becomes_a_mirror(self, bench: Bench) -> None:
        one, two, three = (stable_name(disk) for disk in bench.disks(3, SIZE))
        sr = bench.sr(device=one)
        fill(sr)
        guid = leaves(sr)[one]["guid"]
        told("attach", sr, device=one, new_device=two)
        assert call("attach", sr, device=one, new_device=two)["commands"] == [f"zpool attach {sr} {guid} {two}"]
        resilvered(sr)
        assert "is in use" in refused(IN_USE, "attach", sr, device=one, new_device=two)
        call("attach", sr, device=two, new_device=three)
        resilvered(sr)
        assert call("status", sr)["layout"][0]["may-still-fail"] == 2
        # Redundancy is left, so that this needs no force.
        call("detach", sr, device=one)
        assert "has no device" in refused(WRONG, "detach", sr, device=one)
        sentence = risky("detach", sr, device=two)
        assert f"has no redundancy left: if {three} fails, too" in sentence
        call("detach", sr, device=two, force="true")
        assert list(leaves(sr)) == [three]
        assert "is no half of a mirror" in refused(WRONG, "detach", sr, device=three, force="true")

    def test_the_last_good_half(self, bench: Bench) -> None:
        good, bad = bench.faulty_disk(SIZE), bench.faulty_disk(SIZE)
        sr = bench.sr(vdev=f"mirror {good.path} {bad.path}")
        fill(sr)
        bad.fail()
        run("zpool", "scrub", "-w", sr)
        for function in ("detach", "offline"):
            assert "has the last copy of what mirror-0 holds" in risky(function, sr, device=good.path)
            assert "no valid replicas" in refused(FAILED, function, sr, device=good.path, force="true")
        call("detach", sr, device=bad.path)
        assert call("status", sr)["pool"]["health"] == "ONLINE"

    def test_during_a_resilver(self, bench: Bench, slowly: None) -> None:  # noqa: F811 - the fixture
        one, two, three = (stable_name(disk) for disk in bench.disks(3, SIZE))
        sr = bench.sr(vdev=f"mirror {one} {two}")
        fill(sr)
        call("attach", sr, device=one, new_device=three)
        sentence = refused(WRONG, "detach", sr, device=one)
        assert f"A resilver is running: what it has not copied yet may be on {one} only." in sentence


class TestOfflineAndOnline:
    def test_a_life(self, bench: Bench) -> None:
        sr, one, two = mirror(bench)
        assert f"With {one} offline, mirror-0 has no redundancy left: if {two} fails" in risky(
            "offline", sr, device=one
        )
        call("offline", sr, device=one, force="true")
        assert leaves(sr)[one]["state"] == "OFFLINE"
        assert call("offline", sr, device=one)["notes"] == [f"{one} is offline already."]
        fill(sr)
        told("online", sr, device=one)
        assert call("online", sr, device=one)["notes"] == []
        resilvered(sr)
        assert call("online", sr, device=one)["notes"] == [f"{one} is online already."]
        assert call("status", sr)["pool"]["health"] == "ONLINE"

    def test_raidz2_keeps_redundancy(self, bench: Bench) -> None:
        disks = bench.disks(4, SIZE)
        sr = bench.sr(vdev="raidz2 {} {} {} {}".format(*disks))
        call("offline", sr, device=disks[0])
        assert "raidz2-0 has no redundancy left" in risky("offline", sr, device=disks[1])

    def test_a_disk_that_does_not_come_back(self, bench: Bench) -> None:
        good, bad = bench.faulty_disk(SIZE), bench.faulty_disk(SIZE)
        sr = bench.sr(vdev=f"mirror {good.path} {bad.path}")
        call("offline", sr, device=bad.path, force="true")
        bad.fail()
        (note,) = call("online", sr, device=bad.path)["notes"]
        assert note.startswith(f"{stable_name(bad.path)} is still ")
        assert "check its cable, or replace it" in note


class TestClear:
    def test_errors(self, bench: Bench) -> None:
        good, bad = bench.faulty_disk(SIZE), bench.faulty_disk(SIZE)
        sr = bench.sr(vdev=f"mirror {good.path} {bad.path}")
        bad.fail()
        run("zpool", "scrub", "-w", sr)
        # The disk is still broken: ZFS notices when it opens it again, or at the next access.
        call("clear", sr, device=bad.path)
        bad.mend()
        told("clear", sr, device=bad.path)
        for _ in range(2):
            call("clear", sr)
        resilvered(sr)
        assert {sum(leaf["errors"].values()) for leaf in leaves(sr).values()} == {0}
        assert "has no device" in refused(WRONG, "clear", sr, device="/dev/none")

    def test_a_suspended_pool(self, bench: Bench) -> None:
        disk = bench.faulty_disk(SIZE)
        sr = bench.sr(device=disk.path)
        key = new_volume(sr)
        disk.fail()
        with pytest.raises(StorageError):
            SR(sr).zfs.change(["zfs", "set", "zfsvol:test=x", sr])
        assert state_of(sr) == "SUSPENDED"
        for function, arguments in (
            ("scrub", {}),
            ("trim", {}),
            ("offline", {"device": disk.path}),
            ("add", {"vdev": "/dev/none"}),
            ("grow", {}),
            ("get", {}),
            ("set", {"sync": "always"}),
            ("check", {}),
            ("repair", {}),
            ("events", {}),
        ):
            began = time.monotonic()
            with pytest.raises(StorageError, match="is suspended because it lost a disk") as caught:
                call(function, sr, **arguments)
            assert caught.value.code == UNAVAILABLE
            assert time.monotonic() - began < 15, function
        with pytest.raises(StorageError, match="is suspended because"):
            call("clear", sr)
        assert call("clear", sr, dry_run="true")["commands"] == [f"zpool clear {sr}"]
        disk.mend()
        assert "was suspended and goes on" in call("clear", sr)["notes"][0]
        assert state_of(sr) == "ONLINE"
        call_inside("Volume.destroy", sr=sr, key=key)
