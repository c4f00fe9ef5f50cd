# SPDX-License-Identifier: LGPL-2.1-only
"""A disk hangs while its pool still says ONLINE: no verb hangs for long, and no other SR is affected."""

from contextlib import contextmanager
import time
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from tests import client
from tests.client import VerbError, call_inside, new_uuid
from tests.zfs.conftest import MIB, Bench, Disk, state_of, wait_until
from zfsvol.errors import LockTimeout
from zfsvol.host import command, lock
from zfsvol.repository import sr as srs
from zfsvol.zfs import pool

LIMIT = 20  # seconds in which any verb that does not hang answers in the lab

Sick = Tuple[str, Disk, str]


def new_volume(sr: str) -> str:
    made = call_inside("Volume.create", sr=sr, name="n", description="", size=64 * MIB, sharable=False)
    return str(made["key"])


@pytest.fixture
def sick(bench: Bench) -> "Iterator[Sick]":
    """An SR, its disk, which tests make hang, and a VDI."""
    disk = bench.faulty_disk()
    sr = bench.sr(device=disk.path)
    yield sr, disk, new_volume(sr)
    disk.mend()
    wait_until(lambda: state_of(sr) == "ONLINE", "the pool")


@contextmanager
def in_time() -> "Iterator[None]":
    began = time.monotonic()
    yield
    assert time.monotonic() - began < LIMIT


def call(verb: str, **arguments: Any) -> Any:
    """Runs a verb in a process of its own; checks that it answers in time."""
    with in_time():
        return client.call(verb, **arguments)


def probed() -> "Dict[str, Any]":
    return {found["configuration"]["sr_uuid"]: found for found in call("SR.probe", configuration={})}


def is_locked(sr: str) -> bool:
    try:
        with lock.Lock(f"srs/{sr}/sr", 0, queued=False):
            return False
    except LockTimeout:
        return True


def test_others_go_on(bench: Bench, sick: Sick) -> None:
    sr, disk, key = sick
    well, there = bench.sr(), bench.disk()
    other = call(
        "SR.create",
        uuid=new_uuid(),
        configuration={"device": there, "autotrim": "off"},
        name="n",
        description="",
    )
    disk.hang()
    uri = f"zvol://{sr}/{key}"
    hanging = [
        client.start("Datapath.attach", uri=uri, domain="u0_a"),
        client.start("Volume.snapshot", sr=sr, key=key),
    ]
    # The destroy must not have the SR's lock alone: SR.ls would wait for it.
    wait_until(lambda: is_locked(sr), "a verb to have the SR's lock")
    hanging.append(client.start("Volume.destroy", sr=sr, key=new_uuid()))
    time.sleep(2)
    try:
        assert call("SR.stat", sr=well)["health"] == ["Healthy", "ONLINE"]
        made = call("Volume.create", sr=well, name="n", description="", size=MIB, sharable=False)
        call("Volume.destroy", sr=well, key=made["key"])
        # The search for the other SR covers all disks.
        assert call("SR.attach", configuration={"sr_uuid": other["sr_uuid"]}) == "sr-" + other["sr_uuid"]
        call("SR.detach", sr="sr-" + other["sr_uuid"])
        assert other["sr_uuid"] in probed()
        # Verbs on the sick SR that need no disk answer, too.
        assert call("Volume.stat", sr=sr, key=key)["key"] == key
        assert [record["key"] for record in call("SR.ls", sr=sr)] == [key]
        assert call("SR.stat", sr=sr)["uuid"] == sr[3:]
    finally:
        disk.mend()
        answers = []
        for process, verb in zip(hanging, ("Datapath.attach", "Volume.snapshot", "Volume.destroy")):
            answers.append(client.finish(verb, process))
    assert answers[2] is None
    call("Datapath.detach", uri=uri, domain="u0_a")


def test_a_child_that_cannot_be_killed(sick: Sick, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left behind with the SR's lock, and the next verb finds the lock held."""
    sr, disk, key = sick
    monkeypatch.setattr(pool, "WRITE_LIMIT", 2)
    disk.hang()
    with in_time(), pytest.raises(VerbError, match="did not end within"):
        call_inside("Volume.set", sr=sr, key=key, k="k", v="v")
    with pytest.raises(LockTimeout), lock.Lock(f"srs/{sr}/sr", 1):
        pass
    with in_time():
        assert call_inside("Volume.stat", sr=sr, key=key)["key"] == key
    disk.mend()
    with in_time(), srs.SR(sr).locked(srs.ALONE):
        pass
    assert call_inside("Volume.stat", sr=sr, key=key)["keys"]["k"] == "v"


def test_a_child_of_a_thread() -> None:
    """A resident service would run commands in threads, which get no signals."""
    import threading

    said = []

    def run() -> None:
        said.append(command.run(["echo", "said"], 10))
        try:
            command.run(["sleep", "600"], 0.5)
        except command.CommandTimeout as error:
            said.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LIMIT)
    assert said[0] == "said\n"
    assert "did not end within" in said[1]


def test_a_stream() -> None:
    """The output arrives as it is written, is never held in memory as a whole, and the exit status is checked."""
    child = command.Child(["sh", "-c", "head -c 300000000 /dev/zero; echo why >&2; exit 3"])
    sizes: "List[int]" = []
    with pytest.raises(command.CommandFailed, match="why"):
        sizes.extend(map(len, child.chunks(60)))
    assert sum(sizes) == 300_000_000
    assert max(sizes) <= 1 << 20
    for data in command.Child(["sh", "-c", "echo first; sleep 600"]).chunks(60):
        assert data == b"first\n"
        break
