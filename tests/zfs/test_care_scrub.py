# SPDX-License-Identifier: LGPL-2.1-only
"""Scrubs and trims by hand: each action in each state, twice."""

from typing import Any, Iterator

import pytest

from tests.care import IN_USE, WRONG, call, refused, told
from tests.zfs.conftest import MIB, Bench, device_node, run
from tests.zfs.test_care_status import new_volume
from zfsvol.host.blockdevice import stable_name

TUNED = {"zfs_scan_suspend_progress": "0", "zfs_trim_extent_bytes_min": "", "zfs_trim_queue_limit": ""}


def tune(parameter: str, value: str) -> None:
    with open(f"/sys/module/zfs/parameters/{parameter}", "w") as file:
        file.write(value)


@pytest.fixture
def slowly() -> "Iterator[None]":
    """Scrubs and resilvers make no progress."""
    tune("zfs_scan_suspend_progress", "1")
    yield
    tune("zfs_scan_suspend_progress", "0")


def scan(sr: str) -> "dict[str, Any]":
    (found,) = call("status", sr)["scans"]
    return dict(found)


def fill(sr: str, mebibytes: int = 16) -> None:
    with device_node(f"{sr}/{new_volume(sr)}") as node:
        run("dd", "if=/dev/urandom", f"of={node}", "bs=1M", f"count={mebibytes}", "conv=fsync", "status=none")


def test_a_scrub_s_life(sr: str, slowly: None) -> None:
    fill(sr)
    start = [f"zpool scrub {sr}"]
    assert told("scrub", sr)["commands"] == start
    assert call("status", sr)["scans"] == []
    assert call("scrub", sr) == {"sr": sr[3:], "done": True, "commands": start, "notes": []}
    assert (scan(sr)["kind"], scan(sr)["state"]) == ("scrub", "running")
    assert call("scrub", sr)["notes"] == ["A scrub is running, 0.0 % done."]
    assert told("scrub", sr, action="pause")["commands"] == [f"zpool scrub -p {sr}"]
    call("scrub", sr, action="pause")
    assert scan(sr)["state"] == "paused"
    assert call("scrub", sr, action="pause")["commands"] == []
    assert call("scrub", sr, action="start")["commands"] == start
    assert scan(sr)["state"] == "running"
    call("scrub", sr, action="stop")
    assert scan(sr)["state"] == "canceled"
    for action in ("stop", "pause"):
        assert call("scrub", sr, action=action) == {
            "sr": sr[3:],
            "done": True,
            "commands": [],
            "notes": ["No scrub is running."],
        }
    assert call("status", sr)["last-scrub"] is None
    call("scrub", sr)
    tune("zfs_scan_suspend_progress", "0")
    run("zpool", "wait", "-t", "scrub", sr)
    found = call("status", sr)
    assert (found["scans"][0]["state"], found["scans"][0]["errors"]) == ("finished", 0)
    assert found["last-scrub"] == found["scans"][0]["ended"]


def test_no_scrub_during_a_resilver(bench: Bench, slowly: None) -> None:
    sr = bench.sr()
    fill(sr)
    run("zpool", "attach", sr, call("status", sr)["layout"][0]["path"], bench.disk())
    assert scan(sr)["kind"] == "resilver"
    assert "is being resilvered" in refused(IN_USE, "scrub", sr)
    assert call("scrub", sr, action="stop")["notes"] == ["No scrub is running."]


def test_trim(bench: Bench) -> None:
    disks = bench.disks(3)
    sr = bench.sr(vdev="mirror {} {} cache {}".format(*disks))
    assert told("trim", sr)["commands"] == [f"zpool trim {sr}"]
    assert call("trim", sr)["commands"] == [f"zpool trim {sr}"]
    run("zpool", "wait", "-t", "trim", sr)
    found = call("status", sr)
    halves = found["layout"][0]["children"]
    assert {half["trim"]["state"] for half in halves} == {"finished"}
    assert found["last-trim"] == min(half["trim"]["ended"] for half in halves)
    for action in ("stop", "pause"):
        assert call("trim", sr, action=action)["notes"] == ["No trim is running."]
    answer = call("trim", sr, device=disks[1])
    assert answer["commands"] == [f"zpool trim {sr} {halves[1]['guid']}"]
    run("zpool", "wait", "-t", "trim", sr)
    assert call("trim", sr, device=halves[1]["guid"])["commands"] == answer["commands"]
    assert "has no device '/dev/none'" in refused(WRONG, "trim", sr, device="/dev/none")


def test_devices_that_cannot_be_trimmed(bench: Bench) -> None:
    loop = bench.loop(256 * MIB)
    with open(f"/sys/block/{loop[5:]}/queue/discard_max_bytes", "w") as file:
        file.write("0")
    sr = bench.sr(device=loop)
    found = call("status", sr)["layout"][0]
    if found["trim"]["state"] != "unsupported":
        pytest.skip("this kernel does not forget that the device can discard")
    assert f"No device can be trimmed: {stable_name(loop)}" in refused(WRONG, "trim", sr)
    assert call("status", sr)["last-trim"] is None
