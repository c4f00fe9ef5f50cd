# SPDX-License-Identifier: LGPL-2.1-only
"""An SR's life on genuine OpenZFS: made in each form, attached, detached, found again, destroyed."""

from pathlib import Path
from typing import Any

import pytest

from tests.client import VerbError, call, call_inside, new_uuid
from tests.zfs.conftest import GIB, MIB, Bench, device_node, pools, run, run_status, state_of


def create(configuration: "dict[str, str]", name: str = "an SR", description: str = "of a test") -> "tuple[str, Any]":
    """Runs SR.create as xapi does; returns the uuid and the device-config for SR.attach."""
    uuid = new_uuid()
    answer = call_inside("SR.create", uuid=uuid, configuration=configuration, name=name, description=description)
    assert answer["sr_uuid"] == uuid
    return uuid, answer


def value(dataset: str, name: str) -> str:
    """A ZFS property."""
    return run("zfs", "get", "-Hp", "-o", "value", name, dataset).strip()


def pool_value(pool: str, name: str) -> str:
    """A pool's property."""
    return run("zpool", "get", "-Hp", "-o", "value", name, pool).strip()


def fill(sr: str, number: int = 1) -> "list[str]":
    """Makes volumes in the SR; returns their uuids."""
    return [
        call_inside("Volume.create", sr=sr, name=f"disk {i}", description="", size=GIB, sharable=False)["key"]
        for i in range(number)
    ]


def keys(sr: str) -> "list[str]":
    """The uuids of the SR's VDIs."""
    return [volume["key"] for volume in call_inside("SR.ls", sr=sr)]


class TestOnDevices:
    def test_one_device(self, bench: Bench) -> None:
        uuid, configuration = create({"device": bench.disk()}, name="naïve “SR”", description="two\nlines")
        sr = call_inside("SR.attach", configuration=configuration)
        assert sr == f"sr-{uuid}"
        stat = call_inside("SR.stat", sr=sr)
        assert (stat["sr"], stat["uuid"]) == (sr, uuid)
        assert (stat["name"], stat["description"]) == ("naïve “SR”", "two\nlines")
        assert stat["health"] == ["Healthy", "ONLINE"]
        assert 0.5 * GIB < stat["free_space"] <= stat["total_space"] < GIB

    def test_defaults(self, bench: Bench) -> None:
        _, configuration = create({"device": bench.disk()})
        sr = call_inside("SR.attach", configuration=configuration)
        assert pool_value(sr, "ashift") == "12"
        assert pool_value(sr, "autotrim") == "on"
        assert pool_value(sr, "cachefile") == "none"
        assert value(sr, "compression") == "on"
        assert value(sr, "mountpoint") == "none"
        (key,) = fill(sr)
        assert value(f"{sr}/{key}", "volblocksize") == "16384"
        assert value(f"{sr}/{key}", "refreservation") == "0"

    def test_each_key_overrides_a_default(self, bench: Bench) -> None:
        pool = {"ashift": "13", "autotrim": "off", "failmode": "continue"}
        dataset = {
            "compression": "zstd-3",
            "checksum": "sha256",
            "copies": "2",
            "dedup": "on",
            "logbias": "throughput",
            "primarycache": "metadata",
            "secondarycache": "none",
            "sync": "always",
        }
        sizes = {"quota": "500M", "reservation": "100M", "volblocksize": "64K", "provisioning": "thick"}
        sr = bench.sr(device=bench.disk(), **pool, **dataset, **sizes)
        (key,) = (call_inside("Volume.create", sr=sr, name="", description="", size=64 * MIB, sharable=False)["key"],)
        for name, wanted in pool.items():
            assert pool_value(sr, name) == wanted
        for name, wanted in dataset.items():
            assert value(f"{sr}/{key}", name) == wanted
        assert value(sr, "quota") == str(500 * MIB)
        assert value(sr, "reservation") == str(100 * MIB)
        assert value(f"{sr}/{key}", "volblocksize") == str(64 * 1024)
        assert int(value(f"{sr}/{key}", "refreservation")) >= 64 * MIB

    def test_several_devices_are_striped(self, bench: Bench) -> None:
        sr = bench.sr(device=",".join(bench.disks(3)))
        assert call_inside("SR.stat", sr=sr)["total_space"] > 2 * GIB

    @pytest.mark.parametrize(
        ("words", "number", "block"),
        [
            ("mirror {} {} mirror {} {}", 4, 16384),
            ("raidz {} {} {}", 3, 16384),
            ("raidz1 {} {} {} {} {}", 5, 32768),
            ("raidz2 {} {} {} {}", 4, 16384),
            ("draid {} {} {}", 3, 16384),
            ("mirror {} {} log {} cache {} spare {}", 5, 16384),
            ("mirror {} {} special mirror {} {} log mirror {} {}", 6, 16384),
        ],
    )
    def test_layouts(self, bench: Bench, words: str, number: int, block: int) -> None:
        sr = bench.sr(vdev=words.format(*bench.disks(number)))
        (key,) = fill(sr)
        assert value(f"{sr}/{key}", "volblocksize") == str(block)
        assert call_inside("SR.stat", sr=sr)["health"] == ["Healthy", "ONLINE"]

    def test_encrypted(self, bench: Bench, tmp_path: Path) -> None:
        key_file = tmp_path / "key"
        key_file.write_text("correct horse battery staple\n")
        configuration = {"device": bench.disk(), "encryption-key-file": str(key_file)}
        _, answer = create(configuration)
        assert "correct horse" not in str(answer)
        sr = call_inside("SR.attach", configuration=answer)
        (key,) = fill(sr)
        assert value(f"{sr}/{key}", "encryption") == "aes-256-gcm"
        call_inside("SR.detach", sr=sr)
        assert call_inside("SR.attach", configuration=answer) == sr
        assert value(sr, "keystatus") == "available"
        call_inside("SR.detach", sr=sr)
        key_file.rename(tmp_path / "elsewhere")
        with pytest.raises(VerbError, match="key"):
            call_inside("SR.attach", configuration=answer)
        (tmp_path / "elsewhere").rename(key_file)
        assert call_inside("SR.attach", configuration=answer) == sr
        assert keys(sr) == [key]

    def test_the_configuration_names_devices_by_id(self, bench: Bench) -> None:
        disk = bench.loop()
        by_id = Path("/dev/disk/by-id/zfsvol-test-disk")
        by_id.parent.mkdir(exist_ok=True)
        by_id.symlink_to(disk)
        try:
            _, answer = create({"device": disk})
            assert answer["device"] == str(by_id)
        finally:
            by_id.unlink()


class TestInAPool:
    @pytest.mark.parametrize("place", ["tank", "tank/xen/storage"])
    def test_beside_the_administrators_data(self, bench: Bench, place: str) -> None:
        bench.pool()
        run("zfs", "create", "-p", "tank/xen/storage")
        uuid, configuration = create({"zpool": place})
        sr = call_inside("SR.attach", configuration=configuration)
        assert sr == f"{place}/sr-{uuid}"
        key = fill(sr)[0]
        assert not Path("/dev/zvol", sr, key).exists()
        call_inside("SR.detach", sr=sr)
        assert "tank" in pools()
        assert call_inside("SR.attach", configuration=configuration) == sr
        assert keys(sr) == [key]
        call_inside("SR.destroy", sr=sr)
        assert "tank/xen/storage" in run("zfs", "list", "-H", "-o", "name", "-r", "tank")
        assert uuid not in run("zfs", "list", "-H", "-o", "name", "-r", "tank")

    def test_what_is_not_asked_for_is_inherited(self, bench: Bench) -> None:
        bench.pool()
        run("zfs", "set", "compression=gzip-2", "tank")
        sr = bench.sr(zpool="tank", sync="always")
        assert value(sr, "compression") == "gzip-2"
        assert value(sr, "sync") == "always"

    def test_block_size_follows_the_pools_layout(self, bench: Bench) -> None:
        bench.pool("raidz1", *bench.disks(5))
        sr = bench.sr(zpool="tank")
        assert value(f"{sr}/{fill(sr)[0]}", "volblocksize") == "32768"

    def test_two_srs_in_one_pool(self, bench: Bench) -> None:
        bench.pool()
        one, two = bench.sr(zpool="tank"), bench.sr(zpool="tank")
        in_one, in_two = fill(one, 2), fill(two, 1)
        call_inside("SR.destroy", sr=one)
        assert keys(two) == in_two
        with pytest.raises(VerbError, match="SR_BACKEND_FAILURE_47"):
            call_inside("Volume.stat", sr=one, key=in_one[0])

    def test_quota_is_the_capacity(self, bench: Bench) -> None:
        bench.pool()
        sr = bench.sr(zpool="tank", quota="100M")
        stat = call_inside("SR.stat", sr=sr)
        assert stat["total_space"] == 100 * MIB
        assert 99 * MIB < stat["free_space"] <= 100 * MIB

    def test_an_exported_pool_is_imported(self, bench: Bench) -> None:
        bench.pool()
        _, configuration = create({"zpool": "tank"})
        run("zpool", "export", "tank")
        sr = call_inside("SR.attach", configuration=configuration)
        assert state_of("tank") == "ONLINE"
        assert keys(sr) == []

    def test_encrypted(self, bench: Bench, tmp_path: Path) -> None:
        key_file = tmp_path / "key"
        key_file.write_bytes(bytes(range(32)))
        bench.pool()
        _, configuration = create({"zpool": "tank", "encryption-key-file": str(key_file)})
        sr = call_inside("SR.attach", configuration=configuration)
        call_inside("SR.detach", sr=sr)
        assert value(sr, "keystatus") == "unavailable"
        assert call_inside("SR.attach", configuration=configuration) == sr
        assert value(sr, "keystatus") == "available"


class TestCapacity:
    @pytest.mark.parametrize("words", ["raidz1 {} {} {}", "mirror {} {}"])
    def test_parity_is_not_capacity(self, bench: Bench, words: str) -> None:
        """The free space of SR.stat can be filled with incompressible data, except for metadata."""
        sr = bench.sr(vdev=words.format(*bench.disks(words.count("{}"), 96 * MIB)), compression="off")
        free = call_inside("SR.stat", sr=sr)["free_space"]
        size = free * 8 // 10 // (2 * MIB) * 2 * MIB
        key = call_inside("Volume.create", sr=sr, name="", description="", size=size, sharable=False)["key"]
        with device_node(f"{sr}/{key}") as node:
            run("dd", "if=/dev/urandom", f"of={node}", "bs=1M", "conv=fsync", f"count={size // MIB}")
        run("zpool", "sync")
        left = call_inside("SR.stat", sr=sr)["free_space"]
        assert abs(free - size - left) < 0.08 * free

    def test_a_thick_disk_is_reserved(self, bench: Bench) -> None:
        sr = bench.sr(device=bench.disk(), provisioning="thick")
        before = call_inside("SR.stat", sr=sr)
        volume = call_inside("Volume.create", sr=sr, name="", description="", size=100 * MIB, sharable=False)
        after = call_inside("SR.stat", sr=sr)
        assert before["free_space"] - after["free_space"] >= 100 * MIB
        assert call_inside("Volume.stat", sr=sr, key=volume["key"])["physical_utilisation"] >= 100 * MIB


class TestAttachAndDetach:
    def test_attach_again(self, bench: Bench) -> None:
        _, configuration = create({"device": bench.disk()})
        assert len({call("SR.attach", configuration=configuration) for _ in range(3)}) == 1

    def test_detach_frees_the_disks(self, bench: Bench) -> None:
        disk = bench.disk()
        sr = bench.sr(device=disk)
        call("SR.detach", sr=sr)
        assert sr not in pools()
        run("wipefs", "-a", disk)
        call("SR.detach", sr=sr)

    def test_forget_and_introduce_by_device(self, bench: Bench) -> None:
        """An administrator who has only the disk writes device-config:device and no sr_uuid."""
        disk = bench.disk()
        sr = bench.sr(device=disk)
        found = fill(sr)
        call("SR.detach", sr=sr)
        assert call("SR.attach", configuration={"device": disk}) == sr
        assert keys(sr) == found

    def test_introduce_by_pool_name_asks_which_of_two(self, bench: Bench) -> None:
        bench.pool()
        one = bench.sr(zpool="tank")
        assert call("SR.attach", configuration={"zpool": "tank"}) == one
        two = bench.sr(zpool="tank")
        with pytest.raises(VerbError) as caught:
            call("SR.attach", configuration={"zpool": "tank"})
        assert one[-36:] in caught.value.sentence
        assert two[-36:] in caught.value.sentence

    def test_detach_while_a_disk_is_open(self, bench: Bench) -> None:
        sr = bench.sr(device=bench.disk())
        (key,) = fill(sr)
        with device_node(f"{sr}/{key}") as node, open(node, "rb"):
            with pytest.raises(VerbError, match=f"{key} by ") as caught:
                call("SR.detach", sr=sr)
            assert caught.value.code == "SR_BACKEND_FAILURE_16"
            assert keys(sr) == [key]
            with pytest.raises(VerbError, match="SR_BACKEND_FAILURE_16"):
                call("SR.destroy", sr=sr)
            assert keys(sr) == [key]
        call("SR.detach", sr=sr)

    def test_without_a_place(self, bench: Bench) -> None:
        bench.sr()
        for configuration in ({}, {"ashift": "12"}, {"device": ""}):
            with pytest.raises(VerbError, match="SR_BACKEND_FAILURE_90"):
                call("SR.attach", configuration=configuration)

    def test_without_its_disks(self, bench: Bench) -> None:
        uuid = new_uuid()
        with pytest.raises(VerbError, match="No disk of this host") as caught:
            call("SR.attach", configuration={"sr_uuid": uuid, "device": "/dev/gone"})
        assert caught.value.code == "SR_BACKEND_FAILURE_47"

    def test_with_a_mirror_half_gone(self, bench: Bench) -> None:
        disks = bench.disks(2)
        uuid, configuration = create({"vdev": "mirror " + " ".join(disks)})
        run("zpool", "export", f"sr-{uuid}") if state_of(f"sr-{uuid}") else None
        bench.take_away(disks[1])
        sr = call("SR.attach", configuration=configuration)
        kind, text = call("SR.stat", sr=sr)["health"]
        assert kind == "Healthy"
        assert "DEGRADED" in text
        assert disks[1] in text or "UNAVAIL" in text

    def test_a_raid_with_too_few_disks(self, bench: Bench) -> None:
        disks = bench.disks(2)
        uuid, configuration = create({"device": ",".join(disks)})
        call("SR.detach", sr=f"sr-{uuid}")
        bench.take_away(disks[1])
        with pytest.raises(VerbError) as caught:
            call("SR.attach", configuration=configuration)
        assert caught.value.code == "SR_BACKEND_FAILURE_47"
        assert f"sr-{uuid}" in caught.value.sentence

    def test_what_a_power_cut_left_of_a_volume(self, bench: Bench) -> None:
        """ZFS makes a zvol and sets its properties in two transactions: see zfs.create_volume."""
        _, configuration = create({"device": bench.disk()})
        sr = call("SR.attach", configuration=configuration)
        (whole,) = fill(sr)
        empty, written = new_uuid(), new_uuid()
        for uuid in (empty, written):
            run("zfs", "create", "-s", "-V", "1G", f"{sr}/{uuid}")
        with device_node(f"{sr}/{written}") as node:
            run("dd", "if=/dev/urandom", f"of={node}", "bs=1M", "count=4", "conv=fsync")
        run("zpool", "sync")
        assert keys(sr) == [whole]
        with pytest.raises(VerbError, match="SR_BACKEND_FAILURE_46"):
            call("Volume.stat", sr=sr, key=empty)
        call("SR.attach", configuration=configuration)
        names = run("zfs", "list", "-H", "-o", "name", "-r", sr)
        assert empty not in names
        assert written in names
        assert keys(sr) == [whole]


class TestDestroy:
    def test_the_disk_can_be_used_again(self, bench: Bench) -> None:
        disk = bench.disk()
        sr = bench.sr(device=disk)
        fill(sr, 2)
        call_inside("SR.destroy", sr=sr)
        assert sr not in pools()
        bench.sr(device=disk)

    @pytest.mark.parametrize("form", ["device", "zpool"])
    def test_refused_while_it_holds_something_else(self, bench: Bench, form: str) -> None:
        sr = bench.sr(device=bench.disk()) if form == "device" else bench.sr(zpool=bench.pool())
        found = fill(sr)
        run("zfs", "create", "-o", "mountpoint=none", f"{sr}/isos")
        with pytest.raises(VerbError, match="isos") as caught:
            call_inside("SR.destroy", sr=sr)
        assert caught.value.code == "SR_BACKEND_FAILURE_39"
        assert keys(sr) == found
        run("zfs", "destroy", f"{sr}/isos")
        call_inside("SR.destroy", sr=sr)

    def test_refused_while_it_holds_a_zvol_that_somebody_else_made(self, bench: Bench) -> None:
        sr = bench.sr(zpool=bench.pool())
        found = fill(sr)
        foreign = f"{sr}/{new_uuid()}"
        run("zfs", "create", "-s", "-V", "1G", foreign)
        with device_node(foreign) as node:
            run("dd", "if=/dev/urandom", f"of={node}", "bs=1M", "count=4", "conv=fsync")
        run("zpool", "sync")
        with pytest.raises(VerbError, match=foreign) as caught:
            call_inside("SR.destroy", sr=sr)
        assert caught.value.code == "SR_BACKEND_FAILURE_39"
        assert keys(sr) == found

    def test_refused_while_a_disk_is_open(self, bench: Bench) -> None:
        sr = bench.sr(zpool=bench.pool())
        found = sorted(fill(sr, 3))
        with device_node(f"{sr}/{found[2]}") as node, open(node, "rb"), pytest.raises(VerbError) as caught:
            call_inside("SR.destroy", sr=sr)
        assert found[2] in caught.value.sentence
        assert caught.value.code == "SR_BACKEND_FAILURE_16"
        assert keys(sr) == found

    def test_twice(self, bench: Bench) -> None:
        sr = bench.sr()
        call_inside("SR.destroy", sr=sr)
        with pytest.raises(VerbError, match="SR_BACKEND_FAILURE_47"):
            call_inside("SR.destroy", sr=sr)


class TestNames:
    def test_rename(self, sr: str) -> None:
        call_inside("SR.set_name", sr=sr, new_name="new\tname")
        call_inside("SR.set_description", sr=sr, new_description="x" * 4000)
        stat = call_inside("SR.stat", sr=sr)
        assert (stat["name"], stat["description"]) == ("new\tname", "x" * 4000)

    def test_of_a_volume_is_not_that_of_the_sr(self, sr: str) -> None:
        (key,) = fill(sr)
        call_inside("SR.set_name", sr=sr, new_name="the SR")
        assert call_inside("Volume.stat", sr=sr, key=key)["name"] == "disk 0"


class TestProbe:
    def test_finds_a_forgotten_sr(self, bench: Bench) -> None:
        uuid, configuration = create({"device": bench.disk()}, name="lost")
        sr = call("SR.attach", configuration=configuration)
        fill(sr)
        call("SR.detach", sr=sr)
        (found,) = [r for r in call("SR.probe", configuration={}) if r["sr"]["uuid"] == uuid]
        assert found["sr"]["name"] == "lost"
        assert found["sr"]["total_space"] > 0
        assert state_of(sr) == "", "a probe must leave no pool imported"
        assert call("SR.attach", configuration=found["configuration"]) == sr

    def test_by_the_device_config_of_the_pbd(self, bench: Bench) -> None:
        """quicktest's sr_probe_test: unplug, probe with the PBD's device_config, expect the SR."""
        uuid, configuration = create({"device": bench.disk()})
        bench.sr()
        (found,) = call("SR.probe", configuration=configuration)
        assert found["sr"]["uuid"] == uuid
        call("SR.detach", sr=f"sr-{uuid}")
        (found,) = call("SR.probe", configuration=configuration)
        assert found["configuration"] == configuration

    def test_on_devices(self, bench: Bench) -> None:
        wanted, other = bench.disk(), bench.disk()
        sr = bench.sr(device=wanted)
        bench.sr(device=other)
        call("SR.detach", sr=sr)
        assert [r["sr"]["sr"] for r in call("SR.probe", configuration={"device": wanted})] == [sr]
        assert call("SR.probe", configuration={"device": bench.disk()}) == []

    def test_in_an_exported_pool_of_the_administrators(self, bench: Bench) -> None:
        bench.pool()
        srs = {bench.sr(zpool="tank"), bench.sr(zpool="tank")}
        run("zpool", "export", "tank")
        results = call("SR.probe", configuration={"zpool": "tank"})
        assert {r["sr"]["sr"] for r in results} == srs
        assert all(r["configuration"]["zpool"] == "tank" for r in results)
        assert state_of("tank") == ""
        call("SR.attach", configuration=results[0]["configuration"])

    def test_nothing_there(self, bench: Bench) -> None:
        bench.disk()
        assert call("SR.probe", configuration={"zpool": "nosuchpool"}) == []

    def test_a_destroyed_sr_is_not_found(self, bench: Bench) -> None:
        disk = bench.disk()
        sr = bench.sr(device=disk)
        call("SR.destroy", sr=sr)
        assert call("SR.probe", configuration={"device": disk}) == []


class TestPlugin:
    def test_ls(self, bench: Bench) -> None:
        sr = bench.sr()
        assert sr in call("Plugin.ls")
        call("SR.detach", sr=sr)
        assert sr not in call("Plugin.ls")

    def test_diagnostics(self, sr: str) -> None:
        text = call("Plugin.diagnostics")
        assert "zfs-kmod" in text
        assert f"pool: {sr}" in text


def test_another_pools_label_is_not_overwritten(bench: Bench) -> None:
    disk = bench.disk()
    bench.pool(disk)
    run("zpool", "export", "tank")
    with pytest.raises(VerbError, match="tank"):
        create({"device": disk})
    assert run_status("zpool", "import", "-d", "/dev", "tank") == 0


def test_force_create_overwrites(bench: Bench) -> None:
    disk = bench.disk()
    bench.pool(disk)
    run("zpool", "export", "tank")
    create({"device": disk, "force-create": "true"})
