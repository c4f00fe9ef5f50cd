# SPDX-License-Identifier: LGPL-2.1-only
"""An SR is never confused with its copy, with a pool of the same name, or with one that a guest wrote."""

import os
from pathlib import Path
import subprocess
from typing import Any, Dict, Iterator, Tuple

import pytest

from tests import client
from tests.client import call_inside, new_uuid, refused
from tests.zfs.conftest import GIB, MIB, Bench, Udev, device_node, pools, run, run_status
from zfsvol.host import lock
from zfsvol.repository import identity
from zfsvol.repository.sr import SR
from zfsvol.zfs import changes
from zfsvol.zfs import pools as zpools

IN_USE, UNAVAILABLE, INVALID, NO_SPACE = (f"SR_BACKEND_FAILURE_{code}" for code in (16, 47, 1, 44))

Configuration = Dict[str, str]


def create(**configuration: str) -> Configuration:
    configuration = {"autotrim": "off", **configuration} if "zpool" not in configuration else configuration
    answer = call_inside(
        "SR.create", uuid=new_uuid(), configuration=configuration, name="an SR", description="of a test"
    )
    assert isinstance(answer, dict)
    return answer


def attach(configuration: Configuration) -> str:
    return str(call_inside("SR.attach", configuration=configuration))


def volume(sr: str, name: str = "precious") -> str:
    made = call_inside("Volume.create", sr=sr, name=name, description="", size=64 * MIB, sharable=False)
    return str(made["key"])


def names(sr: str) -> "list[str]":
    return [record["name"] for record in call_inside("SR.ls", sr=sr)]


def probed(**configuration: str) -> "list[Dict[str, Any]]":
    found = call_inside("SR.probe", configuration=configuration)
    assert isinstance(found, list)
    return found


@pytest.fixture
def guest(bench: Bench) -> "Iterator[str]":
    """The node of a guest's disk in another SR, large enough for a pool."""
    sr = bench.sr()
    key = volume(sr)
    call_inside("Volume.resize", sr=sr, key=key, new_size=128 * MIB)
    with device_node(f"{sr}/{key}") as link:
        yield os.path.realpath(link)


class TestGuestsPool:
    def test_named_like_an_sr(self, bench: Bench, guest: str) -> None:
        configuration = create(device=bench.disk())
        sr = attach(configuration)
        volume(sr)
        call_inside("SR.detach", sr=sr)
        bench.write_pool(guest, sr, sr[3:], "-O", f"zfsvol:sr-uuid={sr[3:]}")
        for given in (configuration, {"sr_uuid": sr[3:]}, {"device": configuration["device"]}):
            assert attach(given) == sr
            assert names(sr) == ["precious"]
            call_inside("SR.detach", sr=sr)

    def test_in_the_place_of_a_missing_disk(self, bench: Bench, guest: str) -> None:
        configuration = create(device=bench.disk())
        sr = "sr-" + configuration["sr_uuid"]
        call_inside("SR.detach", sr=sr)
        bench.take_away(configuration["device"])
        bench.write_pool(guest, sr, sr[3:], "-O", f"zfsvol:sr-uuid={sr[3:]}")
        before = pools()
        for given in (configuration, {"sr_uuid": sr[3:]}, {"device": guest}):
            refused(UNAVAILABLE, "SR.attach", configuration=given)
            assert pools() == before

    def test_named_like_the_administrators(self, bench: Bench, guest: str, tmp_path: Path) -> None:
        """Nothing of the guest's pool is mounted, either."""
        bench.pool()
        configuration = create(zpool="tank")
        run("zpool", "export", "tank")
        bench.write_pool(guest, "tank", configuration["sr_uuid"], "-O", f"mountpoint={tmp_path / 'mnt'}")
        attach(configuration)
        assert names(f"tank/sr-{configuration['sr_uuid']}") == []
        assert not (tmp_path / "mnt").exists()

    def test_is_not_listed(self, bench: Bench, guest: str) -> None:
        uuid = new_uuid()
        bench.write_pool(guest, "guestpool", uuid)
        assert uuid not in str(probed())
        assert probed(sr_uuid=uuid) == []


class TestTwoPoolsOfOneName:
    def two(self, bench: Bench) -> "Tuple[Configuration, Configuration]":
        uuid = new_uuid()
        made = []
        for name in ("old", "new"):
            answer = call_inside(
                "SR.create",
                uuid=uuid,
                configuration={"device": bench.disk(), "autotrim": "off"},
                name=name,
                description="",
            )
            sr = attach(answer)
            volume(sr, name)
            call_inside("SR.detach", sr=sr)
            made.append(answer)
        return made[0], made[1]

    def test_each_is_found_by_its_guid(self, bench: Bench) -> None:
        for configuration, name in zip(self.two(bench), ("old", "new")):
            sr = attach(configuration)
            assert names(sr) == [name]
            call_inside("SR.detach", sr=sr)

    def test_each_is_found_by_its_disk(self, bench: Bench) -> None:
        """By the device-config of a PBD made by a person or by an older driver."""
        for configuration, name in zip(self.two(bench), ("old", "new")):
            without_guid = {key: value for key, value in configuration.items() if key != "pool-guid"}
            for given in ({"device": configuration["device"]}, without_guid):
                sr = attach(given)
                assert names(sr) == [name]
                call_inside("SR.detach", sr=sr)

    def test_none_is_guessed(self, bench: Bench) -> None:
        one, two = self.two(bench)
        sentence = refused(INVALID, "SR.attach", configuration={"sr_uuid": one["sr_uuid"]})
        assert one["pool-guid"] in sentence
        assert two["pool-guid"] in sentence
        assert {found["configuration"]["pool-guid"] for found in probed(sr_uuid=one["sr_uuid"])} == {
            one["pool-guid"],
            two["pool-guid"],
        }

    def test_the_other_is_imported(self, bench: Bench) -> None:
        one, two = self.two(bench)
        sr = attach(one)
        assert "imported" in refused(IN_USE, "SR.attach", configuration=two)
        assert names(sr) == ["old"]


class TestCopy:
    @pytest.fixture
    def original(self, bench: Bench) -> "Iterator[str]":
        bench.pool()
        sr = bench.sr(zpool="tank")
        disk = volume(sr)
        taken = call_inside("Volume.snapshot", sr=sr, key=disk)["key"]
        call_inside("Volume.clone", sr=sr, key=taken)
        gone = volume(sr, "gone")
        call_inside("Volume.snapshot", sr=sr, key=gone)
        call_inside("Volume.destroy", sr=sr, key=gone)
        call_inside("Volume.set", sr=sr, key=disk, k="clone-on-boot", v=taken)
        yield sr
        bench.mine.discard("backup")

    def copied(self, bench: Bench, sr: str, to: str = "") -> str:
        """Copies the SR by zfs send -R to another pool."""
        bench.pool(bench.disk(), name="backup")
        to = to or "backup/" + sr.rpartition("/")[2]
        run("zfs", "snapshot", "-r", f"{sr}@copy")
        with subprocess.Popen(["zfs", "send", "-R", f"{sr}@copy"], stdout=subprocess.PIPE) as sender:
            subprocess.run(["zfs", "receive", "-u", to], stdin=sender.stdout, check=True)
        return to

    def test_is_refused_beside_the_original(self, bench: Bench, original: str) -> None:
        copy = self.copied(bench, original)
        sentence = refused(IN_USE, "SR.attach", configuration={"zpool": "backup", "sr_uuid": original[-36:]})
        assert original in sentence
        # When that is detached, either can be attached; then the other is refused.
        call_inside("SR.detach", sr=original)
        assert attach({"zpool": "backup", "sr_uuid": original[-36:]}) == copy
        assert copy in refused(IN_USE, "SR.attach", configuration={"zpool": "tank", "sr_uuid": original[-36:]})
        call_inside("SR.detach", sr=copy)
        assert attach({"zpool": "tank", "sr_uuid": original[-36:]}) == original

    def test_has_records_of_its_own(self, bench: Bench, original: str) -> None:
        """A VM keeps its disk, whatever happens to a copy."""
        copy = self.copied(bench, original)
        key = next(record["key"] for record in call_inside("SR.ls", sr=original) if record["name"] == "precious")
        uri = f"zvol://{original}/{key}"
        call_inside("Datapath.attach", uri=uri, domain="u0_a")
        call_inside("Datapath.activate", uri=uri, domain="u0_a")
        refused(IN_USE, "SR.attach", configuration={"zpool": "backup", "sr_uuid": original[-36:]})
        for uri_of_copy in (f"zvol://{copy}/{key}",):
            call_inside("Datapath.detach", uri=uri_of_copy, domain="u0_a")
        assert SR(original).attached_from
        assert "u0_a" in (Path(SR(original).directory) / f"{key}.json").read_text()
        call_inside("Datapath.detach", uri=uri, domain="u0_a")

    @pytest.mark.parametrize("to", ["", "backup/anything"])
    def test_gets_an_identity_of_its_own(self, bench: Bench, original: str, to: str) -> None:
        copy = self.copied(bench, original, to)
        before = call_inside("SR.ls", sr=original)
        done = subprocess.run(
            [os.environ.get("ZFSVOL_PYTHON", "/usr/bin/python3"), "-m", "zfsvol", "identity", copy],
            env=client.environment(),
            cwd=str(client.CHECKOUT),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
        assert done.returncode == 0, done.stdout
        new = done.stdout.split()[-1].rstrip(".")
        assert attach({"zpool": "backup", "sr_uuid": new[-36:]}) == new
        after = call_inside("SR.ls", sr=new)
        assert call_inside("SR.ls", sr=original) == before
        assert not {record["key"] for record in before} & {record["key"] for record in after}
        for record in before:
            (same,) = [one for one in after if one["key"] == identity.derived(new[-36:], record["key"])]
            for name in ("name", "virtual_size", "read_write", "sharable"):
                assert same[name] == record[name]
            known = {one["key"]: identity.derived(new[-36:], one["key"]) for one in before}
            keys = {k: known.get(v, v) for k, v in record["keys"].items()}
            # Only keys that name existing disks: nobody can tell that a value named a disk that is gone.
            assert {k: v for k, v in same["keys"].items() if v in known.values()} == {
                k: v for k, v in keys.items() if v in known.values()
            }
        call_inside("SR.detach", sr=new)

    def test_an_identity_is_gone_on_with(self, bench: Bench, original: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is killed between any two of its steps, and a repetition continues."""
        copy = self.copied(bench, original)
        rename = changes.rename
        allowed = left = 0

        class Killed(Exception):
            pass

        def limited(*arguments: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            rename(*arguments)

        while True:
            left = allowed
            monkeypatch.setattr(changes, "rename", limited)
            try:
                new = identity.renew(copy)
                break
            except Killed:
                allowed += 1
        monkeypatch.undo()
        assert allowed > 0
        attach({"zpool": "backup", "sr_uuid": new[-36:]})
        assert len(call_inside("SR.ls", sr=new)) == len(call_inside("SR.ls", sr=original))
        assert run("zfs", "get", "-rH", "-s", "local", "-o", "name", "zfsvol:becomes", "backup") == ""
        call_inside("SR.detach", sr=new)

    def test_an_attached_sr_keeps_its_identity(self, original: str) -> None:
        with pytest.raises(Exception, match="in use"):
            identity.renew(original)

    def test_a_pool_gets_a_guid_of_its_own(self, bench: Bench) -> None:
        configuration = create(device=bench.disk())
        sr = attach(configuration)
        volume(sr)
        call_inside("SR.detach", sr=sr)
        run("zpool", "import", "-d", configuration["device"], "-N", configuration["pool-guid"], "copied")
        new = identity.renew("copied")
        assert pools() == []
        (found,) = probed(device=configuration["device"])
        assert found["sr"]["sr"] == new
        assert found["configuration"]["pool-guid"] != configuration["pool-guid"]
        assert attach({"sr_uuid": new[3:]}) == new
        assert names(new) == ["precious"]


class TestOthersMeanwhile:
    """A pool that comes or goes during a search is found nevertheless."""

    @pytest.mark.parametrize("verb", ["SR.probe", "SR.attach"])
    @pytest.mark.parametrize("by", ["attach", "look", "the end of a look"])
    def test_imported_at_the_wrong_moment(
        self, bench: Bench, verb: str, by: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        configuration = create(device=bench.disk())
        sr = "sr-" + configuration["sr_uuid"]
        call_inside("SR.detach", sr=sr)
        search = zpools.importable
        done: "list[str]" = []

        def importable(devices: "list[str]") -> "list[Any]":
            """Another process imports the pool before the first search; a look ends after it."""
            if done:
                return search(devices)
            done.append(by)
            guid = configuration["pool-guid"]
            if by == "attach":
                zpools.import_(guid, devices, force=False, own=True)
                return search(devices)
            if by == "look":
                zpools.import_to_look(guid, devices, force=False)
            found = search(devices)
            run("zpool", "export", f"zfs-vol-probe-{guid}")  # not noted now: the change was noted before
            if by == "look":
                lock.note_change()
            return found

        if by == "the end of a look":
            zpools.import_to_look(configuration["pool-guid"], [configuration["device"]], force=False)
        monkeypatch.setattr(zpools, "importable", importable)
        answer = call_inside(verb, configuration={"sr_uuid": sr[3:]})
        assert done == [by]
        assert (answer if verb == "SR.attach" else answer[0]["sr"]["sr"]) == sr


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
