# SPDX-License-Identifier: LGPL-2.1-only
"""Ranges of bytes in order, and the bitmap of changed blocks. Pure.

Ranges are pairs (start, end) in bytes, in order and without overlaps; they may be more than fit into memory.
"""

from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Callable

# Bytes for each bit, as the client and the backup programs expect.
GRANULARITY = 64 << 10
# A bitmap has a multiple of these: backup programs read it in words, each for 2 MiB.
_WORD = 4
_ONES = bytes(bin(byte).count("1") for byte in range(256))

_MOST_KEPT = 1 << 20

# Behind every range.
_NONE = (1 << 65, 1 << 65)


class Bitmap:
    """One bit for each 64 KiB of a VDI of `size` bytes; the most significant bit of a byte is the first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._number = -(-size // GRANULARITY)
        self._bits = bytearray(-(-self._number // 8))

    def add(self, start: int, end: int) -> None:
        """Sets the bits of all blocks that the range touches. What is beyond the VDI's end is left out."""
        if start >= end:
            return
        first, last = start // GRANULARITY, min(-(-end // GRANULARITY), self._number)
        while first < last and (first % 8 or last - first < 8):
            self._bits[first // 8] |= 128 >> first % 8
            first += 1
        whole = (last - first) // 8
        if whole > 0:
            self._bits[first // 8 : first // 8 + whole] = b"\xff" * whole
            self.add((first + 8 * whole) * GRANULARITY, last * GRANULARITY)

    def count(self) -> int:
        """How many bits are set."""
        return sum(self._bits.translate(_ONES))

    def part(self, offset: int, length: int) -> bytes:
        """The bits of the blocks that `length` bytes from `offset` on touch, padded with zeros to whole words."""
        first, last = offset // GRANULARITY, min(-(-(offset + length) // GRANULARITY), self._number)
        if first % 8 == 0:
            found = bytearray(self._bits[first // 8 : -(-last // 8)])
        else:
            found = bytearray(-(-(last - first) // 8))
            for index in range(first, last):
                if self._bits[index // 8] & 128 >> index % 8:
                    found[(index - first) // 8] |= 128 >> (index - first) % 8
        spare = -(last - first) % 8
        if spare and found:
            found[-1] &= 0xFF << spare & 0xFF
        return bytes(found) + bytes(-len(found) % _WORD)


class Twice:
    """The blocks (is_written, start, end) of a stream, to go through twice: `first`, to its end, then `again`.

    They are kept in memory, 17 bytes for each row of neighbours; if there are too many, the stream is read again.
    """

    def __init__(self, read: "Callable[[], Iterator[tuple[bool, int, int]]]") -> None:
        self._read = read
        self._kinds, self._starts, self._ends = bytearray(), array("Q"), array("Q")

    def first(self) -> "Iterator[tuple[bool, int, int]]":
        """All blocks, as the stream has them."""
        for is_written, start, end in self._read():
            if self._ends and start == self._ends[-1] and is_written == self._kinds[-1]:
                self._ends[-1] = end
            elif len(self._kinds) <= _MOST_KEPT:
                self._kinds.append(is_written)
                self._starts.append(start)
                self._ends.append(end)
            yield is_written, start, end

    def again(self) -> "Iterator[tuple[bool, int, int]]":
        """The same, with neighbours joined or not."""
        if len(self._kinds) > _MOST_KEPT:
            return self._read()
        return zip(map(bool, self._kinds), self._starts, self._ends)


def joined(ranges: "Iterable[tuple[int, int]]") -> "Iterator[tuple[int, int]]":
    """The ranges, with those that touch each other made one."""
    begin, reached = 0, 0
    for start, end in ranges:
        if start == reached:
            reached = end
            continue
        if reached > begin:
            yield begin, reached
        begin, reached = start, end
    if reached > begin:
        yield begin, reached


def changed(
    allocated: "Iterable[tuple[int, int]]",
    blocks: "Iterable[tuple[bool, int, int]]",
    add: "Callable[[int, int], object]",
) -> "Iterator[tuple[int, int]]":
    """Yields what is allocated after the blocks (is_written, start, end) were written or freed.

    `allocated`: what was before. Calls `add` with each range that was written, or was freed and had been allocated.
    """
    old = iter(allocated)
    start, end = next(old, _NONE)
    for is_written, first, last in blocks:
        while end <= first:
            yield start, end
            start, end = next(old, _NONE)
        if start < first:
            yield start, first
            start = first
        while start < last:
            if not is_written:
                add(start, min(end, last))
            if end > last:
                start = last
                break
            start, end = next(old, _NONE)
        if is_written:
            add(first, last)
            yield first, last
    while start < end:
        yield start, end
        start, end = next(old, _NONE)
