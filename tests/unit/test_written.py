# SPDX-License-Identifier: LGPL-2.1-only
"""The record of written sectors, compared with a set of sectors."""

import os
import random

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from zfsvol.motion.written import SECTOR, Written

TIB = 1 << 40


def sectors(found):
    """All sectors of the ranges; which are in order, and separate."""
    result: "set[int]" = set()
    end = -1
    for offset, length in found:
        assert offset % SECTOR == length % SECTOR == 0
        assert length > 0
        assert offset > end
        end = offset + length
        result.update(range(offset // SECTOR, end // SECTOR))
    return result


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "written")


def read(path):
    with Written(path) as written:
        return list(written.ranges())


def test_nothing(path):
    with Written(path, new=True) as written:
        written.add(0, 0)
        assert list(written.ranges()) == []
    assert read(path) == []


def test_neighbours_are_one_range(path):
    """Across bytes, and across the pieces in which the file is read."""
    edge = (1 << 19) * SECTOR  # the sectors of one piece
    with Written(path, new=True) as written:
        for offset in range(edge - 20 * SECTOR, edge + 20 * SECTOR, SECTOR):
            written.add(offset, SECTOR)
        written.add(edge + 21 * SECTOR, SECTOR)
        assert list(written.ranges()) == [(edge - 20 * SECTOR, 40 * SECTOR), (edge + 21 * SECTOR, SECTOR)]


def test_the_whole_of_a_piece_and_more(path):
    size = 3 * (1 << 19) * SECTOR
    with Written(path, new=True) as written:
        for offset in range(0, size, 1 << 20):
            written.add(offset, 1 << 20)
        assert list(written.ranges()) == [(0, size)]


def test_a_new_record_is_empty(path):
    with Written(path, new=True) as written:
        written.add(0, SECTOR)
    with Written(path, new=True):
        assert read(path) == []


def test_the_largest_disk(path):
    """64 TiB: its first and last sectors and some between. The file takes no more than the parts that were written."""
    last = 64 * TIB - SECTOR
    offsets = [0, 5 * TIB, 5 * TIB + 2 * SECTOR, 40 * TIB, last]
    with Written(path, new=True) as written:
        for offset in reversed(offsets):
            written.add(offset, SECTOR)
    assert read(path) == [(offset, SECTOR) for offset in offsets]
    assert os.stat(path).st_size == 64 * TIB // SECTOR // 8
    assert os.stat(path).st_blocks * 512 <= 5 * 16384


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 300)), max_size=20), st.integers(0, 64 * TIB // SECTOR))
def test_any_ranges(tmp_path_factory, wanted, base):
    path = str(tmp_path_factory.getbasetemp() / "any")
    with Written(path, new=True) as written:
        for first, count in wanted:
            written.add((base + first) * SECTOR, count * SECTOR)
    expected = {base + number for first, count in wanted for number in range(first, first + count)}
    assert sectors(read(path)) == expected


def test_survives_its_process(path):
    """Killed at any moment, it has all that was recorded by then."""
    chosen = random.Random(7).sample(range(1 << 24), 500)
    pid = os.fork()
    if pid == 0:
        written = Written(path, new=True)
        for sector in chosen:
            written.add(sector * SECTOR, SECTOR)
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert sectors(read(path)) == set(chosen)


def test_a_full_disk_is_an_error():
    with Written("/dev/full", new=True) as written, pytest.raises(OSError, match="No space left"):
        written.add(0, SECTOR)
