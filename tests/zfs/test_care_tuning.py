# SPDX-License-Identifier: LGPL-2.1-only
"""The settings of an SR and of one disk: where each comes from, changed, inherited again, refused."""

import os
import threading

import pytest

from tests.care import NO_DISK, NO_SPACE, WRONG, call, refused, risky, told
from tests.client import call_inside, new_uuid
from tests.zfs.conftest import GIB, MIB, Bench, run
from tests.zfs.test_care_status import new_volume
from zfsvol.care.tuning import SETTINGS
from zfsvol.zfs.pool import Pool

VALUES = {
    "compression": "zstd",
    "sync": "always",
    "logbias": "throughput",
    "primarycache": "metadata",
    "secondarycache": "none",
    "copies": "2",
    "datapath": "blkback",
}


def read(sr: str, key: str = "") -> "dict[str, tuple[str, str]]":
    """The settings: (value, where it comes from)."""
    answer = call("get", sr, **({"vdi_uuid": key} if key else {}))
    return {name: (setting["value"], setting["from"]) for name, setting in answer["settings"].items()}


def prop(name: str, dataset: str) -> str:
    return run("zfs", "get", "-Hp", "-o", "value", name, dataset).strip()


def test_get(bench: Bench) -> None:
    sr = bench.sr(compression="zstd-3", scrub="weekly")
    found = read(sr)
    assert tuple(found) == SETTINGS
    assert found["compression"] == ("zstd-3", "sr")
    assert found["sync"] == ("standard", "default")
    assert found["provisioning"] == ("thin", "sr")
    assert found["volblocksize"] == ("16384", "sr")
    assert found["scrub"] == ("weekly 02:00", "sr")
    assert found["trim"] == ("weekly 01:00", "default")
    key = new_volume(sr)
    found = read(sr, key)
    assert set(SETTINGS) - set(found) == {"scrub", "trim"}
    assert found["compression"] == ("zstd-3", "sr")
    assert found["datapath"] == ("tapdisk", "sr")
    assert found["provisioning"] == ("thin", "disk")
    assert found["volblocksize"] == ("16384", "disk")


def test_in_a_pool_of_an_administrator(bench: Bench) -> None:
    bench.pool(bench.disk())
    run("zfs", "set", "compression=gzip", "tank")
    sr = bench.sr(zpool="tank")
    assert read(sr)["compression"] == ("gzip", "tank")
    assert read(sr, new_volume(sr))["compression"] == ("gzip", "tank")
    call("set", sr, compression="lz4")
    assert read(sr)["compression"] == ("lz4", "sr")
    call("set", sr, compression="inherit")
    assert read(sr)["compression"] == ("gzip", "tank")


@pytest.mark.parametrize("name", sorted(VALUES))
def test_each_setting_of_a_disk(shared_sr: str, name: str) -> None:
    sr, value = shared_sr, VALUES[name]
    key, other = new_volume(sr), new_volume(sr)
    before = read(sr, key)[name]
    told("set", sr, vdi_uuid=key, **{name: value})
    for _ in range(2):
        answer = call("set", sr, vdi_uuid=key, **{name: value})
        assert answer["settings"][name] == {"value": value, "from": "disk"}
    assert any(name in note for note in answer["notes"]) == (name in ("compression", "copies", "datapath"))
    assert read(sr, key)[name] == (value, "disk")
    assert read(sr, other)[name] == before
    for _ in range(2):
        call("set", sr, vdi_uuid=key, **{name: "inherit"})
    assert read(sr, key)[name] == before
    for wrong in ("", "x", "on "):
        refused(WRONG, "set", sr, vdi_uuid=key, **{name: wrong})


@pytest.mark.parametrize("name", sorted(VALUES))
def test_each_setting_of_the_sr(sr: str, name: str) -> None:
    key, own = new_volume(sr), new_volume(sr)
    call("set", sr, vdi_uuid=own, **{name: VALUES[name]})
    call("set", sr, **{name: VALUES[name]})
    assert read(sr)[name] == read(sr, key)[name] == (VALUES[name], "sr")
    call("set", sr, **{name: "inherit"})
    assert read(sr)[name][1] == "default"
    assert read(sr, own)[name] == (VALUES[name], "disk")


def test_several_at_once(sr: str) -> None:
    key = new_volume(sr)
    answer = call("set", sr, vdi_uuid=key, **VALUES)
    assert len(answer["commands"]) == 1
    assert {name: setting["value"] for name, setting in answer["settings"].items() if name in VALUES} == VALUES
    assert "x=" not in refused(WRONG, "set", sr, vdi_uuid=key, compression="lz4", sync="x")
    assert read(sr, key)["compression"] == ("zstd", "disk")


def test_schedule(sr: str) -> None:
    answer = call("set", sr, scrub="weekly 3:30", trim="off")
    assert answer["settings"]["scrub"] == {"value": "weekly 03:30", "from": "sr"}
    call("set", sr, scrub="inherit", trim="inherit")
    assert read(sr)["scrub"] == ("monthly 02:00", "default")
    assert "scrub=yearly is no schedule. Write off, daily" in refused(WRONG, "set", sr, scrub="yearly")
    key = new_volume(sr)
    assert "leave vdi-uuid out" in refused(WRONG, "set", sr, vdi_uuid=key, scrub="off")


def test_sync_disabled(sr: str) -> None:
    assert "a power cut loses up to five seconds" in risky("set", sr, sync="disabled")
    call("set", sr, sync="disabled", force="true")
    assert read(sr)["sync"] == ("disabled", "sr")


class TestProvisioning:
    def test_thick_and_thin(self, sr: str) -> None:
        key = new_volume(sr)
        for value, reserved in (("thick", True), ("thick", True), ("thin", False), ("thin", False)):
            answer = call("set", sr, vdi_uuid=key, provisioning=value)
            assert answer["settings"]["provisioning"] == {"value": value, "from": "disk"}
            assert (int(prop("refreservation", f"{sr}/{key}")) >= 64 * MIB) == reserved
        answer = call("set", sr, provisioning="thick")
        assert "applies to disks made from now on" in answer["notes"][0]
        assert read(sr, key)["provisioning"] == ("thin", "disk")
        assert read(sr, new_volume(sr))["provisioning"] == ("thick", "disk")
        call("set", sr, vdi_uuid=key, provisioning="inherit")
        assert read(sr, key)["provisioning"] == ("thick", "disk")

    def test_without_space(self, sr: str) -> None:
        key = new_volume(sr, 100 * GIB)
        sentence = refused(NO_SPACE, "set", sr, vdi_uuid=key, provisioning="thick", compression="zstd", copies="2")
        assert "does not fit as a thick one" in sentence
        (note,) = told("set", sr, vdi_uuid=key, provisioning="thick")["notes"]
        assert note.startswith(f"A thick disk of {100 * GIB} bytes needs that much free space")

    def test_a_snapshot(self, sr: str) -> None:
        snapshot = call_inside("Volume.snapshot", sr=sr, key=new_volume(sr))["key"]
        assert "is a snapshot" in refused(WRONG, "set", sr, vdi_uuid=snapshot, provisioning="thick")


def test_volblocksize(sr: str) -> None:
    key = new_volume(sr)
    sentence = refused(WRONG, "set", sr, vdi_uuid=key, volblocksize="32K", force="true")
    assert f"The block size of a disk is fixed when it is made: {key} has 16384." in sentence
    call("set", sr, volblocksize="32K")
    assert read(sr)["volblocksize"] == ("32768", "sr")
    assert (prop("volblocksize", f"{sr}/{key}"), prop("volblocksize", f"{sr}/{new_volume(sr)}")) == ("16384", "32768")
    assert "must have a volblocksize" in refused(WRONG, "set", sr, volblocksize="inherit")


def test_wrong(sr: str) -> None:
    assert "Nothing is to be set. Give one of compression, sync" in refused(WRONG, "set", sr)
    assert "has no VDI" in refused(NO_DISK, "set", sr, vdi_uuid=new_uuid(), sync="always")
    assert "has no VDI" in refused(NO_DISK, "get", sr, vdi_uuid=new_uuid())
    assert "is not a uuid" in refused(WRONG, "set", sr, vdi_uuid="../x", sync="always")
    assert "no argument 'mountpoint'" in refused(WRONG, "set", sr, mountpoint="/")


def test_beside_verbs(sr: str) -> None:
    """Disks are made, reverted and destroyed meanwhile; none of it fails."""
    keys = [new_volume(sr) for _ in range(2)]
    failures = []
    is_over = threading.Event()

    def work() -> None:
        try:
            while not is_over.is_set():
                snapshot = call_inside("Volume.snapshot", sr=sr, key=keys[0])["key"]
                call_inside("Volume.revert", sr=sr, key=keys[0], snapshot=snapshot)
                call_inside("Volume.destroy", sr=sr, key=snapshot)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told below
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    for number in range(5):
        for key in keys:
            call("set", sr, vdi_uuid=key, compression=("lz4", "zstd")[number % 2])
            assert read(sr, key)["compression"][1] == "disk"
        call("status", sr)
        assert call("check", sr)["well"]
    is_over.set()
    thread.join()
    assert failures == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_killed_between_two_steps(sr: str, number: int) -> None:
    """A repetition does all of it."""
    key = new_volume(sr)
    call("set", sr, vdi_uuid=key, sync="always")
    wanted = {"provisioning": "thick", "compression": "zstd", "sync": "inherit"}
    child = os.fork()
    if child == 0:
        change, done = Pool.change, []

        def changing(pool: Pool, argv: "list[str]") -> str:
            done.append(argv)
            if len(done) == number:
                os._exit(9)
            return change(pool, argv)

        Pool.change = changing  # type: ignore[method-assign,assignment]
        call("set", sr, vdi_uuid=key, **wanted)
        os._exit(0)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 9
    assert call("check", sr)["well"]
    call("set", sr, vdi_uuid=key, **wanted)
    found = read(sr, key)
    assert [found[name] for name in wanted] == [("thick", "disk"), ("zstd", "disk"), ("standard", "default")]
