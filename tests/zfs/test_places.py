# SPDX-License-Identifier: LGPL-2.1-only
"""An SR is never confused with its copy, with a pool of the same name, or with one that a guest wrote."""

import os
from pathlib import Path
import subprocess
from typing import Any, Dict, Iterator, Tuple

import pytest

from tests import client
from tests.client import call_inside, new_uuid, refused
from tests.zfs.conftest import MIB, Bench, device_node, pools, run
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
