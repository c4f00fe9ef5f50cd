# SPDX-License-Identifier: LGPL-2.1-only
"""Which sectors of a disk were written: a file with one bit for each sector of 512 bytes.

The file is sparse: it takes 4 KiB of its file system for each 16 MiB of the disk in which anything was written, so at
most a 4096th of the disk's size. It is read and written, not mapped: a full file system is then an error, and no
SIGBUS. It survives the end of its process, but not a crash of the host, which ends the migration as well.
"""

import errno
import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SECTOR = 512

_PIECE = 1 << 16  # bytes of the file that are looked at together: half a million sectors


class Written:
    """The sectors that were written, for a `with`. Offsets and lengths are bytes, multiples of SECTOR."""

    def __init__(self, path: str, *, new: bool = False) -> None:
        """Opens the file; `new`: makes its directory, and begins with an empty file. Raises OSError."""
        if new:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC if new else os.O_RDONLY
        self._file = os.open(path, flags | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> "Written":  # noqa: PYI034 - Python 3.6 has no Self
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._file)

    def add(self, offset: int, length: int) -> None:
        """Records that these bytes were written. Raises OSError; then some of them may be recorded."""
        if length == 0:
            return
        first, last = offset // SECTOR, (offset + length) // SECTOR - 1
        at = first // 8
        mask = bytearray(b"\xff" * (last // 8 - at + 1))
        mask[0] &= 0xFF << first % 8 & 0xFF
        mask[-1] &= 0xFF >> 7 - last % 8
        before = os.pread(self._file, len(mask), at)
        bits = int.from_bytes(mask, "little") | int.from_bytes(before, "little")
        after = bits.to_bytes(len(mask), "little")
        if after != before:
            _write(self._file, after, at)

    def ranges(self) -> "Iterator[tuple[int, int]]":
        """All that was written, as (offset, length) in order; adjacent sectors make one range. Raises OSError."""
        start = end = 0
        for first, count in self._runs():
            if first == end:
                end += count
                continue
            if end > start:
                yield start * SECTOR, (end - start) * SECTOR
            start, end = first, first + count
        if end > start:
            yield start * SECTOR, (end - start) * SECTOR

    def _runs(self) -> "Iterator[tuple[int, int]]":
        """Runs of sectors (first, number); one that reaches into the next piece is split."""
        for at in self._pieces():
            piece = os.pread(self._file, _PIECE, at)
            bits = bin(int.from_bytes(piece, "little"))[:1:-1]  # the first sector's first
            for run in re.finditer("1+", bits):
                yield at * 8 + run.start(), run.end() - run.start()

    def _pieces(self) -> "Iterator[int]":
        """The offsets in the file of the pieces that are not holes."""
        at = 0
        while True:
            try:
                data = os.lseek(self._file, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return  # there is no more
            at = data // _PIECE * _PIECE
            yield at
            at += _PIECE


def _write(file: int, data: bytes, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], offset + done)
