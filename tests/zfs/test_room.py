# SPDX-License-Identifier: LGPL-2.1-only
"""An SR that has reached its quota: a change once made can be finished without space, and no disk stops another."""

import os
import time
from typing import Iterator, Tuple

import pytest

from tests.client import VerbError, call_inside
from tests.zfs.conftest import MIB, Bench, device_node, run
from zfsvol.errors import NoSpace
from zfsvol.repository import lineage
from zfsvol.zfs import changes

LIMIT = 8  # seconds: no verb waits for space that does not come

Full = Tuple[str, str, str]


def write(zvol: str, size: int) -> None:
    """Writes incompressible bytes as long as there is space."""
    with device_node(zvol) as node:
        descriptor = os.open(node, os.O_RDWR)
        try:
            for _ in range(size // MIB):
                os.write(descriptor, os.urandom(MIB))
            os.fsync(descriptor)
        except OSError:
            pass
        finally:
            os.close(descriptor)


def volume(sr: str, size: int) -> str:
    made = call_inside("Volume.create", sr=sr, name="n", description="", size=size, sharable=False)
    return str(made["key"])


@pytest.fixture
def full(bench: Bench) -> "Iterator[Full]":
    """The SR, a disk, and its snapshot."""
    bench.pool()
    sr = bench.sr(zpool="tank", quota="100M")
    disk, other = volume(sr, 64 * MIB), volume(sr, 400 * MIB)
    write(f"{sr}/{disk}", 20 * MIB)
    taken = call_inside("Volume.snapshot", sr=sr, key=disk)["key"]
    write(f"{sr}/{disk}", 20 * MIB)
    call_inside("Volume.snapshot", sr=sr, key=disk)
    write(f"{sr}/{other}", 100 * MIB)
    run("zpool", "sync")
    assert int(run("zfs", "get", "-Hp", "-o", "value", "available", sr)) < 4 * MIB
    yield sr, disk, taken
    run("zfs", "set", "quota=none", sr)


def test_destroy(full: Full) -> None:
    sr, disk, _ = full
    began = time.monotonic()
    call_inside("Volume.destroy", sr=sr, key=disk)
    assert time.monotonic() - began < LIMIT
    assert disk not in [record["key"] for record in call_inside("SR.ls", sr=sr)]
    assert f"{sr}/{disk}" not in run("zfs", "list", "-H", "-o", "name", "-r", sr).split()


def test_revert(full: Full) -> None:
    """It is done, or refused with nothing changed; never half done."""
    sr, disk, taken = full
    before = call_inside("SR.ls", sr=sr)
    began = time.monotonic()
    code = "SR_BACKEND_FAILURE_44"
    try:
        call_inside("Volume.revert", sr=sr, key=disk, snapshot=taken)
    except VerbError as error:
        code = error.code
    assert code == "SR_BACKEND_FAILURE_44"
    assert time.monotonic() - began < LIMIT
    after = call_inside("SR.ls", sr=sr)
    assert [record["key"] for record in after] == [record["key"] for record in before]
    assert [name for name in run("zfs", "list", "-H", "-o", "name", "-r", sr).split() if ".revert" in name] == []


class TestOneDiskThatCannotBeFinished:
    """The renames after a revert fail: the disk is reverted nevertheless, and no other disk is affected."""

    @pytest.fixture
    def stuck(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Full]":
        sr = bench.sr()
        disk = volume(sr, 64 * MIB)
        taken = call_inside("Volume.snapshot", sr=sr, key=disk)["key"]
        write(f"{sr}/{disk}", MIB)
        volume(sr, 64 * MIB)
        monkeypatch.setattr(lineage, "_SPACE_LIMIT", 0)
        monkeypatch.setattr(changes, "rename", self.fails)
        call_inside("Volume.revert", sr=sr, key=disk, snapshot=taken)
        yield sr, disk, taken
        monkeypatch.undo()
        assert call_inside("SR.attach", configuration={"sr_uuid": sr[3:]}) == sr
        assert call_inside("SR.stat", sr=sr)["health"] == ["Healthy", "ONLINE"]
        assert f"{sr}/{disk}" in run("zfs", "list", "-H", "-o", "name", "-r", sr).split()

    def fails(self, *_arguments: object) -> None:
        raise NoSpace("no room for a name")

    def test_all_are_listed(self, stuck: Full) -> None:
        sr, disk, taken = stuck
        listed = {record["key"]: record for record in call_inside("SR.ls", sr=sr)}
        assert len(listed) == 3
        assert call_inside("Volume.stat", sr=sr, key=disk)["name"] == listed[disk]["name"]
        assert call_inside("Volume.stat", sr=sr, key=taken)["key"] == taken

    def test_health_tells(self, stuck: Full) -> None:
        sr, disk, _ = stuck
        for _ in range(2):
            kind, text = call_inside("SR.stat", sr=sr)["health"]
            assert kind == "Healthy"
            assert disk in text
            # SR.attach cannot finish it, either, but attaches the SR.
            began = time.monotonic()
            assert call_inside("SR.attach", configuration={"sr_uuid": sr[3:]}) == sr
            assert time.monotonic() - began < LIMIT

    def test_the_disk_itself(self, stuck: Full) -> None:
        """Verbs that need the zvol's own name say why they fail; all others work."""
        sr, disk, taken = stuck
        call_inside("Volume.set_name", sr=sr, key=disk, new_name="renamed")
        made = call_inside("Volume.snapshot", sr=sr, key=disk)["key"]
        for verb, arguments in (("Volume.destroy", {}), ("Volume.revert", {"snapshot": taken})):
            with pytest.raises(VerbError, match="no room for a name"):
                call_inside(verb, sr=sr, key=disk, **arguments)
        with pytest.raises(VerbError, match="no room for a name"):
            call_inside("Datapath.attach", uri=f"zvol://{sr}/{disk}", domain="u0_a")
        call_inside("Volume.destroy", sr=sr, key=made)

    def test_others(self, stuck: Full) -> None:
        sr, disk, _ = stuck
        other = next(r["key"] for r in call_inside("SR.ls", sr=sr) if r["key"] != disk and r["read_write"])
        call_inside("Datapath.attach", uri=f"zvol://{sr}/{other}", domain="u0_a")
        call_inside("Datapath.detach", uri=f"zvol://{sr}/{other}", domain="u0_a")
        call_inside("Volume.destroy", sr=sr, key=other)
