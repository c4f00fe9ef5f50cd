# SPDX-License-Identifier: LGPL-2.1-only
"""Refusals that no other test meets: each changes nothing."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests import zvol
from tests.client import call_inside, new_uuid, refused
from tests.zfs.conftest import MIB, Bench, pools, run
from zfsvol.errors import SRUnavailable, StorageError
from zfsvol.host import command
from zfsvol.repository import identity
from zfsvol.repository.sr import SR
from zfsvol.zfs import kernel, pool
from zfsvol.zfs import pools as zpools

INVALID, IN_USE, VANISHED, UNAVAILABLE = (f"SR_BACKEND_FAILURE_{n}" for n in (1, 16, 46, 47))


def unchanged(code: str, verb: str, **arguments: Any) -> str:
    """The verb must be refused with this code, and change no pool and no dataset; returns its sentence."""
    before = pools(), run("zfs", "list", "-H", "-t", "all", "-o", "name")
    sentence = refused(code, verb, **arguments)
    assert (pools(), run("zfs", "list", "-H", "-t", "all", "-o", "name")) == before
    return sentence


def not_created(code: str = INVALID, **configuration: str) -> str:
    return unchanged(code, "SR.create", uuid=new_uuid(), configuration=configuration, name="", description="")


def create_disk(sr: str) -> str:
    return str(call_inside("Volume.create", sr=sr, name="", description="", size=MIB, sharable=False)["key"])


def test_a_pool_with_several_srs(bench: Bench) -> None:
    """device-config must say which."""
    bench.pool()
    srs = [bench.sr(zpool="tank") for _ in range(2)]
    for sr in srs:
        call_inside("SR.detach", sr=sr)
    sentence = unchanged(INVALID, "SR.attach", configuration={"zpool": "tank"})
    assert all(sr[-36:] in sentence for sr in srs)


def test_a_pool_that_is_imported_under_another_name(bench: Bench) -> None:
    disk = bench.disk()
    configuration = call_inside("SR.create", uuid=new_uuid(), configuration={"device": disk}, name="", description="")
    sr = call_inside("SR.attach", configuration=configuration)
    call_inside("SR.detach", sr=sr)
    run("zpool", "import", "-N", "-d", disk, sr, "looked-into")
    assert "'zpool export looked-into'" in unchanged(IN_USE, "SR.attach", configuration=configuration)


@pytest.mark.parametrize("name", ["sr_uuid", "pool-guid"])
def test_what_the_driver_sets_itself(bench: Bench, name: str) -> None:
    assert name in not_created(device=bench.disk(), **{name: new_uuid()})


def test_a_device_by_two_names(bench: Bench) -> None:
    disk, link = bench.disk(), f"/dev/the-same-{os.getpid()}"
    os.symlink(disk, link)
    try:
        assert "twice" in not_created(device=f"{disk},{link}")
    finally:
        os.unlink(link)


def test_a_zvol_as_the_place(bench: Bench) -> None:
    bench.pool()
    run("zfs", "create", "-s", "-V", "1G", "tank/disk")
    assert "tank/disk is not a file system" in not_created(zpool="tank/disk")


def test_a_pool_that_is_not_imported() -> None:
    assert "'zpool import elsewhere'" in not_created(UNAVAILABLE, zpool="elsewhere")


def test_multihost_on_a_host_without_an_id(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver could not give it one, either."""
    monkeypatch.setattr(kernel, "_HOSTID", "/nowhere/hostid")
    monkeypatch.setattr(kernel, "_MODULE_HOSTID", "/nowhere/spl_hostid")
    assert "zgenhostid" in not_created(device=bench.disk(), multihost="on")


@pytest.mark.parametrize("dataset", ["tank", "tank/none"])
def test_an_identity_for_what_is_no_sr(bench: Bench, dataset: str) -> None:
    bench.pool()
    with pytest.raises(StorageError, match=dataset):
        identity.renew(dataset)


def test_an_identity_for_what_is_open(bench: Bench) -> None:
    bench.pool()
    sr = bench.sr(zpool="tank")
    disk = create_disk(sr)
    call_inside("SR.detach", sr=sr)
    run("zfs", "set", "volmode=dev", f"{sr}/{disk}")
    with zvol.opened(f"{sr}/{disk}"), pytest.raises(StorageError, match="in use"):
        identity.renew(sr)


def test_a_key_that_is_in_use(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SR.detach unloads the key of an SR in the administrator's pool."""
    monkeypatch.setattr(pool, "_BUSY_LIMIT", 0.2)
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    bench.pool()
    sr = bench.sr(zpool="tank", encryption="aes-256-gcm", **{"encryption-key-file": str(key)})
    disk = create_disk(sr)
    run("zfs", "set", "volmode=dev", f"{sr}/{disk}")
    with zvol.opened(f"{sr}/{disk}"):
        assert "in use" in unchanged(IN_USE, "SR.detach", sr=sr)
    call_inside("SR.detach", sr=sr)


def test_a_disk_that_is_opened_after_the_check(sr: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """2.1 refuses the export then; 2.3 would wait."""

    def export(_pool: pool.Pool) -> None:
        raise pool.Busy("pool is busy")

    monkeypatch.setattr(zpools, "export", export)
    assert "in use" in unchanged(IN_USE, "SR.detach", sr=sr)


def test_a_kernel_module_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "is_loaded", lambda: False)
    monkeypatch.setitem(command.ENVIRONMENT, "PATH", str(tmp_path))
    assert "cannot be loaded" in refused(UNAVAILABLE, "SR.attach", configuration={"sr_uuid": new_uuid()})


def test_the_guid_of_a_pool_that_is_gone() -> None:
    with pytest.raises(SRUnavailable):
        _ = SR(f"sr-{new_uuid()}").guid


class TestByHand:
    """Somebody changes an SR while a verb is at work, in spite of the locks."""

    @pytest.mark.parametrize(
        ("verb", "arguments", "code"),
        [
            ("Volume.set", {"k": "k", "v": "new"}, VANISHED),
            ("Volume.unset", {"k": "k"}, VANISHED),
            ("Volume.snapshot", {}, "SR_BACKEND_FAILURE"),
            ("Volume.clone", {}, "SR_BACKEND_FAILURE"),
        ],
    )
    def test_a_disk_is_renamed(
        self, sr: str, monkeypatch: pytest.MonkeyPatch, verb: str, arguments: "dict[str, str]", code: str
    ) -> None:
        """As if reverted: the disk is still there, but the zvol that the verb has read is not."""
        disk = create_disk(sr)
        call_inside("Volume.set", sr=sr, key=disk, k="k", v="old")
        before = call_inside("SR.ls", sr=sr)

        def change(on: pool.Pool, argv: "list[str]") -> str:
            monkeypatch.undo()
            run("zfs", "rename", f"{sr}/{disk}", f"{sr}/.revert-{disk}")
            return on.change(argv)

        monkeypatch.setattr(pool.Pool, "change", change)
        refused(code, verb, sr=sr, key=disk, **arguments)
        assert call_inside("SR.ls", sr=sr) == before

    def test_the_root_is_destroyed(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        bench.pool()
        sr = bench.sr(zpool="tank")
        read = SR.read

        def read_and_destroy(self: SR) -> "dict[str, str]":
            values = read(self)
            run("zfs", "destroy", sr)
            return values

        monkeypatch.setattr(SR, "read", read_and_destroy)
        arguments = {"name": "", "description": "", "size": MIB, "sharable": False}
        assert "holds no SR" in refused(UNAVAILABLE, "Volume.create", sr=sr, **arguments)
