# SPDX-License-Identifier: LGPL-2.1-only
"""Reads the stream of `zfs send` of a zvol's snapshot: which blocks it writes and frees, and their data. Pure.

A stream is a sequence of records of 312 bytes, some with a payload (OpenZFS, include/sys/zfs_ioctl.h,
dmu_replay_record). Numbers are in the sender's byte order, which is this host's. The zvol's data is object 1.
Nothing here computes the stream's checksums: the stream comes from this host's kernel through a pipe. But each record
must make sense where it is: what does not is an error and never an answer.
"""

import struct

from zfsvol.errors import StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Bytes. The end of what is freed, if the stream says "to the end".
TO_THE_END = (1 << 64) - 1

_RECORD = 312
_MAGIC = 0x2F5BACBAC
_SUBSTREAM = 1  # a stream of one snapshot
_VOLUME = 3  # DMU_OST_ZVOL
_NONE = -1  # no object
_DATA_OBJECT = 1  # ZVOL_OBJ
_DATA_TYPE = 23  # DMU_OT_ZVOL
# Bytes. A block is at most 16 MiB; a BEGIN's payload holds the keys of an encrypted dataset.
_LARGEST_BLOCK = 16 << 20
_LARGEST_PAYLOAD = 64 << 20

_BEGIN, _OBJECT, _FREE_OBJECTS, _WRITE, _FREE, _END = range(6)
_SPILL, _WRITE_EMBEDDED, _OBJECT_RANGE = range(7, 10)

# Features that change only how data is stored or received. Others change which blocks a record stands for:
# deduplicated, resumed and redacted streams leave blocks out.
_HARMLESS = sum(1 << bit for bit in (2, 16, 17, 19, 22, 23, 24, 25, 26, 27))

# The fields at the beginning of a record: its kind, its payload's length (only of BEGIN), and what depends on the kind.
_BEGIN_FIELDS = struct.Struct("<IIQQQIIQQ")  # …, magic, version, time, object set type, flags, guid, guid of the base
_WRITE_FIELDS = struct.Struct("<IIQIIQQQ")  # …, object, object type, -, offset, length, guid
_RANGE_FIELDS = struct.Struct("<IIQQQQ")  # …, object, offset, length, guid
_OBJECT_FIELDS = struct.Struct("<IIIIIIQ")  # from 16: type, -, block size, bonus, -, bonus of a raw stream, guid
_THREE = struct.Struct("<QQQ")
_QUAD = struct.Struct("<Q")
_WORD = struct.Struct("<I")


class Damaged(StorageError):
    """The stream ended early, or is not what `zfs send` of a zvol's snapshot prints."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The output of 'zfs send' cannot be understood: {what}.")


class _Input:
    """The chunks as one sequence of bytes. The next byte is `buffer[position]`."""

    def __init__(self, chunks: "Iterable[bytes]") -> None:
        self._chunks = iter(chunks)
        self.buffer = b""
        self.position = 0
        self.payload = 0  # bytes of the current record's that were not taken

    def record(self) -> bool:
        """Provides a whole record at `position`; False at the end of the stream. Raises Damaged."""
        while len(self.buffer) - self.position < _RECORD:
            chunk = next(self._chunks, None)
            if chunk is None:
                if self.position == len(self.buffer):
                    return False
                raise Damaged("it ends in the middle of a record")
            left = self.buffer[self.position :]
            self.position = max(0, self.position - len(self.buffer))
            self.buffer = left + chunk
        return True

    def take(self) -> "list[memoryview]":
        """The payload of the current record, in pieces. Raises Damaged."""
        pieces = []
        while self.payload:
            if self.position >= len(self.buffer):
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise Damaged("it ends in the middle of a block")
                self.position -= len(self.buffer)
                self.buffer = chunk
                continue
            piece = memoryview(self.buffer)[self.position : self.position + self.payload]
            pieces.append(piece)
            self.position += len(piece)
            self.payload -= len(piece)
        return pieces


def blocks(chunks: "Iterable[bytes]", *, base: int, target: int) -> "Iterator[tuple[bool, int, int]]":
    """Yields (is_written, start, end) for each record of the zvol's data, in order of offset, without overlaps; bytes.

    The stream must lead from the snapshot or bookmark with the guid `base` (0: it is a full one) to the snapshot with
    the guid `target`. In an increment, what is neither written nor freed is as it was. A freed range may be one that
    never held data. Raises Damaged; what came before it means nothing then.
    """
    source = _Input(chunks)
    _begin(source, base=base, target=target)
    yield from _in_order(_records(source, target))


def contents(chunks: "Iterable[bytes]", *, base: int, target: int) -> "Iterator[tuple[int, int, list[memoryview]]]":
    """Yields (start, end, data) as `blocks`; `data` are the bytes in pieces, none of a freed block.

    The stream must hold the data as a reader of the zvol gets it: without compression, and nothing embedded.
    """
    source = _Input(chunks)
    _begin(source, base=base, target=target)
    for is_written, start, end in _in_order(_records(source, target)):
        if is_written and source.payload != end - start:
            raise Damaged("a block is compressed")
        yield start, end, source.take() if is_written else []


def _begin(source: _Input, *, base: int, target: int) -> None:
    """Reads the first record. Raises Damaged unless it is that of the wanted stream."""
    if not source.record():
        raise Damaged("it is empty")
    kind, payload, magic, version, _, volume, _, to_guid, from_guid = _BEGIN_FIELDS.unpack_from(
        source.buffer, source.position
    )
    if kind != _BEGIN or magic != _MAGIC:
        raise Damaged("it does not begin as a stream does")
    if version & 3 != _SUBSTREAM or volume != _VOLUME:
        raise Damaged("it is not that of a single zvol")
    if (version >> 2) & ~_HARMLESS:
        raise Damaged(f"it has unknown features ({version >> 2:#x})")
    if (from_guid, to_guid) != (base, target):
        raise Damaged("it is that of another snapshot")
    if payload > _LARGEST_PAYLOAD:
        raise Damaged("its first record is too long")
    source.position += _RECORD + payload


def _in_order(records: "Iterable[tuple[int, int, int, int]]") -> "Iterator[tuple[bool, int, int]]":
    """The blocks of the zvol's data among the records, after a check that they follow each other."""
    current, block, reached, tail = 0, 0, 0, TO_THE_END
    for kind, number, start, length in records:
        # An object's blocks follow the object.
        if number <= current if kind == _OBJECT else number != current:
            raise Damaged("its objects are not in order")
        current = number
        if number != _DATA_OBJECT:
            continue
        if kind == _OBJECT:
            object_type, block = start, length
            if object_type != _DATA_TYPE or not block:
                raise Damaged("an object is not that of a zvol")
        elif kind == _FREE and length == TO_THE_END:
            # All behind the last block that was ever written; it comes before the blocks.
            if reached or tail < TO_THE_END or start % block:
                raise Damaged("its end is not where it should be")
            tail = start
        else:
            if kind == _FREE and start >= tail:
                continue  # a part of it
            if start % block or not reached <= start < tail or not 0 < length < TO_THE_END - start:
                raise Damaged("its blocks are not in order")
            if length % block if kind == _FREE else length != block:
                raise Damaged("a block does not have the size of the zvol's blocks")
            reached = start + length
            yield kind != _FREE, start, reached
    if tail < TO_THE_END:
        yield False, max(tail, reached), TO_THE_END


def _records(source: _Input, guid: int) -> "Iterator[tuple[int, int, int, int]]":
    """(kind, object, start, length) of writes and frees; (kind, object, its type, its block size) of objects."""
    while source.record():
        buffer, position = source.buffer, source.position
        kind, _, number, _, _, start, length, owner = _WRITE_FIELDS.unpack_from(buffer, position)
        size = 0
        if kind == _WRITE:
            size = _QUAD.unpack_from(buffer, position + 96)[0] if buffer[position + 50] else length
        elif kind in (_FREE, _WRITE_EMBEDDED):
            _, _, number, start, length, owner = _RANGE_FIELDS.unpack_from(buffer, position)
            if kind == _WRITE_EMBEDDED:
                size = _in_eights(_WORD.unpack_from(buffer, position + 52)[0])
        elif kind == _OBJECT:
            start, _, length, bonus, _, raw, owner = _OBJECT_FIELDS.unpack_from(buffer, position + 16)
            size = raw or _in_eights(bonus)
        else:
            number = _NONE
            owner, size = _without_blocks(buffer, position, kind)
        if owner != guid:
            raise Damaged("a record is not that of the snapshot")
        if size > _LARGEST_BLOCK or (kind == _WRITE and size > length):
            raise Damaged("a block is too long")
        source.position += _RECORD
        source.payload = size
        if number != _NONE:
            yield kind, number, start, length
        source.position += source.payload
        if kind == _END:
            if source.record():
                raise Damaged("it goes on after its end")
            return
    raise Damaged("it ends early")


def _without_blocks(buffer: bytes, position: int, kind: int) -> "tuple[int, int]":
    """The guid, and the length of the payload, of a record of another kind. Raises Damaged."""
    first, length, owner = _THREE.unpack_from(buffer, position + 8)
    if kind == _END:
        return _QUAD.unpack_from(buffer, position + 40)[0], 0
    if kind == _SPILL:
        return owner, _QUAD.unpack_from(buffer, position + 40)[0] or length
    if kind == _OBJECT_RANGE or (kind == _FREE_OBJECTS and not first <= _DATA_OBJECT < first + length):
        return owner, 0
    raise Damaged(f"it has a record of the kind {kind} where there should be none")


def _in_eights(size: int) -> int:
    return -(-size // 8) * 8
