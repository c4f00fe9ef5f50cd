# SPDX-License-Identifier: LGPL-2.1-only
"""SRs that another host left behind, complete or not: how SR.probe reports them, and how SR.attach attaches them."""

from contextlib import contextmanager
from pathlib import Path
import struct
from typing import Any, Dict, Iterator, List

import pytest

from tests.client import call_inside, new_uuid, refused
from tests.zfs.conftest import MIB, Bench, pools, run

IN_USE, UNAVAILABLE = "SR_BACKEND_FAILURE_16", "SR_BACKEND_FAILURE_47"
SIZE = 128 * MIB
HOSTID = Path("/etc/hostid")


@contextmanager
def host(number: int) -> "Iterator[None]":
    """Inside the `with`, this host has the id `number`; 0: no id."""
    before = HOSTID.read_bytes() if HOSTID.exists() else None
    try:
        if number:
            HOSTID.write_bytes(struct.pack("<I", number))
        elif before is not None:
            HOSTID.unlink()
        yield
    finally:
        if before is None:
            HOSTID.unlink()
        else:
            HOSTID.write_bytes(before)


class Dead:
    """An SR that was attached when its host died. Its disks are here, as they were at that moment."""

    def __init__(self, bench: Bench, *, number: int, words: str = "", zpool: bool = False) -> None:
        """`number`: that host's id. `words`: the layout for `vdev=`, with %s for each disk; none for one disk."""
        self.disks = bench.disks(words.count("%s") or 1, SIZE)
        with host(number):
            if zpool:
                place = {"zpool": bench.pool(*self.disks)}
            elif words:
                place = {"vdev": words % tuple(self.disks)}
            else:
                place = {"device": self.disks[0]}
            self.configuration: "Dict[str, str]" = call_inside(
                "SR.create", uuid=new_uuid(), configuration=place, name="precious", description=""
            )
            self.sr = call_inside("SR.attach", configuration=self.configuration)
            self.key = call_inside("Volume.create", sr=self.sr, name="v", description="", size=MIB, sharable=False)[
                "key"
            ]
            self.uuid = self.sr[-36:]
            self.pool = self.sr.split("/")[0]
            run("zpool", "sync", self.pool)
            images = [bench.directory / f"image{index}" for index, _ in enumerate(self.disks)]
            for disk, image in zip(self.disks, images):
                run("dd", f"if={disk}", f"of={image}", "bs=1M", "iflag=direct", "conv=sparse", "status=none")
            call_inside("SR.detach", sr=self.sr)
            if zpool:
                run("zpool", "export", self.pool)
        for disk, image in zip(self.disks, images):
            run("dd", f"if={image}", f"of={disk}", "bs=1M", "oflag=direct", "status=none")
        assert self.pool not in pools()

    def require_attached(self, **configuration: str) -> None:
        """Checks that SR.attach with this device-config attaches the SR with its content."""
        assert call_inside("SR.attach", configuration=configuration) == self.sr
        assert [record["key"] for record in call_inside("SR.ls", sr=self.sr)] == [self.key]


def probe(**configuration: str) -> "List[Dict[str, Any]]":
    found = call_inside("SR.probe", configuration=configuration)
    assert isinstance(found, list)
    return found


def not_attached(code: str, **configuration: str) -> str:
    """SR.attach must be refused with this code; returns its sentence."""
    before = pools()
    sentence = refused(code, "SR.attach", configuration=configuration)
    assert pools() == before
    return sentence


class TestDead:
    def test_its_own_pool(self, bench: Bench) -> None:
        dead = Dead(bench, number=0x1111AAAA)
        disk = {"device": dead.disks[0]}
        for configuration in ({}, disk, {"sr_uuid": dead.uuid}):
            (found,) = probe(**configuration)
            assert found["configuration"]["sr_uuid"] == found["sr"]["uuid"] == dead.uuid
            assert "force-import=true" in found["extra_info"]["obstacle"]
            assert "another host" in found["sr"]["health"][1]
        for configuration in (disk, dead.configuration):
            assert "another host" in not_attached(IN_USE, **configuration)
        (found,) = probe(**disk, **{"force-import": "true"})
        assert (found["sr"]["name"], found["extra_info"]) == ("precious", {})
        assert pools() == []
        dead.require_attached(**disk, **{"force-import": "true"})

    def test_in_a_pool_of_the_administrators(self, bench: Bench) -> None:
        dead = Dead(bench, number=0x1111AAAA, zpool=True)
        (found,) = probe()
        assert (found["configuration"]["zpool"], found["complete"]) == (dead.pool, False)
        assert "force-import=true" in found["extra_info"]["obstacle"]
        assert "another host" in not_attached(IN_USE, **dead.configuration)
        dead.require_attached(device=dead.disks[0], **{"force-import": "true"})

    @pytest.mark.parametrize("words", ["mirror %s %s", "%s log %s"])
    def test_of_several_disks(self, bench: Bench, words: str) -> None:
        dead = Dead(bench, number=0x1111AAAA, words=words)
        vdev = words % tuple(dead.disks)
        assert "another host" in not_attached(IN_USE, vdev=vdev)
        dead.require_attached(vdev=vdev, **{"force-import": "true"})

    def test_whose_host_had_no_id(self, bench: Bench) -> None:
        """The driver gives each host an id before it makes or imports a pool."""
        with host(0x2222BBBB):
            dead = Dead(bench, number=0)
            assert "another host" in not_attached(IN_USE, device=dead.disks[0])


class TestMissing:
    def test_a_log_device_is_named(self, bench: Bench) -> None:
        """Without its log, the SR may lose the writes of the last seconds, so only a person may decide to import it."""
        disk, log = bench.disks(2, SIZE)
        configuration = call_inside(
            "SR.create", uuid=new_uuid(), configuration={"vdev": f"{disk} log {log}"}, name="precious", description=""
        )
        sr = call_inside("SR.attach", configuration=configuration)
        call_inside("SR.detach", sr=sr)
        bench.take_away(log)
        sentence = not_attached(UNAVAILABLE, **configuration)
        assert "log" in sentence
        assert "zpool import -m" in sentence
        (found,) = probe(device=disk)
        assert found["sr"]["uuid"] == sr[-36:]
        assert "log" in found["extra_info"]["obstacle"]

    def test_a_disk_is_named(self, bench: Bench) -> None:
        disks = bench.disks(2, SIZE)
        configuration = call_inside(
            "SR.create", uuid=new_uuid(), configuration={"device": ",".join(disks)}, name="precious", description=""
        )
        call_inside("SR.detach", sr=call_inside("SR.attach", configuration=configuration))
        bench.take_away(disks[1])
        sentence = not_attached(UNAVAILABLE, **configuration)
        assert "UNAVAIL" in sentence
        (found,) = probe(device=disks[0])
        assert "UNAVAIL" in found["extra_info"]["obstacle"]
