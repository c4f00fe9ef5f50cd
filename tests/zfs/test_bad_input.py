# SPDX-License-Identifier: LGPL-2.1-only
"""Requests that must fail: each is refused with its code and a sentence, and nothing is changed."""

import os
from pathlib import Path
import stat
from typing import Any, Iterator

import pytest

from tests.client import VerbError, call, call_badly, call_inside, new_uuid, raw
from tests.zfs.conftest import MIB, Bench, Udev, pools, run

INVALID, DEVICE_MISSING, DEVICE_INVALID, IN_USE, UNAVAILABLE = (f"SR_BACKEND_FAILURE_{n}" for n in (1, 90, 91, 16, 47))


def refused(configuration: "dict[str, str]", uuid: str = "") -> VerbError:
    """The refusal of SR.create; checks that no pool or dataset has appeared or vanished."""
    before = (pools(), run("zfs", "list", "-H", "-o", "name"))
    with pytest.raises(VerbError) as caught:
        call("SR.create", uuid=uuid or new_uuid(), configuration=configuration, name="", description="")
    assert (pools(), run("zfs", "list", "-H", "-o", "name")) == before
    return caught.value


def content(device: str) -> bytes:
    """The first and the last MiB of a device, where labels and partition tables are."""
    with open(device, "rb") as file:
        first = file.read(MIB)
        file.seek(-MIB, os.SEEK_END)
        return first + file.read()


@pytest.fixture(scope="class")
def untouched(tmp_path_factory: "pytest.TempPathFactory") -> "Iterator[list[str]]":
    """Three empty disks, one that is too small, and a pool `tank`: a refusal must not change them."""
    bench = Bench(tmp_path_factory.mktemp("untouched"))
    bench.pool()
    disks = [*bench.disks(3, 64 * MIB), bench.disk(63 * MIB)]
    before = (pools(), run("zfs", "list", "-H", "-o", "name"))
    yield disks
    assert (pools(), run("zfs", "list", "-H", "-o", "name")) == before
    bench.close()


class TestDeviceConfig:
    @pytest.mark.parametrize(
        ("configuration", "code"),
        [
            ({}, DEVICE_MISSING),
            ({"ashift": "12"}, DEVICE_MISSING),
            ({"device": ""}, DEVICE_MISSING),
            ({"device": "{0}", "vdev": "mirror {1} {2}"}, INVALID),
            ({"device": "{0}", "zpool": "tank"}, INVALID),
            ({"device": "{0}", "ashfit": "12"}, INVALID),
            ({"device": "{0}", "ashift": "3"}, INVALID),
            ({"device": "{0}", "ashift": "12 -o x=y"}, INVALID),
            ({"device": "{0}", "compression": "best"}, INVALID),
            ({"device": "{0}", "compression": "on -f"}, INVALID),
            ({"device": "{0}", "volblocksize": "3K"}, INVALID),
            ({"device": "{0}", "provisioning": "fat"}, INVALID),
            ({"device": "{0}", "quota": "-1"}, INVALID),
            ({"device": "{0}", "encryption": "aes-256-gcm"}, INVALID),
            ({"device": "{0}", "encryption-key-file": "/nowhere/key"}, INVALID),
            ({"device": "{0}", "encryption-key-file": "/dev/null"}, INVALID),
            ({"device": "{0}", "sr_uuid": "00000000-0000-0000-0000-000000000000"}, INVALID),
            ({"device": "sdb"}, DEVICE_INVALID),
            ({"device": "-f"}, DEVICE_INVALID),
            ({"device": "/etc/passwd"}, DEVICE_INVALID),
            ({"device": "/dev/../etc/passwd"}, DEVICE_INVALID),
            ({"device": "/dev/null"}, DEVICE_INVALID),
            ({"device": "/dev/nosuchdisk"}, DEVICE_INVALID),
            ({"device": "{0},{0}"}, INVALID),
            ({"device": "{0}, "}, DEVICE_INVALID),
            ({"vdev": "-f {0}"}, DEVICE_INVALID),
            ({"vdev": "-o ashift=9 {0}"}, DEVICE_INVALID),
            ({"vdev": "{0} -R /mnt"}, DEVICE_INVALID),
            ({"vdev": "--help"}, DEVICE_INVALID),
            ({"vdev": "mirror {0}"}, INVALID),
            ({"vdev": "raidz2 {0} {1}"}, INVALID),
            ({"vdev": "mirror {0} {0}"}, INVALID),
            ({"vdev": "log {0}"}, INVALID),
            ({"vdev": "raidz9 {0} {1} {2}"}, DEVICE_INVALID),
            ({"vdev": "mirror {0} /dev/../dev/sda"}, DEVICE_INVALID),
            ({"vdev": "mirror {0} {1} {2} raidz"}, INVALID),
            ({"zpool": "nosuchpool"}, UNAVAILABLE),
            ({"zpool": "tank/nosuchdataset"}, UNAVAILABLE),
            ({"zpool": "-r"}, INVALID),
            ({"zpool": "tank/../x"}, INVALID),
            ({"zpool": "tank@snap"}, INVALID),
            ({"zpool": "tank", "ashift": "12"}, INVALID),
            ({"zpool": "tank/sr-00000000-0000-0000-0000-000000000000"}, INVALID),
            ({"device": "{3}"}, DEVICE_INVALID),
            ({"zpool": "tank", "force-create": "true"}, INVALID),
        ],
        ids=lambda value: " ".join(map("=".join, value.items())) if isinstance(value, dict) else value[19:],
    )
    def test_refused(self, untouched: "list[str]", configuration: "dict[str, str]", code: str) -> None:
        before = [content(disk) for disk in untouched]
        given = {name: text.format(*untouched) for name, text in configuration.items()}
        with pytest.raises(VerbError) as caught:
            call_inside("SR.create", uuid=new_uuid(), configuration=given, name="", description="")
        assert caught.value.code == code, caught.value.sentence
        assert len(caught.value.sentence) > 20
        assert [content(disk) for disk in untouched] == before

    @pytest.mark.parametrize("uuid", ["", "x", "../../etc", "-f", "0" * 36, new_uuid().upper()])
    def test_sr_uuid(self, untouched: "list[str]", uuid: str) -> None:
        configuration = {"device": untouched[0]}
        with pytest.raises(VerbError) as caught:
            call_badly("SR.create", uuid=uuid, configuration=configuration, name="", description="")
        assert caught.value.code == INVALID


def test_missing_device_reads_as_xcp_ng_tests_want_it() -> None:
    with pytest.raises(VerbError) as caught:
        call("SR.create", uuid=new_uuid(), configuration={}, name="", description="")
    assert caught.value.args == (DEVICE_MISSING, ["", "The request is missing the device parameter", ""])


class TestDeviceInUse:
    def test_in_a_pool(self, bench: Bench) -> None:
        disk = bench.disk()
        bench.pool(disk)
        error = refused({"device": disk})
        assert error.code == IN_USE
        assert "the pool tank is on it" in error.sentence
        assert refused({"device": disk, "force-create": "true"}).code == IN_USE

    def test_in_an_sr(self, bench: Bench) -> None:
        disk = bench.disk()
        bench.sr(device=disk)
        assert refused({"device": disk}).code == IN_USE

    def test_mounted(self, bench: Bench, tmp_path: Path) -> None:
        disk = bench.disk()
        run("mkfs.ext4", "-q", disk)
        (tmp_path / "mnt").mkdir()
        run("mount", disk, str(tmp_path / "mnt"))
        try:
            error = refused({"device": disk, "force-create": "true"})
        finally:
            run("umount", str(tmp_path / "mnt"))
        assert error.code == IN_USE
        assert str(tmp_path / "mnt") in error.sentence

    def test_a_partition_is_mounted(self, bench: Bench, tmp_path: Path) -> None:
        """Like the host's system disk."""
        disk = bench.loop()
        run("sfdisk", "-q", disk, stdin="size=100M\nsize=100M\n")
        run("losetup", "--detach", disk)
        bench.loops.remove(disk)
        disk = run("losetup", "--find", "--show", "--partscan", str(bench.directory / "disk0")).strip()
        bench.loops.append(disk)
        Udev.settle()
        run("mkfs.ext4", "-q", disk + "p2")
        (tmp_path / "mnt").mkdir()
        run("mount", disk + "p2", str(tmp_path / "mnt"))
        try:
            for device in (disk, disk + "p2"):
                error = refused({"device": device, "force-create": "true"})
                assert error.code == IN_USE
                assert str(tmp_path / "mnt") in error.sentence
        finally:
            run("umount", str(tmp_path / "mnt"))
        # The other partition is free. Without force the whole disk is refused, because it holds something.
        assert "ext4" in refused({"device": disk}).sentence
        bench.sr(device=disk + "p1")

    def test_holds_a_file_system(self, bench: Bench) -> None:
        disk = bench.disk()
        run("mkfs.ext4", "-q", disk)
        before = content(disk)
        assert "ext4" in refused({"device": disk}).sentence
        assert content(disk) == before
        bench.sr(device=disk, **{"force-create": "true"})

    def test_below_device_mapper(self, bench: Bench) -> None:
        faulty = bench.faulty_disk()
        error = refused({"device": faulty.loop, "force-create": "true"})
        assert error.code == IN_USE
        assert "dm-" in error.sentence

    def test_the_same_disk_under_two_names(self, bench: Bench) -> None:
        disk = bench.disk()
        alias = Path("/dev/zfsvol-test-alias")
        alias.symlink_to(disk)
        try:
            assert refused({"vdev": f"mirror {disk} {alias}"}).code == INVALID
        finally:
            alias.unlink()


class TestNoDevice:
    def test_a_large_file(self) -> None:
        """zpool would make a pool of it."""
        file = Path("/dev/zfsvol-test-file")
        file.touch()
        os.truncate(str(file), 64 * MIB)
        try:
            error = refused({"device": str(file)})
        finally:
            file.unlink()
        assert error.code == DEVICE_INVALID
        assert "not a block device" in error.sentence

    def test_a_node_without_a_driver(self) -> None:
        node = "/dev/zfsvol-test-node"
        os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(4095, 0))  # no driver can have this number
        try:
            error = refused({"device": node})
        finally:
            os.unlink(node)
        assert error.code == DEVICE_INVALID
        assert "cannot be opened" in error.sentence


def test_an_sr_that_exists(bench: Bench) -> None:
    pool = bench.pool()
    uuid = new_uuid()
    call("SR.create", uuid=uuid, configuration={"zpool": pool}, name="first", description="")
    assert refused({"zpool": pool}, uuid).code == "SR_BACKEND_FAILURE_42"


def test_an_sr_that_exists_on_another_disk(bench: Bench) -> None:
    uuid, other = new_uuid(), bench.disk()
    call("SR.create", uuid=uuid, configuration={"device": bench.disk()}, name="first", description="")
    before = content(other)
    assert refused({"device": other}, uuid).code == "SR_BACKEND_FAILURE_42"
    assert content(other) == before


SR_VERBS: "list[tuple[str, dict[str, Any]]]" = [
    ("SR.stat", {}),
    ("SR.ls", {}),
    ("SR.destroy", {}),
    ("SR.set_name", {"new_name": "x"}),
    ("SR.set_description", {"new_description": "x"}),
    ("Volume.create", {"name": "", "description": "", "size": 1, "sharable": False}),
]


@pytest.mark.parametrize(("verb", "arguments"), SR_VERBS, ids=[verb for verb, _ in SR_VERBS])
class TestUnknownSR:
    def test_not_imported(self, verb: str, arguments: "dict[str, Any]") -> None:
        with pytest.raises(VerbError) as caught:
            call(verb, sr=f"sr-{new_uuid()}", **arguments)
        assert caught.value.code == UNAVAILABLE

    def test_a_dataset_that_is_no_sr(self, bench: Bench, verb: str, arguments: "dict[str, Any]") -> None:
        sr = f"{bench.pool()}/sr-{new_uuid()}"
        with pytest.raises(VerbError) as caught:
            call(verb, sr=sr, **arguments)
        assert caught.value.code == UNAVAILABLE
        run("zfs", "create", sr)
        if not verb.startswith("SR.set_"):
            with pytest.raises(VerbError) as caught:
                call(verb, sr=sr, **arguments)
            assert caught.value.code == UNAVAILABLE


# All strings with one verb, one string with the others.
NO_SRS = ["", "tank", "-r", "tank/sr-x", "/etc", f"-f/sr-{new_uuid()}", f"a@b/sr-{new_uuid()}"]
NOT_AN_SR = [*((SR_VERBS[0], sr) for sr in NO_SRS), *((verb, "tank") for verb in SR_VERBS[1:])]


@pytest.mark.parametrize(("verb", "sr"), NOT_AN_SR, ids=lambda value: value if isinstance(value, str) else value[0])
def test_not_an_sr_at_all(sr: str, verb: "tuple[str, dict[str, Any]]") -> None:
    with pytest.raises(VerbError) as caught:
        call_badly(verb[0], sr=sr, **verb[1])
    assert caught.value.code == INVALID


@pytest.mark.parametrize("key", ["", "-r", "../x", "a@b", ".gone", new_uuid() + "@x", new_uuid() + "/x"])
@pytest.mark.parametrize("verb", ["Volume.stat", "Volume.destroy"])
def test_volume_key(shared_sr: str, verb: str, key: str) -> None:
    with pytest.raises(VerbError) as caught:
        call_badly(verb, sr=shared_sr, key=key)
    assert caught.value.code == INVALID


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"dbg": "x", "sr": "\xff"}',
        b"[" * 100000,
        b'{"dbg": "x"}',
        b'{"dbg": 1, "sr": "x"}',
    ],
    ids=lambda request_: repr(request_[:20]),
)
def test_malformed(request_: bytes) -> None:
    with pytest.raises(VerbError) as caught:
        raw("SR.stat", request_)
    assert caught.value.code == INVALID
