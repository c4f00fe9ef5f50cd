# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.repository.allocation: what is kept in files of what snapshots have allocated, and when it goes."""

import gzip
import os
from types import SimpleNamespace
from typing import cast

import pytest

from zfsvol.repository import allocation
from zfsvol.repository.allocation import Memory
from zfsvol.repository.sr import SR

RANGES = [(0, 5), (7, 9)]
NOW = 1_000_000_000


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr(allocation, "DIRECTORY", str(tmp_path / "zfs-vol"))
    return tmp_path / "zfs-vol"


@pytest.fixture
def memory(directory):
    return memory_of("sr")


def memory_of(name):
    return Memory(cast(SR, SimpleNamespace(guid="pool", uuid=name)))


def keep(memory, *guids, ranges=RANGES):
    for guid in guids:
        assert list(memory.keeping(guid, iter(ranges))) == ranges


def known(memory, *guids):
    return [guid for guid in guids if memory.recall(guid) is not None]


def files(directory):
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


def date(directory, name, when):
    (path,) = directory.rglob(name)
    os.utime(path, (when, when))


@pytest.mark.parametrize("number", [0, 1, 2, allocation._NUMBERS // 2, 3 * allocation._NUMBERS + 1])
def test_what_is_kept_is_recalled(directory, memory, number):
    ranges = [(10 * at, 10 * at + 5) for at in range(number)]
    keep(memory, 1, ranges=ranges)
    assert list(memory.recall(1)) == ranges
    assert memory.recall(2) is None
    assert files(directory) == ["0000000000000001"]


def test_a_part_is_not_kept(directory, memory):
    """It would make later answers leave out what changed."""

    def failing():
        yield from RANGES
        raise OSError("the stream is cut")

    with pytest.raises(OSError, match="cut"):
        list(memory.keeping(1, failing()))
    abandoned = memory.keeping(2, iter(RANGES))
    next(abandoned)
    abandoned.close()
    assert files(directory) == []


def test_too_large(directory, memory, monkeypatch):
    monkeypatch.setattr(allocation, "_LARGEST", 0)
    keep(memory, 1, ranges=[(2 * at, 2 * at + 1) for at in range(8 * allocation._NUMBERS)])
    assert files(directory) == []


@pytest.mark.parametrize("ranges", [[(5, 9), (0, 3)], [(0, 5), (4, 6)], [(5, 5)], [(5, 4)]])
def test_ranges_out_of_order(directory, memory, ranges):
    keep(memory, 1, ranges=ranges)
    assert memory.recall(1) is None
    assert files(directory) == []


def test_damage_at_the_end_is_found_before_anything_is_used(directory, memory):
    keep(memory, 1, ranges=[(2 * at, 2 * at + 1) for at in range(3 * allocation._NUMBERS)])
    (path,) = directory.rglob("0*1")
    path.write_bytes(path.read_bytes()[:-1])
    assert memory.recall(1) is None


class TestTidy:
    def test_what_is_gone(self, directory, memory):
        keep(memory, 1, 2, 3)
        for number, when in ((1, NOW - 1), (2, NOW - 1), (3, NOW + 1)):
            date(directory, f"{number:016x}", when)
        memory.tidy({1}, NOW)
        # The third was written after the snapshots were listed: it may be of a newer one.
        assert known(memory, 1, 2, 3) == [1, 3]

    def test_what_others_are_writing(self, directory, memory):
        keep(memory, 1)
        other = memory.keeping(2, iter(RANGES))
        next(other)
        (name,) = (name for name in files(directory) if name.endswith(".new"))
        date(directory, name, NOW)
        date(directory, f"{1:016x}", NOW + 86399)
        memory.tidy({1}, NOW + 9)
        assert list(other) == RANGES[1:]
        assert known(memory, 1, 2) == [1, 2]

    def test_what_a_crash_left(self, directory, memory):
        keep(memory, 1)
        left = directory / "pool" / "another" / "0000000000000002.77.new"
        left.parent.mkdir()
        left.write_bytes(b"")
        date(directory, left.name, NOW)
        date(directory, f"{1:016x}", NOW + 86401)
        memory.tidy({1}, 0)
        assert files(directory) == ["0000000000000001"]

    def test_too_much(self, directory, memory, monkeypatch):
        """What was not used for the longest time goes, of any SR, and no more than must."""
        other = memory_of("other")
        keep(memory, 1, 2, 4)
        keep(other, 3)
        for number in (1, 2, 3, 4):
            date(directory, f"{number:016x}", NOW + number)
        assert known(memory, 1) == [1]
        size = os.path.getsize(next(directory.rglob("0*4")))
        monkeypatch.setattr(allocation, "_LARGEST_SUM", 2 * size + 10)
        memory.tidy({1, 2, 4}, 0)
        assert (known(memory, 1, 2, 4), known(other, 3)) == ([1, 4], [])


def test_forget(directory, memory):
    other = memory_of("other")
    keep(memory, 1, 2)
    keep(other, 1)
    memory.forget()
    assert (known(memory, 1, 2), known(other, 1)) == ([], [1])
    other.forget()
    assert not (directory / "pool").exists()
    other.forget()


def test_of_another_snapshot(directory, memory):
    keep(memory, 1)
    (path,) = directory.rglob("0*1")
    with gzip.open(path, "rb") as file:
        assert file.readline() == b"zfs-vol allocation 1, 0000000000000001\n"
    path.rename(path.parent / f"{2:016x}")
    assert memory.recall(2) is None
