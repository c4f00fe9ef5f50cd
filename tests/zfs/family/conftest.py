# SPDX-License-Identifier: LGPL-2.1-only
"""SRs in which families of disks are made. Each must be well after the test, and empty when its VDIs are destroyed."""

from typing import Iterator

import pytest

from tests.zfs.conftest import Bench, udevadm
from tests.zfs.family.relatives import destroy_everything, with_nodes
from zfsvol.zfs import pool


@pytest.fixture(scope="module", autouse=True)
def without_udev() -> "Iterator[None]":
    """It would look into the nodes of the many zvols that come and go, and keep these busy."""
    udevadm("control", "--stop-exec-queue")
    yield
    udevadm("control", "--start-exec-queue")


@pytest.fixture
def with_udev() -> "Iterator[None]":
    """For tests of what is as on a host."""
    udevadm("control", "--start-exec-queue")
    yield
    udevadm("settle")
    udevadm("control", "--stop-exec-queue")


@pytest.fixture(scope="module")
def shared(without_udev: None, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[str]":
    """One SR for most of the tests: making one takes longer than they do."""
    bench = Bench(tmp_path_factory.mktemp("shared"))
    yield with_nodes(bench.sr())
    bench.close()


@pytest.fixture
def sr(shared: str) -> "Iterator[str]":
    """An SR that must be well after the test, and empty when its VDIs are destroyed. Its zvols have device nodes."""
    yield shared
    destroy_everything(shared)


@pytest.fixture
def tank(bench: Bench) -> "Iterator[str]":
    """The same in a pool of the administrator's."""
    made = with_nodes(bench.sr(zpool=bench.pool()))
    yield made
    destroy_everything(made)


@pytest.fixture
def busy_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in use is refused without the wait for it to become idle."""
    monkeypatch.setattr(pool, "_BUSY_LIMIT", 0.05)
    monkeypatch.setattr(pool, "_BUSY_PAUSE", 0.01)
