# SPDX-License-Identifier: LGPL-2.1-only
"""How many transaction groups the client's sequences wait for: on a busy disk each takes a second or more."""

from contextlib import contextmanager
import time
from typing import Iterator, List

import pytest

from tests.client import call_inside, keys_of_snapshot
from tests.transactions import last_group, none_by_itself
from tests.zfs.conftest import MIB, Bench, run


@pytest.fixture
def quiet(bench: Bench) -> "Iterator[str]":
    """An SR on a pool that writes a transaction group only when somebody waits for it."""
    sr = bench.sr()
    run("zpool", "sync", sr)
    with none_by_itself():
        yield sr


@contextmanager
def counted(sr: str, groups: "List[int]") -> "Iterator[None]":
    before = last_group(sr)
    yield
    groups.append(last_group(sr) - before)


def volume(sr: str) -> str:
    made = call_inside("Volume.create", sr=sr, name="n", description="", size=64 * MIB, sharable=False)
    call_inside("Volume.set", sr=sr, key=made["key"], k="vdi-type", v="user")
    return str(made["key"])


def test_vdi_snapshot(quiet: str) -> None:
    """Volume.snapshot and the keys xapi sets afterwards (contract 3.1): at most four groups, three within a second."""
    key = volume(quiet)
    source = call_inside("Volume.stat", sr=quiet, key=key)
    groups: "List[int]" = []
    with counted(quiet, groups):
        made = call_inside("Volume.snapshot", sr=quiet, key=key)
    with counted(quiet, groups):
        for k, v in keys_of_snapshot(source, made):
            call_inside("Volume.set", sr=quiet, key=made["key"], k=k, v=v)
    assert groups == [3, 0]
    with counted(quiet, groups):
        call_inside("Volume.set", sr=quiet, key=made["key"], k="snapshot_time", v="20300101T00:00:00Z")
    assert groups[-1] == 1


def test_changed_block_tracking(quiet: str) -> None:
    """Only the data_destroy waits for more: its new zvol, the transaction that replaces the snapshot, the rename."""
    key = volume(quiet)
    groups: "List[int]" = []
    for verb in ("Volume.enable_cbt", "Volume.enable_cbt", "Volume.disable_cbt", "Volume.disable_cbt"):
        with counted(quiet, groups):
            call_inside(verb, sr=quiet, key=key)
    assert groups == [1, 0, 1, 0]
    call_inside("Volume.enable_cbt", sr=quiet, key=key)
    first, second = (call_inside("Volume.snapshot", sr=quiet, key=key)["key"] for _ in range(2))
    with counted(quiet, groups):
        call_inside("Volume.list_changed_blocks", sr=quiet, key=first, key2=second, offset=0, length=-1)
    with counted(quiet, groups):
        call_inside("Volume.data_destroy", sr=quiet, key=first)
    with counted(quiet, groups):
        call_inside("Volume.list_changed_blocks", sr=quiet, key=first, key2=key, offset=0, length=-1)
    assert groups[4:] == [0, 5, 2]


def test_nothing_is_written_for_what_is_so(quiet: str) -> None:
    key = volume(quiet)
    groups: "List[int]" = []
    with counted(quiet, groups):
        call_inside("Volume.set_name", sr=quiet, key=key, new_name="n")
        call_inside("Volume.set_description", sr=quiet, key=key, new_description="")
        call_inside("Volume.unset", sr=quiet, key=key, k="not there")
        call_inside("Volume.resize", sr=quiet, key=key, new_size=64 * MIB)
        call_inside("Volume.stat", sr=quiet, key=key)
        call_inside("SR.ls", sr=quiet)
        call_inside("SR.stat", sr=quiet)
    assert groups == [0]


def test_a_quiet_pool_writes_none(quiet: str) -> None:
    """Otherwise the other tests would prove nothing."""
    groups: "List[int]" = []
    with counted(quiet, groups):
        time.sleep(2)
    assert groups == [0]
