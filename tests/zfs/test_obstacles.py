# SPDX-License-Identifier: LGPL-2.1-only
"""What is in the way when an SR is made, attached or destroyed: keys, settings of people, names, held disks."""

import os
from pathlib import Path

import pytest

from tests.client import call_inside, new_uuid, refused
from tests.zfs.conftest import GIB, Bench, Udev, device_node, pools, run, run_status
from tests.zfs.test_places import IN_USE, INVALID, NO_SPACE, UNAVAILABLE, attach, create, names, volume
from zfsvol.repository.sr import SR


class TestAttach:
    def test_a_refused_one_leaves_nothing(self, bench: Bench, tmp_path: Path) -> None:
        run("zpool", "create", "-m", str(tmp_path / "mnt"), "tank", bench.disk())
        run("zpool", "export", "tank")
        refused(UNAVAILABLE, "SR.attach", configuration={"zpool": "tank", "sr_uuid": new_uuid()})
        assert pools() == []
        assert not os.path.ismount(str(tmp_path / "mnt"))

    def test_mounts_the_administrators_pool(self, bench: Bench, tmp_path: Path) -> None:
        """A file system that cannot be mounted does not prevent it."""
        disk = bench.disk()
        run("zpool", "create", "-m", str(tmp_path / "mnt"), "tank", disk)
        run("zfs", "create", "-o", "overlay=off", "tank/b")
        configuration = create(zpool="tank")
        run("zpool", "export", "tank")
        (tmp_path / "mnt" / "b").mkdir(parents=True)
        (tmp_path / "mnt" / "b" / "file").write_text("in the way")
        sr = attach(configuration)
        assert run("zfs", "get", "-H", "-o", "value", "mounted", "tank/b").strip() in ("yes", "no")
        assert names(sr) == []
        assert attach(configuration) == sr

    def test_a_replica_is_read_only(self, bench: Bench) -> None:
        bench.pool()
        configuration = create(zpool="tank")
        sr = attach(configuration)
        key = volume(sr)
        run("zfs", "set", "readonly=on", "tank")
        # It was attached before: a VM may read.
        uri = f"zvol://{sr}/{key}"
        call_inside("Datapath.attach", uri=uri, domain="u0_a")
        call_inside("Datapath.activate", uri=uri, domain="u0_a")
        assert '"u0_a": "ro"' in (Path(SR(sr).directory) / f"{key}.json").read_text()
        call_inside("Datapath.detach", uri=uri, domain="u0_a")
        call_inside("SR.detach", sr=sr)
        assert "read-only" in refused(UNAVAILABLE, "SR.attach", configuration=configuration)
        run("zfs", "inherit", "readonly", "tank")
        attach(configuration)

    def test_a_key_file_at_another_path(self, bench: Bench, tmp_path: Path) -> None:
        old, new = tmp_path / "key", tmp_path / "moved"
        old.write_bytes(os.urandom(32))
        configuration = create(device=bench.disk(), **{"encryption-key-file": str(old)})
        sr = attach(configuration)
        key = volume(sr)
        call_inside("SR.detach", sr=sr)
        old.rename(new)
        sentence = refused(INVALID, "SR.attach", configuration=configuration)
        assert "key" in sentence
        assert "encryption-key-file" in sentence
        assert pools() == []
        assert attach({**configuration, "encryption-key-file": str(new)}) == sr
        run("zfs", "unload-key", sr)
        sentence = refused(UNAVAILABLE, "Datapath.attach", uri=f"zvol://{sr}/{key}", domain="u0_a")
        assert "key" in sentence
        assert not list(Path(SR(sr).directory).glob("*.json"))

    def test_a_look_that_was_killed_and_is_busy(self, bench: Bench) -> None:
        """It does not stop other verbs."""
        first, second = create(device=bench.disk()), create(device=bench.disk())
        for configuration in (first, second):
            call_inside("SR.detach", sr="sr-" + configuration["sr_uuid"])
        guid = first["pool-guid"]
        name = f"zfs-vol-probe-{guid}"
        run("zpool", "import", "-N", "-t", "-o", "readonly=on", "-d", first["device"], guid, name)
        run("zfs", "set", "volmode=dev", name, check=False)
        assert attach(second) == "sr-" + second["sr_uuid"]
        # Its own SR takes the pool over.
        assert attach(first) == "sr-" + first["sr_uuid"]
        assert name not in pools()

    @pytest.mark.parametrize("value", ["none", "dev", "default"])
    def test_volmode_that_a_person_has_set(self, bench: Bench, value: str) -> None:
        """No verb waits for the nodes of eight disks, one after the other."""
        sr = bench.sr()
        for key in [volume(sr) for _ in range(8)]:
            run("zfs", "set", f"volmode={value}", f"{sr}/{key}")
        Udev.settle()
        assert attach({"sr_uuid": sr[3:]}) == sr
        assert [name for name in os.listdir("/dev") if name.startswith("zd")] == []

    def test_a_host_without_an_id_gets_one(self, bench: Bench) -> None:
        hostid = Path("/etc/hostid")
        before = hostid.read_bytes() if hostid.exists() else None
        hostid.unlink() if before else None
        configuration = create(device=bench.disk())
        made = hostid.read_bytes()
        assert len(made) == 4
        assert made != bytes(4)
        assert hostid.stat().st_mode & 0o777 == 0o644
        attach(configuration)
        assert hostid.read_bytes() == made


class TestCreate:
    def test_names_that_become_too_long(self, bench: Bench) -> None:
        bench.pool()
        longest = 162 - len("/sr-") - 36
        lengths = []
        for length in range(longest - 1, longest + 3):
            place = "tank/" + "p" * (length - len("tank/"))
            run("zfs", "create", place)
            if length > longest:
                assert "too long" in refused(
                    INVALID, "SR.create", uuid=new_uuid(), configuration={"zpool": place}, name="", description=""
                )
                continue
            sr = attach(create(zpool=place))
            key = volume(sr)
            call_inside("Volume.enable_cbt", sr=sr, key=key)
            bare, taken = (call_inside("Volume.snapshot", sr=sr, key=key)["key"] for _ in range(2))
            call_inside("Volume.revert", sr=sr, key=key, snapshot=taken)
            call_inside("Volume.data_destroy", sr=sr, key=bare)
            call_inside("Volume.destroy", sr=sr, key=key)
            assert {record["key"] for record in call_inside("SR.ls", sr=sr)} == {bare, taken}
            lengths.append(max(map(len, run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", sr).split())))
        assert lengths == [254, 255]

    @pytest.mark.parametrize(
        ("options", "code", "words"),
        [
            ("readonly=on", INVALID, "read-only"),
            ("filesystem_limit=10", INVALID, "limit"),
            ("quota=1M", NO_SPACE, "quota"),
        ],
    )
    def test_what_the_parent_would_forbid_later(self, bench: Bench, options: str, code: str, words: str) -> None:
        bench.pool()
        run("zfs", "create", "-o", options, "tank/xen")
        before = run("zfs", "list", "-H", "-r", "tank")
        arguments = {"configuration": {"zpool": "tank/xen"}, "name": "", "description": ""}
        assert words in refused(code, "SR.create", uuid=new_uuid(), **arguments)
        assert run("zfs", "list", "-H", "-r", "tank") == before

    def test_in_a_dataset_whose_key_is_not_loaded(self, bench: Bench, tmp_path: Path) -> None:
        bench.pool()
        (tmp_path / "key").write_bytes(os.urandom(32))
        encryption = ["-o", "encryption=on", "-o", "keyformat=raw", "-o", f"keylocation=file://{tmp_path / 'key'}"]
        run("zfs", "create", *encryption, "tank/secret")
        run("zfs", "unload-key", "tank/secret")
        arguments = {"configuration": {"zpool": "tank/secret"}, "name": "", "description": ""}
        assert "load-key" in refused(UNAVAILABLE, "SR.create", uuid=new_uuid(), **arguments)

    def test_inherited_snapdev(self, bench: Bench) -> None:
        """Snapshots get no nodes."""
        bench.pool()
        run("zfs", "set", "snapdev=visible", "tank")
        sr = attach(create(zpool="tank"))
        key = volume(sr)
        call_inside("Datapath.attach", uri=f"zvol://{sr}/{key}", domain="u0_a")
        call_inside("Volume.snapshot", sr=sr, key=key)
        Udev.settle()
        assert len([name for name in os.listdir("/dev") if name.startswith("zd")]) == 1
        call_inside("Datapath.detach", uri=f"zvol://{sr}/{key}", domain="u0_a")


class TestDestroy:
    @pytest.mark.parametrize("verb", ["SR.detach", "SR.destroy"])
    @pytest.mark.parametrize("has_snapshot", [True, False], ids=["with a snapshot", "alone"])
    def test_a_disk_that_the_kernel_holds(self, bench: Bench, verb: str, has_snapshot: bool) -> None:
        """No process has it open, so /proc does not show it. Nothing is destroyed unless all can be."""
        sr = bench.sr()
        disk = volume(sr)
        volume(sr, "other")
        if has_snapshot:
            call_inside("Volume.snapshot", sr=sr, key=disk)
        with device_node(f"{sr}/{disk}") as link:
            table = f"0 2048 linear {os.path.realpath(link)} 0"
            run("dmsetup", "create", "--noudevsync", "zfsvolheld", "-r", "--table", table)
            before = run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", sr)
            try:
                # These words show that the check found what is open, before ZFS refused anything.
                assert f"These are open: {disk}" in refused(IN_USE, verb, sr=sr)
                assert run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", sr) == before
            finally:
                run("dmsetup", "remove", "--noudevsync", "zfsvolheld")

    def test_held_by_the_kernel(self, bench: Bench) -> None:
        """Nothing is destroyed unless all can be: the kernel holds a snapshot's device, which no process has open."""
        bench.pool()
        sr = attach(create(zpool="tank"))
        disk, other = volume(sr), volume(sr, "other")
        call_inside("Volume.snapshot", sr=sr, key=disk)
        run("zfs", "set", "volmode=dev", f"{sr}/{disk}")
        run("zfs", "set", "snapdev=visible", f"{sr}/{disk}")
        Udev.settle()
        (link,) = Path(f"/dev/zvol/{sr}").glob("*@*")
        run("dmsetup", "create", "--noudevsync", "zfsvolheld", "-r", "--table", f"0 2048 linear {link.resolve()} 0")
        before = run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", "tank")
        try:
            for verb in ("SR.destroy",):
                sentence = refused(IN_USE, verb, sr=sr)
                assert disk in sentence
                assert run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", "tank") == before
            assert {record["key"] for record in call_inside("SR.ls", sr=sr)} >= {disk, other}
        finally:
            run("dmsetup", "remove", "--noudevsync", "zfsvolheld")
        call_inside("SR.destroy", sr=sr)
        assert run("zfs", "list", "-H", "-o", "name", "-r", "tank").split() == ["tank"]


@pytest.mark.parametrize("size", [GIB])
def test_values_that_a_person_has_set(bench: Bench, size: int) -> None:
    """Each is accepted in ZFS's formats, or refused with a sentence."""
    sr = bench.sr()
    arguments = {"sr": sr, "name": "n", "description": "", "size": size, "sharable": False}
    for value in ("16K", "16384", "64k", "32KiB"):
        run("zfs", "set", f"zfsvol:sr-volblocksize={value}", sr)
        call_inside("Volume.create", **arguments)
    for name, value in (("volblocksize", "lots"), ("volblocksize", "3K"), ("provisioning", "fat")):
        run("zfs", "set", f"zfsvol:sr-{name}={value}", sr)
        assert f"zfsvol:sr-{name}" in refused(INVALID, "Volume.create", **arguments)
        run("zfs", "set", "zfsvol:sr-volblocksize=16K", sr)
    run("zfs", "inherit", "zfsvol:sr-provisioning", sr)
    run("zfs", "inherit", "zfsvol:sr-volblocksize", sr)
    refused(INVALID, "Volume.create", **arguments)
    assert run_status("zfs", "list", sr) == 0
