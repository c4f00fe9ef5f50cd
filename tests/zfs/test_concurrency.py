# SPDX-License-Identifier: LGPL-2.1-only
"""Many verbs at once on one SR: each answers as if it were alone, and the result is that of some serial order."""

import os
import threading
from typing import Any, Callable

import pytest

from tests import client
from tests.client import VerbError, call, call_inside, new_uuid, refused, start
from tests.zfs.conftest import GIB, Bench, pools, wait_until
from zfsvol.errors import LockTimeout
from zfsvol.host import lock
from zfsvol.repository.record import Locked
from zfsvol.repository.sr import ALONE, SR, Held


def all_at_once(calls: "list[tuple[str, dict[str, Any]]]") -> "list[Any]":
    """Starts all, then collects their answers, including errors."""
    started = [(verb, start(verb, **arguments)) for verb, arguments in calls]
    answers: "list[Any]" = []
    for verb, process in started:
        try:
            answers.append(client.finish(verb, process))
        except VerbError as error:
            answers.append(error)
    return answers


def test_creates_and_lists(sr: str) -> None:
    make = ("Volume.create", {"sr": sr, "name": "n", "description": "", "size": GIB, "sharable": False})
    answers = all_at_once([make, ("SR.ls", {"sr": sr}), ("SR.stat", {"sr": sr})] * 8)
    made = {answer["key"] for answer in answers[::3]}
    assert len(made) == 8
    for listing in answers[1::3]:
        assert {volume["key"] for volume in listing} <= made
    assert {volume["key"] for volume in call("SR.ls", sr=sr)} == made


def test_changes_of_one_volume(sr: str, new_volume: "Callable[..., dict[str, Any]]") -> None:
    key = new_volume()["key"]
    calls: "list[tuple[str, dict[str, Any]]]" = []
    for number in range(5):
        calls += [
            ("Volume.set", {"sr": sr, "key": key, "k": f"k{number}", "v": "v" * 9000}),
            ("Volume.set", {"sr": sr, "key": key, "k": "shared", "v": str(number) * 10000}),
            ("Volume.set_name", {"sr": sr, "key": key, "new_name": str(number) * 10000}),
            ("Volume.resize", {"sr": sr, "key": key, "new_size": 11 * GIB}),
        ]
    assert all_at_once(calls) == [None] * len(calls)
    read = call("Volume.stat", sr=sr, key=key)
    assert all(read["keys"][f"k{number}"] == "v" * 9000 for number in range(5))
    assert read["keys"]["shared"] in {str(number) * 10000 for number in range(5)}
    assert read["name"] in {str(number) * 10000 for number in range(5)}
    assert read["virtual_size"] == 11 * GIB


def test_destroys_of_one_volume(sr: str, new_volume: "Callable[..., dict[str, Any]]") -> None:
    key = new_volume()["key"]
    assert all_at_once([("Volume.destroy", {"sr": sr, "key": key})] * 5) == [None] * 5
    assert call("SR.ls", sr=sr) == []


def test_attaches_and_probes(bench: Bench) -> None:
    sr = bench.sr()
    call("SR.detach", sr=sr)
    configuration = {"sr_uuid": sr[3:]}
    attach, probe = ("SR.attach", {"configuration": configuration}), ("SR.probe", {"configuration": configuration})
    answers = all_at_once([attach, probe, attach, probe, attach])
    assert answers[0::2] == [sr] * 3
    assert [[found["sr"]["sr"] for found in answer] for answer in answers[1::2]] == [[sr]] * 2
    call("Volume.create", sr=sr, name="writable", description="", size=1, sharable=False)


def test_many_searches(bench: Bench) -> None:
    """As at host boot: each SR is found, although all searches run at once."""
    srs = [bench.sr() for _ in range(3)]
    for sr in srs:
        call("SR.detach", sr=sr)
    attaches = [("SR.attach", {"configuration": {"sr_uuid": sr[3:]}}) for sr in srs]
    probes: "list[tuple[str, dict[str, Any]]]" = [("SR.probe", {"configuration": {}})] * 2
    answers = all_at_once([*attaches, *probes])
    assert answers[:3] == srs
    for answer in answers[3:]:
        assert {found["sr"]["sr"] for found in answer} == set(srs)


def test_creates_of_srs_on_one_disk(bench: Bench) -> None:
    """Exactly one of them gets the disk."""
    disk = bench.disk()
    calls = [
        ("SR.create", {"uuid": new_uuid(), "configuration": {"device": disk}, "name": "", "description": ""})
        for _ in range(3)
    ]
    answers = all_at_once(calls)
    refusals = [answer for answer in answers if isinstance(answer, VerbError)]
    assert [refusal.code for refusal in refusals] == ["SR_BACKEND_FAILURE_16"] * 2


def test_detach_among_other_verbs(bench: Bench) -> None:
    sr = bench.sr()
    make = ("Volume.create", {"sr": sr, "name": "n", "description": "", "size": GIB, "sharable": False})
    answers = all_at_once([make, make, ("SR.detach", {"sr": sr}), make, ("SR.ls", {"sr": sr})])
    assert answers[2] is None
    assert sr not in pools()
    made = set()
    for answer in (*answers[:2], answers[3]):
        if isinstance(answer, VerbError):
            assert answer.code == "SR_BACKEND_FAILURE_47"
        else:
            made.add(answer["key"])
    call("SR.attach", configuration={"sr_uuid": sr[3:]})
    assert {volume["key"] for volume in call("SR.ls", sr=sr)} == made


@pytest.mark.parametrize("verb", ["Volume.destroy", "Volume.revert"])
def test_a_temporary_that_another_verb_has(
    sr: str, new_volume: "Callable[..., dict[str, Any]]", monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Whoever waits for the lock of a clone-on-boot disk does not have the SR's: others wait for that meanwhile."""
    monkeypatch.setattr(lock, "SR_LIMIT", 5)
    disk = new_volume()["key"]
    taken = call_inside("Volume.snapshot", sr=sr, key=disk)["key"]
    temporary = call_inside("Volume.clone", sr=sr, key=disk)["key"]
    call_inside("Volume.set", sr=sr, key=disk, k="clone-on-boot", v=temporary)
    call_inside("Datapath.attach", uri=f"zvol://{sr}/{temporary}", domain="7")
    arguments = {"sr": sr, "key": disk, **({"snapshot": taken} if verb == "Volume.revert" else {})}
    failed: "list[BaseException]" = []

    def run_verb() -> None:
        try:
            call_inside(verb, **arguments)
        except BaseException as error:  # noqa: BLE001 - the test raises it
            failed.append(error)

    thread = threading.Thread(target=run_verb)
    with Locked(SR(sr), temporary):
        thread.start()
        wait_until(lambda: lock_is_wanted(f"srs/{sr}/vdi-{temporary}"), f"{verb}'s wait")
        with SR(sr).locked(ALONE):
            assert thread.is_alive()
    thread.join()
    assert failed == []
    assert temporary not in {record["key"] for record in call_inside("SR.ls", sr=sr)}


def test_a_temporary_that_is_attached_meanwhile(
    sr: str, new_volume: "Callable[..., dict[str, Any]]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was idle when the verb looked, and the verb does not have its lock."""
    disk = new_volume()["key"]
    temporary = call_inside("Volume.clone", sr=sr, key=disk)["key"]
    call_inside("Volume.set", sr=sr, key=disk, k="clone-on-boot", v=temporary)
    locked = SR.locked

    def attach_and_lock(self: SR, mode: str) -> Held:
        if mode == ALONE:
            monkeypatch.undo()
            call_inside("Datapath.attach", uri=f"zvol://{sr}/{temporary}", domain="7")
        return locked(self, mode)

    monkeypatch.setattr(SR, "locked", attach_and_lock)
    assert "attached just now" in refused("SR_BACKEND_FAILURE_24", "Volume.destroy", sr=sr, key=disk)
    assert {record["key"] for record in call_inside("SR.ls", sr=sr)} == {disk, temporary}
    call_inside("Volume.destroy", sr=sr, key=disk)


def test_detach_while_another_verb_has_a_disk(
    sr: str, new_volume: "Callable[..., dict[str, Any]]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "VDI_LIMIT_OF_EACH", 0.2)
    disks = [new_volume()["key"] for _ in range(2)]
    for disk in disks:
        call_inside("Datapath.attach", uri=f"zvol://{sr}/{disk}", domain="7")
    with Locked(SR(sr), max(disks)):
        refused("SR_BACKEND_FAILURE_37", "SR.detach", sr=sr)
    assert sr in pools()
    call_inside("SR.detach", sr=sr)


def lock_is_wanted(name: str) -> bool:
    """Whether somebody holds the gate of a lock: is waiting for it."""
    try:
        with lock.Lock(name + ".gate", 0, queued=False):
            return False
    except LockTimeout:
        return True


class TestLock:
    def test_wait_is_bounded(self) -> None:
        name = f"test-{new_uuid()}"
        try:
            with lock.Lock(name, 60):
                for shared in (False, True):
                    with pytest.raises(LockTimeout, match=name), lock.Lock(name, 0.3, shared=shared):
                        pass
        finally:
            remove(name)

    def test_shared_holders_do_not_keep_an_exclusive_one_out(self) -> None:
        """Shared holders overlap without a gap until the exclusive one has the lock."""
        name = f"test-{new_uuid()}"
        had = threading.Event()

        def share() -> None:
            while not had.is_set():
                with lock.Lock(name, 60, shared=True):
                    had.wait(0.05)

        threads = [threading.Thread(target=share) for _ in range(4)]
        try:
            for thread in threads:
                thread.start()
            with lock.Lock(name, 30):
                had.set()
        finally:
            had.set()
            for thread in threads:
                thread.join()
            remove(name)


def remove(name: str) -> None:
    """The files of a test's lock."""
    for suffix in ("", ".gate"):
        os.unlink(os.path.join(lock.DIRECTORY, name + suffix))
