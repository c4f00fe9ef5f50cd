# SPDX-License-Identifier: LGPL-2.1-only
"""Which parts of a copy may hold something else than zeroes. Pure.

`zfs send` tells what is free also where nothing was ever written, beside nearly each block. Only what held something
needs to be zeroed: a server that makes no zeroes, such as tapdisk, gets them as data.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# The map has a byte for each cell. Bytes in a cell, more if the disk would have too many of them; cells.
_CELL = 16 << 10
_MOST_CELLS = 16 << 20


class Filled:
    """The parts of a copy, of `size` bytes, that was empty in the beginning."""

    def __init__(self, size: int) -> None:
        self._cell = _CELL
        while self._cell * _MOST_CELLS < size:
            self._cell *= 2
        self._size = size
        self._cells = bytearray(-(-size // self._cell))

    def add(self, start: int, end: int) -> None:
        """Something was written there."""
        first, last = start // self._cell, -(-min(end, self._size) // self._cell)
        self._cells[first:last] = b"\1" * (last - first)

    def within(self, start: int, end: int) -> "Iterator[tuple[int, int]]":
        """The parts (start, end) of the range that may hold something; those of the copy, if the range goes beyond."""
        end = min(end, self._size)
        last = -(-end // self._cell)
        cell = self._cells.find(1, start // self._cell, last)
        while cell != -1:
            beyond = self._cells.find(0, cell, last)
            beyond = last if beyond == -1 else beyond
            yield max(start, cell * self._cell), min(end, beyond * self._cell)
            cell = self._cells.find(1, beyond, last)
