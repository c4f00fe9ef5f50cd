# SPDX-License-Identifier: LGPL-2.1-only
"""What SR.stat and other verbs report when disks fail: one sentence that names the faulty disk."""

import os
import time

import pytest

from tests.client import VerbError, call, finish, start
from tests.zfs.conftest import GIB, MIB, Bench, device_node, run, state_of, wait_until
from zfsvol.host.blockdevice import stable_name


def health(sr: str) -> str:
    """The health text; xapi scans the SR only while the word is Healthy."""
    kind, text = call("SR.stat", sr=sr)["health"]
    assert kind == "Healthy"
    return str(text)


def write_some(sr: str, mebibytes: int = 32, content: bytes = b"") -> None:
    """A disk full of `content`, by default incompressible data."""
    key = call("Volume.create", sr=sr, name="", description="", size=GIB, sharable=False)["key"]
    with device_node(f"{sr}/{key}") as node, open(node, "wb") as device:
        device.writelines(content or os.urandom(MIB) for _ in range(mebibytes))
        os.fsync(device.fileno())


def test_a_mirror_loses_a_disk_and_gets_another(bench: Bench) -> None:
    good, bad = bench.faulty_disk(), bench.faulty_disk()
    sr = bench.sr(vdev=f"mirror {good.path} {bad.path}")
    write_some(sr)
    assert health(sr) == "ONLINE"
    bad.fail()
    run("zpool", "scrub", "-w", sr)
    text = health(sr)
    assert text.startswith("DEGRADED")
    assert f"{stable_name(bad.path)} FAULTED (too many errors)" in text
    assert stable_name(good.path) not in text
    assert len(call("SR.ls", sr=sr)) == 1
    new = bench.disk()
    try:
        # A resilver that waits in each transaction lasts long enough to be seen.
        tune("zfs_scan_suspend_progress", "1")
        run("zpool", "replace", sr, stable_name(bad.path), new)
        text = health(sr)
        assert "resilver in progress" in text
        assert "% done" in text
    finally:
        tune("zfs_scan_suspend_progress", "0")
    run("zpool", "wait", "-t", "resilver", sr)
    wait_until(lambda: health(sr) == "ONLINE", "the replaced disk to go")


def test_scrub_progress(bench: Bench) -> None:
    sr = bench.sr()
    write_some(sr)
    try:
        tune("zfs_scan_suspend_progress", "1")
        run("zpool", "scrub", sr)
        text = health(sr)
        assert text.startswith("ONLINE; scrub in progress")
        assert "% done" in text
    finally:
        tune("zfs_scan_suspend_progress", "0")
    run("zpool", "wait", "-t", "scrub", sr)
    assert health(sr) == "ONLINE"


def test_lost_data_is_told(bench: Bench) -> None:
    """The test overwrites a block of a guest's disk below ZFS."""
    disk = bench.disk(256 * MIB)
    sr = bench.sr(device=disk, compression="off")
    write_some(sr, 8, content=b"a block to find again".ljust(4096, b".") * 256)
    call("SR.detach", sr=sr)
    with open(disk, "r+b") as raw:
        place = raw.read().index(b"a block to find again")
        raw.seek(place)
        raw.write(b"something else")
        os.fsync(raw.fileno())
    call("SR.attach", configuration={"sr_uuid": sr[3:]})
    run("zpool", "scrub", "-w", sr)
    text = health(sr)
    assert "1 data errors" in text
    assert f"{stable_name(disk)} 0 read, 0 write" in text


def test_offline_disk(bench: Bench) -> None:
    disks = bench.disks(2)
    sr = bench.sr(vdev="mirror {} {}".format(*disks))
    run("zpool", "offline", sr, stable_name(disks[0]))
    assert f"{stable_name(disks[0])} OFFLINE" in health(sr)


def test_suspended_pool_hangs_no_verb(bench: Bench) -> None:
    disk = bench.faulty_disk()
    sr = bench.sr(device=disk.path)
    key = call("Volume.create", sr=sr, name="before", description="", size=GIB, sharable=False)["key"]
    disk.fail()
    began = time.monotonic()
    # At the first write the pool has not noticed the failure yet.
    with pytest.raises(VerbError) as caught:
        call("Volume.set_name", sr=sr, key=key, new_name="after")
    assert state_of(sr) == "SUSPENDED"
    errors = [caught.value]
    configuration = {"sr_uuid": sr[3:]}
    calls = [
        ("SR.stat", {"sr": sr}),
        ("SR.ls", {"sr": sr}),
        ("SR.set_name", {"sr": sr, "new_name": "x"}),
        ("SR.detach", {"sr": sr}),
        ("SR.destroy", {"sr": sr}),
        ("SR.attach", {"configuration": configuration}),
        ("Volume.create", {"sr": sr, "name": "", "description": "", "size": 1, "sharable": False}),
        ("Volume.stat", {"sr": sr, "key": key}),
        ("Volume.destroy", {"sr": sr, "key": key}),
        ("Volume.resize", {"sr": sr, "key": key, "new_size": 2 * GIB}),
        ("Volume.set", {"sr": sr, "key": key, "k": "a", "v": "b"}),
        ("Volume.unset", {"sr": sr, "key": key, "k": "a"}),
    ]
    for verb, arguments in calls:
        with pytest.raises(VerbError) as caught:
            finish(verb, start(verb, **arguments))  # type: ignore[arg-type]
        errors.append(caught.value)
    for error in errors:
        assert error.code == "SR_BACKEND_FAILURE_47", error
        assert sr in error.sentence
        assert "suspended" in error.sentence
    assert stable_name(disk.path) in errors[1].sentence
    call("SR.probe", configuration={})
    assert time.monotonic() - began < 120, "some verb has waited for a pool that cannot answer"
    disk.mend()
    run("zpool", "clear", sr)
    assert call("Volume.stat", sr=sr, key=key)["name"] in ("before", "after")
    call("Volume.destroy", sr=sr, key=key)


def tune(parameter: str, value: str) -> None:
    """Sets a parameter of the zfs kernel module."""
    with open(f"/sys/module/zfs/parameters/{parameter}", "w") as file:
        file.write(value)
