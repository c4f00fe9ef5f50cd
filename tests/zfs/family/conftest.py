# SPDX-License-Identifier: LGPL-2.1-only
"""SRs for tests of families of disks. After a test the SR must be well, and empty once its VDIs are destroyed."""

from typing import Iterator

import pytest

from tests.zfs.conftest import Bench, Udev
from tests.zfs.family.relatives import destroy_everything, with_nodes
from zfsvol.zfs import pool


@pytest.fixture(scope="module", autouse=True)
def mostly_without_udev(without_udev: None) -> None:
    """All tests but those that use `with_udev`."""


@pytest.fixture
def with_udev() -> "Iterator[None]":
    """Runs udev during the test, as on a host."""
    Udev.start()
    Udev.settle()
    yield
    Udev.stop()


@pytest.fixture(scope="module")
def shared(without_udev: None, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[str]":
    """One SR for most of the tests: making one takes longer than they do."""
    bench = Bench(tmp_path_factory.mktemp("shared"))
    yield with_nodes(bench.sr())
    bench.close()


@pytest.fixture
def sr(shared: str) -> "Iterator[str]":
    """The shared SR. Its zvols have device nodes."""
    yield shared
    destroy_everything(shared)


@pytest.fixture
def tank(bench: Bench) -> "Iterator[str]":
    """An SR in an administrator's pool. Its zvols have device nodes."""
    made = with_nodes(bench.sr(zpool=bench.pool()))
    yield made
    destroy_everything(made)


@pytest.fixture
def busy_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs refuse what is in use at once, without waiting for it to become idle."""
    monkeypatch.setattr(pool, "_BUSY_LIMIT", 0.05)
    monkeypatch.setattr(pool, "_BUSY_PAUSE", 0.01)
