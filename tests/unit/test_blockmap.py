# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.repository.blockmap: ranges and the bitmap of changed blocks."""

import random

import pytest

from zfsvol.repository import blockmap
from zfsvol.repository.blockmap import GRANULARITY, Bitmap, Twice, changed, joined

MIB = 1 << 20


def bits(data):
    """The numbers of the set bits, the most significant bit of each byte first."""
    return [8 * index + bit for index, byte in enumerate(data) for bit in range(8) if byte & 128 >> bit]


def marked(size, *ranges):
    bitmap = Bitmap(size)
    for start, end in ranges:
        bitmap.add(start, end)
    return bitmap


class TestBitmap:
    def test_first_bit_is_the_most_significant(self):
        assert marked(2 * MIB, (0, 1)).part(0, 2 * MIB) == b"\x80\0\0\0"
        assert marked(2 * MIB, (2 * MIB - 1, 2 * MIB)).part(0, 2 * MIB) == b"\0\0\0\x01"

    @pytest.mark.parametrize(
        ("start", "end", "expected"),
        [
            (0, 0, []),
            (5, 5, []),
            (0, GRANULARITY, [0]),
            (GRANULARITY - 1, GRANULARITY + 1, [0, 1]),
            (GRANULARITY, 2 * GRANULARITY, [1]),
            (3 * GRANULARITY, 30 * GRANULARITY, list(range(3, 30))),
            (8 * GRANULARITY, 24 * GRANULARITY, list(range(8, 24))),
            (31 * GRANULARITY, 1 << 64, [31]),
            (0, (1 << 64) - 1, list(range(32))),
            (1 << 40, 1 << 41, []),
        ],
    )
    def test_add(self, start, end, expected):
        bitmap = marked(2 * MIB, (start, end))
        assert bits(bitmap.part(0, 2 * MIB)) == expected
        assert bitmap.count() == len(expected)

    def test_random_ranges(self):
        numbers = random.Random(1)
        for _ in range(300):
            size = numbers.randrange(1, 100) * GRANULARITY
            bitmap, expected = Bitmap(size), set()
            for _ in range(5):
                start = numbers.randrange(size)
                end = start + numbers.randrange(size)
                bitmap.add(start, end)
                expected |= {
                    bit
                    for bit in range(size // GRANULARITY)
                    if start < (bit + 1) * GRANULARITY and bit * GRANULARITY < end and start < end
                }
            offset = numbers.randrange(size)
            length = numbers.randrange(size - offset + 1)
            first, last = offset // GRANULARITY, -(-(offset + length) // GRANULARITY)
            part = bitmap.part(offset, length)
            assert set(bits(part)) == {bit - first for bit in expected if first <= bit < last}
            assert len(part) % 4 == 0
            assert len(part) * 8 - (last - first) < 32
            assert bitmap.count() == len(expected)

    def test_no_part(self):
        assert marked(2 * MIB, (0, 2 * MIB)).part(2 * MIB, 0) == b""


class TestJoined:
    def test_neighbours_become_one(self):
        assert list(joined([(0, 1), (1, 4), (5, 6), (6, 7)])) == [(0, 4), (5, 7)]

    def test_beginning_at_zero(self):
        assert list(joined([(0, 3)])) == [(0, 3)]
        assert list(joined([(2, 3)])) == [(2, 3)]
        assert list(joined([])) == []


def told(allocated, blocks):
    """What is allocated afterwards, and what changed."""
    found = []
    after = list(joined(changed(allocated, blocks, lambda start, end: found.append((start, end)))))
    return after, found


class TestChanged:
    @pytest.mark.parametrize(
        ("allocated", "blocks", "after", "found"),
        [
            ([(0, 4)], [], [(0, 4)], []),
            ([], [(False, 0, 9)], [], []),
            ([], [(True, 3, 4)], [(3, 4)], [(3, 4)]),
            ([(0, 4)], [(False, 0, 9)], [], [(0, 4)]),
            ([(0, 4)], [(False, 1, 2)], [(0, 1), (2, 4)], [(1, 2)]),
            ([(0, 4), (6, 8)], [(False, 2, 7)], [(0, 2), (7, 8)], [(2, 4), (6, 7)]),
            ([(0, 4)], [(True, 1, 2), (False, 2, 3)], [(0, 2), (3, 4)], [(1, 2), (2, 3)]),
            ([(4, 6)], [(True, 0, 1), (True, 7, 8)], [(0, 1), (4, 6), (7, 8)], [(0, 1), (7, 8)]),
            ([(4, 6)], [(False, 6, 1 << 64)], [(4, 6)], []),
            ([(4, 6)], [(False, 0, 4)], [(4, 6)], []),
        ],
    )
    def test_ranges(self, allocated, blocks, after, found):
        assert told(allocated, blocks) == (after, found)

    def test_like_sets_of_blocks(self):
        numbers = random.Random(2)
        for _ in range(500):
            before = {block for block in range(24) if numbers.random() < 0.5}
            done = [numbers.choice([None, None, True, False]) for _ in range(24)]
            blocks = [(is_written, at, at + 1) for at, is_written in enumerate(done) if is_written is not None]
            after, found = told([(at, at + 1) for at in sorted(before)], blocks)
            written = {at for at, is_written in enumerate(done) if is_written}
            freed = {at for at, is_written in enumerate(done) if is_written is False}
            assert {at for start, end in after for at in range(start, end)} == before - freed | written
            assert {at for start, end in found for at in range(start, end)} == written | (freed & before)

    def test_it_reads_no_further_than_it_must(self):
        """What comes may be more than fits into memory."""
        endless = iter([(at, at + 1) for at in range(0, 1000, 2)])
        assert next(changed(endless, iter([(True, 5, 6)]), lambda *_: None)) == (0, 1)
        assert next(endless) == (2, 3)


def counted(reads, blocks):
    """A function that reads the blocks, and adds to `reads` each time."""

    def read():
        reads.append(1)
        return iter(blocks)

    return read


class TestTwice:
    BLOCKS = ((True, 0, 2), (True, 2, 3), (False, 3, 5), (False, 5, 6), (True, 9, 10), (False, 10, (1 << 64) - 1))

    def test_from_memory(self):
        reads: "list[int]" = []
        twice = Twice(counted(reads, self.BLOCKS))
        assert tuple(twice.first()) == self.BLOCKS
        assert list(twice.again()) == [(True, 0, 3), (False, 3, 6), (True, 9, 10), (False, 10, (1 << 64) - 1)]
        assert all(type(is_written) is bool for is_written, _, _ in twice.again())
        assert len(reads) == 1

    @pytest.mark.parametrize("most", [0, 1, 3])
    def test_too_many(self, monkeypatch, most):
        monkeypatch.setattr(blockmap, "_MOST_KEPT", most)
        reads: "list[int]" = []
        twice = Twice(counted(reads, self.BLOCKS))
        assert tuple(twice.first()) == self.BLOCKS
        assert tuple(twice.again()) == self.BLOCKS
        assert len(reads) == 2
        assert len(twice._kinds) == most + 1

    def test_just_as_many_as_are_kept(self, monkeypatch):
        monkeypatch.setattr(blockmap, "_MOST_KEPT", 4)
        twice = Twice(lambda: iter(self.BLOCKS))
        list(twice.first())
        assert len(list(twice.again())) == 4


def test_granularity_is_what_clients_expect():
    assert blockmap.GRANULARITY == 65536
