# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.service.sight: what a look asks again, and what it does not."""

import time
from typing import Any, Callable, List

import pytest

from tests.unit.test_topology import composed
from zfsvol.errors import StorageError
from zfsvol.repository.sr import SR
from zfsvol.service import sight
from zfsvol.service.sight import Looker
from zfsvol.zfs import core, kernel, topology
from zfsvol.zfs.core import Numbers
from zfsvol.zfs.topology import Topology


class Pool:
    """What a pool prints, and how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.printed = "a"
        self.changes: "Callable[[], object]" = lambda: None  # between the two readings of one look
        self.asked: "List[str]" = []
        self.state = "ONLINE"
        self.now = 1000.0
        monkeypatch.setattr(topology, "described", self.described)
        monkeypatch.setattr(topology, "read", self.read)
        monkeypatch.setattr(core, "numbers", self.numbers)
        monkeypatch.setattr(sight, "_settings", lambda sr: (0.0, True))
        monkeypatch.setattr(kernel, "state", lambda pool: self.state)
        monkeypatch.setattr(time, "time", lambda: self.now)

    def described(self, _pool: Any) -> str:
        self.asked.append("described")
        printed = self.printed
        self.changes()
        return printed

    def read(self, _pool: Any) -> Topology:
        self.asked.append("read")
        found = composed(f"  /dev/{self.printed} ONLINE 0 0 0 0")
        found.printed = self.printed
        return found

    def numbers(self, *_arguments: Any) -> Numbers:
        self.asked.append("numbers")
        values = {"used": 1, "available": 9, "compressratio": 100, "promised": 0, "disks": 1}
        return Numbers({**values, "properties": {}})

    def look(self, looker: Looker, *, changed: bool = False) -> "List[str]":
        self.asked = []
        seen = looker.look(changed=changed)
        assert seen.topology is not None
        assert seen.topology.disks[0].title == f"/dev/{self.printed}"
        return self.asked


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    return Pool(monkeypatch)


@pytest.fixture
def looker() -> Looker:
    return Looker(SR("sr-5d9c2a1e-7a53-4c57-9d0b-0a4a6f3cf5a1"))


def test_an_idle_one_is_asked_for_one_thing(pool: Pool, looker: Looker) -> None:
    assert pool.look(looker) == ["read", "numbers"]
    assert pool.look(looker) == ["described"]
    assert pool.look(looker, changed=True) == ["described", "numbers"]


def test_devices_that_change(pool: Pool, looker: Looker) -> None:
    pool.look(looker)
    pool.printed = "b"
    assert pool.look(looker) == ["described", "read"]
    assert pool.look(looker) == ["described"]


def test_devices_that_change_and_change_back(pool: Pool, looker: Looker) -> None:
    """What is remembered belongs to the text that it was read from, not to the one that differed."""
    pool.look(looker)
    pool.printed = "b"
    pool.changes = lambda: setattr(pool, "printed", "c")
    pool.look(looker)
    pool.changes = lambda: None
    pool.printed = "b"
    assert pool.look(looker) == ["described", "read"]


def test_numbers_are_read_again_after_a_while(pool: Pool, looker: Looker) -> None:
    pool.look(looker)
    pool.now += 599
    assert "numbers" not in pool.look(looker)
    pool.now += 1
    assert "numbers" in pool.look(looker)
    pool.now -= 5000  # somebody has set the clock
    assert "numbers" in pool.look(looker)


def test_what_cannot_be_read(pool: Pool, looker: Looker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_arguments: Any) -> Any:
        raise StorageError("no answer")

    monkeypatch.setattr(core, "numbers", fails)
    monkeypatch.setattr(topology, "read", fails)
    seen = looker.look()
    assert (seen.state, seen.topology, seen.numbers, seen.name) == ("ONLINE", None, None, "")
    pool.state = "SUSPENDED"
    assert looker.look().numbers is None
