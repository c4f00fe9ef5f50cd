# SPDX-License-Identifier: LGPL-2.1-only
"""What `list` and `status` of care tell, on pools of all states."""

import time

import pytest

from tests.care import UNAVAILABLE, WRONG, call
from tests.client import call_inside, new_uuid
from tests.zfs.conftest import GIB, MIB, Bench, Udev, device_node, run, state_of, wait_until
from zfsvol.errors import StorageError
from zfsvol.host.blockdevice import stable_name
from zfsvol.repository.sr import SR


def new_volume(sr: str, size: int = 64 * MIB, name: str = "disk") -> str:
    made = call_inside("Volume.create", sr=sr, name=name, description="", size=size, sharable=False)
    return str(made["key"])


def fails(code: str, *arguments: str) -> str:
    with pytest.raises(StorageError) as caught:
        call(*arguments)
    assert caught.value.code == code
    return str(caught.value)


def test_list(bench: Bench) -> None:
    own = bench.sr()
    bench.pool(bench.disk())
    guest = bench.sr(zpool="tank")
    found = {line["dataset"]: line for line in call("list")}
    assert set(found) == {own, guest}
    assert [found[own]["owns-pool"], found[guest]["owns-pool"]] == [True, False]
    assert {line["health"] for line in found.values()} == {"ONLINE"}
    call_inside("SR.detach", sr=guest)
    assert {line["dataset"]: line["attached"] for line in call("list")} == {own: True, guest: False}
    assert [status["dataset"] for status in call("status")] == sorted([own, guest])


def test_which_sr(bench: Bench) -> None:
    bench.pool(bench.disk())
    sr = bench.sr(zpool="tank")
    uuid = sr[-36:]
    for name in (uuid, sr):
        assert call("status", name)["sr"] == uuid
    call_inside("SR.detach", sr=sr)
    assert call("status", uuid)["dataset"] == sr
    assert "There is no SR" in fails(UNAVAILABLE, "status", new_uuid())
    assert "not imported" in fails(UNAVAILABLE, "status", f"sr-{new_uuid()}")
    for wrong in ("tank", "x", "/", "sr-x"):
        fails(WRONG, "status", wrong)
    run("zfs", "create", "-o", f"zfsvol:sr-uuid={uuid}", "-p", f"tank/copy/sr-{uuid}")
    assert f"There are several SRs {uuid}: tank/copy/sr-{uuid}, {sr}" in fails(WRONG, "status", uuid)


def test_layout(bench: Bench) -> None:
    disks = bench.disks(7)
    words = "mirror {} {} mirror {} {} log {} cache {} spare {}".format(*disks)
    sr = bench.sr(vdev=words)
    found = call("status", sr)
    guids = [line.split()[0] for line in run("zpool", "status", "-g", sr).splitlines() if " ONLINE " in line][1:]
    tops = found["layout"]
    assert [(top["name"], top["kind"], top["role"]) for top in tops[:2]] == [
        ("mirror-0", "mirror", "data"),
        ("mirror-1", "mirror", "data"),
    ]
    assert [top["role"] for top in tops[2:]] == ["log", "cache", "spare"]
    rows = [row for top in tops for row in (top, *top.get("children", []))]
    assert [row["guid"] for row in rows][:7] == guids[:7]
    leaves = [row for row in rows if row["kind"] == "disk"]
    assert [leaf["path"] for leaf in leaves] == [leaf["by-id"] for leaf in leaves] == list(map(stable_name, disks))
    assert {leaf["size"] for leaf in leaves} == {GIB}
    assert [top["may-still-fail"] for top in tops[:2]] == [1, 1]
    assert found["pool"]["state"] == found["pool"]["health"] == "ONLINE"
    assert found["pool"]["guid"] == run("zpool", "get", "-H", "-o", "value", "guid", sr).strip()
    assert (found["scans"], found["last-scrub"], found["last-trim"], found["obstacles"]) == ([], None, None, [])


def test_a_mirror_loses_a_disk(bench: Bench) -> None:
    good, bad = bench.faulty_disk(), bench.faulty_disk()
    sr = bench.sr(vdev=f"mirror {good.path} {bad.path}")
    run("zpool", "scrub", "-w", sr)
    scrubbed = call("status", sr)["last-scrub"]
    assert abs(scrubbed - time.time()) < 60
    bad.fail()
    run("zpool", "scrub", "-w", sr)
    found = call("status", sr)
    (mirror,) = found["layout"]
    assert (found["pool"]["state"], mirror["state"], mirror["may-still-fail"]) == ("DEGRADED", "DEGRADED", 0)
    assert [child["state"] for child in mirror["children"]] == ["ONLINE", "FAULTED"]
    assert mirror["children"][1]["note"] == "too many errors"
    assert sum(mirror["children"][1]["errors"].values()) > 0
    assert "Replace the faulted device" in found["pool"]["action"]
    # zpool itself shows only the resilver from now on.
    again = found["last-scrub"]
    bad.mend()
    time.sleep(1.1)
    run("zpool", "clear", sr)
    run("zpool", "offline", sr, stable_name(bad.path))
    new_volume(sr)
    run("zpool", "online", sr, stable_name(bad.path))

    def scans() -> "list[tuple[str, str]]":
        return [(scan["kind"], scan["state"]) for scan in call("status", sr)["scans"]]

    wait_until(lambda: scans() == [("resilver", "finished")], "the resilver")
    # The history has the time of the line's own writing, which may be a second later.
    assert 0 <= call("status", sr)["last-scrub"] - again <= 2
    assert again >= scrubbed


def test_a_suspended_pool(bench: Bench) -> None:
    disk = bench.faulty_disk()
    sr = bench.sr(device=disk.path)
    disk.fail()
    with pytest.raises(StorageError):
        SR(sr).zfs.change(["zfs", "set", "zfsvol:test=x", sr])
    assert state_of(sr) == "SUSPENDED"
    began = time.monotonic()
    found = call("status", sr)
    assert time.monotonic() - began < 20
    assert found["pool"]["state"] == "SUSPENDED"
    assert found["layout"][0]["by-id"] == stable_name(disk.path)
    assert (found["space"], found["disks"]) == (None, None)
    assert "is suspended because it lost a disk" in found["obstacles"][0]
    (line,) = call("list")
    assert (line["dataset"], line["state"]) == (sr, "SUSPENDED")
    assert "suspended" in line["health"]


def test_a_pool_that_is_gone(bench: Bench) -> None:
    sr = bench.sr()
    run("zpool", "export", sr)
    (found,) = call("status")
    assert (found["sr"], found["attached"], found["pool"]["state"]) == (sr[3:], True, None)
    assert (found["layout"], found["disks"]) == (None, None)
    assert "no such pool" in found["obstacles"][0]
    assert "is not imported on this host" in call("list")[0]["health"]
    assert "is not imported on this host" in fails(UNAVAILABLE, "status", sr)
    call_inside("SR.attach", configuration={"sr_uuid": sr[3:], "device": bench.there[0].path})


def test_a_disk_that_hangs(bench: Bench) -> None:
    disk = bench.faulty_disk()
    sr = bench.sr(device=disk.path)
    disk.hang()
    began = time.monotonic()
    call("status", sr)
    assert time.monotonic() - began < 20
    disk.mend()
    wait_until(lambda: state_of(sr) == "ONLINE", "the pool")


def test_space_and_disks(bench: Bench) -> None:
    sr = bench.sr(compression="off")
    key, thick = new_volume(sr, name="thin"), new_volume(sr, name="thick")
    run("zfs", "set", "refreservation=auto", f"{sr}/{thick}")
    with device_node(f"{sr}/{key}") as node:
        run("dd", "if=/dev/urandom", f"of={node}", "bs=1M", "count=16", "conv=fsync", "status=none")
    snapshot = call_inside("Volume.snapshot", sr=sr, key=key)["key"]
    call_inside("Volume.destroy", sr=sr, key=key)
    uri = f"zvol://{sr}/{thick}"
    call_inside("Datapath.attach", uri=uri, domain="u0_x")
    run("zpool", "sync", sr)
    found = call("status", sr)
    call_inside("Datapath.detach", uri=uri, domain="u0_x")
    Udev.settle()
    disks = {disk["vdi"]: disk for disk in found["disks"]}
    assert {key: (disk["kind"], disk["name"]) for key, disk in disks.items()} == {
        thick: ("disk", "thick"),
        snapshot: ("snapshot", "thin"),
    }
    assert (disks[thick]["provisioning"], disks[snapshot]["provisioning"]) == ("thick", "thin")
    assert disks[thick]["users"] == ["dom0 (u0_x)"]
    taken = found["takes-space"]
    assert taken["deleted-but-needed"] >= 16 * MIB
    assert taken["reserved-for-thick-disks"] >= 63 * MIB
    assert {entry["vdi"] for entry in taken["largest"]} == {thick, snapshot}
    kinds = ("disks", "snapshots", "deleted-but-needed", "reserved-for-thick-disks")
    assert sum(taken[kind] for kind in kinds) == sum(disk["used"] for disk in disks.values())
    space = found["space"]
    assert (space["virtual"], space["promised"]) == (64 * MIB, 0)
    assert space["used"] >= 80 * MIB
    stat = call_inside("SR.stat", sr=sr)
    assert abs(space["available"] - stat["free_space"]) < 4 * MIB
    new_volume(sr, 10 * GIB)
    assert 10 * GIB - MIB < call("status", sr)["space"]["promised"] <= 10 * GIB


def test_schedule(bench: Bench) -> None:
    sr = bench.sr(scrub="weekly 3:30", autotrim="on")
    found = call("status", sr)["schedule"]
    assert (found["scrub"]["when"], found["trim"]) == ("weekly 03:30", {"when": "off", "next": None})
    assert 5 * 86400 < found["scrub"]["next"] - time.time() < 8 * 86400
    assert time.localtime(found["scrub"]["next"])[3:5] == (3, 30)
    call("set", sr, scrub="off")
    assert call("status", sr)["schedule"]["scrub"] == {"when": "off", "next": None}


def test_unfinished(bench: Bench) -> None:
    sr = bench.sr()
    SR(sr).note_unfinished(["something is half done"])
    assert call("status", sr)["unfinished"] == ["something is half done"]
