# SPDX-License-Identifier: LGPL-2.1-only
"""Refusals that no other test meets: each changes nothing."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests import zvol
from tests.client import call_inside, new_uuid, refused
from tests.zfs.conftest import MIB, Bench, pools, run
from zfsvol.errors import StorageError
from zfsvol.repository import identity
from zfsvol.zfs import pool

INVALID, IN_USE = "SR_BACKEND_FAILURE_1", "SR_BACKEND_FAILURE_16"


def unchanged(code: str, verb: str, **arguments: Any) -> str:
    """The verb must be refused with this code, and change no pool and no dataset; returns its sentence."""
    before = pools(), run("zfs", "list", "-H", "-t", "all", "-o", "name")
    sentence = refused(code, verb, **arguments)
    assert (pools(), run("zfs", "list", "-H", "-t", "all", "-o", "name")) == before
    return sentence


def not_created(**configuration: str) -> str:
    return unchanged(INVALID, "SR.create", uuid=new_uuid(), configuration=configuration, name="", description="")


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


@pytest.mark.parametrize("dataset", ["tank", "tank/none"])
def test_an_identity_for_what_is_no_sr(bench: Bench, dataset: str) -> None:
    bench.pool()
    with pytest.raises(StorageError, match=dataset):
        identity.renew(dataset)


def test_a_key_that_is_in_use(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SR.detach unloads the key of an SR in the administrator's pool."""
    monkeypatch.setattr(pool, "_BUSY_LIMIT", 0.2)
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    bench.pool()
    sr = bench.sr(zpool="tank", encryption="aes-256-gcm", **{"encryption-key-file": str(key)})
    disk = call_inside("Volume.create", sr=sr, name="", description="", size=MIB, sharable=False)["key"]
    run("zfs", "set", "volmode=dev", f"{sr}/{disk}")
    with zvol.opened(f"{sr}/{disk}"):
        assert "in use" in unchanged(IN_USE, "SR.detach", sr=sr)
    call_inside("SR.detach", sr=sr)
