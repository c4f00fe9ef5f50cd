# SPDX-License-Identifier: LGPL-2.1-only
"""zfsvol.zfs.sendstream reads which blocks a stream of `zfs send` writes and frees.

OpenZFS 2.1 and 2.3 printed the recorded streams (streams/record says how). The other streams are built here.

The parser does not compute the checksums that are in a stream: the stream comes from this host's kernel through a pipe,
which neither loses nor changes bytes, and a sum over gigabytes takes time. So damage to a number that could as well be
right (where a block is, how much is freed) is not found, and neither is the loss of whole records. The tests on damage
say what is: a stream that ended early, records that do not follow each other, lengths and guids that do not fit.
"""

from itertools import islice
import lzma
from pathlib import Path
import struct
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from zfsvol.zfs import sendstream
from zfsvol.zfs.sendstream import TO_THE_END, Damaged

VERSIONS = ("2.1", "2.3")
KIB = 1024
RECORD = 312
# Of include/sys/zfs_ioctl.h.
BEGIN, OBJECT, FREE_OBJECTS, WRITE, FREE, END, WRITE_BYREF, SPILL, EMBEDDED, OBJECT_RANGE, REDACT = range(11)
MAGIC = 0x2F5BACBAC

# What the recorded streams write and free: the size of a block in KiB, and the blocks. "9-" is all from 9.
INCREMENT = "written 1, freed 3, written 5, freed 6-99, freed 101, freed 103-299, written 301, freed 302-"
FULL = "written 0-5, freed 6-99, written 100-102, freed 103-299, written 300, freed 301-"
RECORDED = {
    "full-4096": (4, FULL),
    "full-16384": (16, FULL),
    "full-131072": (128, FULL),
    "increment-4096": (4, INCREMENT),
    "increment-16384": (16, INCREMENT),
    "increment-131072": (128, INCREMENT),
    "encrypted-full": (16, "written 0-1, freed 2-"),
    "encrypted-increment": (16, "freed 0, written 1, freed 2-"),
    "bookmark": (16, INCREMENT),
    "increment-plain": (16, INCREMENT),
    "increment-compressed": (16, INCREMENT),
    "grown": (16, "freed 302-"),
    # What is freed before a block are pointers to blocks: 1024 at once.
    "grown-written": (16, "freed 1024-6399, written 6400, freed 6401-"),
    "increments-in-one": (16, INCREMENT[:-1] + "-6399, written 6400, freed 6401-"),
    "unchanged": (16, ""),
    "holes-without-birth": (16, "written 1, freed 3, written 5, freed 101, written 301, written 6400, freed 6401-"),
    "shrunk": (16, "freed 1024-"),
    "cut": (16, "freed 6-99, freed 101-"),
    "emptied": (16, "freed 0-"),
    "clone": (16, "written 5, freed 6-99, freed 103-299, freed 302-"),
    "clone-over-its-origin": (16, INCREMENT),
    "large": (1024, "freed 0-1, written 2, freed 3-"),
    "large-split": (128, "freed 0-15, written 16-23, freed 24-"),
    "never-written": (16, "freed 0-"),
}
REFUSED = ("replicated", "filesystem")


def read(version):
    """Return {name: (base's guid, target's guid, stream)} of the recorded streams."""
    found = {}
    with lzma.open(str(Path(__file__).parent / "streams" / f"openzfs-{version}.xz"), "rt") as lines:
        for line in lines:
            name, base, target, digits = line.split()
            found[name] = (int(base), int(target), bytes.fromhex(digits))
    return found


STREAMS = {version: read(version) for version in VERSIONS}
each_version = pytest.mark.parametrize("version", VERSIONS)
each_recorded = pytest.mark.parametrize("name", RECORDED)


def chunks(data, size):
    return (data[at : at + size] for at in range(0, len(data), size))


def parse(base, target, data, size=1 << 30):
    """Return the answer for a stream that comes in chunks of `size` bytes, as a list."""
    return list(sendstream.blocks(chunks(data, size), base=base, target=target))


def told(found, size):
    """Return the answer as a text like those of RECORDED; neighbours of a kind in one piece."""
    pieces: "list[list]" = []
    for is_written, start, end in found:
        if pieces and pieces[-1][0] == is_written and pieces[-1][2] == start:
            pieces[-1][2] = end
        else:
            pieces.append([is_written, start, end])
    texts = []
    for is_written, start, end in pieces:
        assert start % size == 0
        first, last = start // size, "" if end == TO_THE_END else end // size - 1
        texts.append(("written " if is_written else "freed ") + (f"{first}" if first == last else f"{first}-{last}"))
    return ", ".join(texts)


def is_in_order(found):
    """Say whether the answer is in order of offset, without overlaps and empty ranges."""
    ends = [0, *(end for _, _, end in found)]
    return all(before <= start < end <= TO_THE_END for before, (_, start, end) in zip(ends, found))


def number(data, at, length):
    return int.from_bytes(data[at : at + length], "little")


def payload_of(data, at):
    """Return the length in bytes of the payload of the record at `at`, as OpenZFS's macros tell it."""
    kind = number(data, at, 4)
    if kind == BEGIN:
        return number(data, at + 4, 4)
    if kind == OBJECT:
        return number(data, at + 36, 4) or (number(data, at + 28, 4) + 7) // 8 * 8
    if kind == WRITE:
        return number(data, at + 96, 8) if data[at + 50] else number(data, at + 32, 8)
    if kind == EMBEDDED:
        return (number(data, at + 52, 4) + 7) // 8 * 8
    return 0


def places(data):
    """Return where in a recorded stream its records are."""
    found, at = [], 0
    while at < len(data):
        found.append(at)
        at += RECORD + payload_of(data, at)
    return found


def kinds(data):
    return [number(data, at, 4) for at in places(data)]


class TestRecorded:
    @each_version
    def test_all_are_expected(self, version):
        assert set(STREAMS[version]) == {*RECORDED, *REFUSED}

    @each_version
    @each_recorded
    def test_blocks(self, version, name):
        size, expected = RECORDED[name]
        found = parse(*STREAMS[version][name])
        assert told(found, size * KIB) == expected
        assert is_in_order(found)
        # Each written block is told alone.
        assert {end - start for is_written, start, end in found if is_written} <= {size * KIB}

    @each_recorded
    def test_both_versions_say_the_same(self, name):
        assert parse(*STREAMS["2.1"][name]) == parse(*STREAMS["2.3"][name])

    @pytest.mark.parametrize("size", [1, 7, 311, 312, 313, 65536])
    @each_version
    def test_in_chunks(self, version, size):
        for name in RECORDED:
            base, target, data = STREAMS[version][name]
            # Blocks of 1 MiB in single bytes would take seconds.
            if len(data) <= 300000 * size:
                assert parse(base, target, data, size) == parse(base, target, data)

    @each_version
    def test_empty_chunks(self, version):
        base, target, data = STREAMS[version]["clone"]
        pieces = [b"", data[:100], b"", b"", data[100:], b""]
        assert list(sendstream.blocks(pieces, base=base, target=target)) == parse(base, target, data)

    @each_version
    @pytest.mark.parametrize("name", REFUSED)
    def test_refused(self, version, name):
        with pytest.raises(Damaged, match="not that of a single zvol"):
            parse(*STREAMS[version][name])

    @each_version
    @each_recorded
    def test_only_between_its_snapshots(self, version, name):
        base, target, data = STREAMS[version][name]
        for other in ((base ^ 1, target), (base, target ^ 1), (target, base)):
            with pytest.raises(Damaged, match="another snapshot"):
                parse(*other, data)

    @each_version
    def test_they_have_records_of_each_kind(self, version):
        """Else the others test less than they seem to."""
        streams = {name: data for name, (_, _, data) in STREAMS[version].items() if name in RECORDED}
        assert {name for name in streams if EMBEDDED in kinds(streams[name])} >= {
            *("full-4096", "full-16384", "full-131072", "increment-4096", "clone-over-its-origin"),
        }
        assert {name for name in streams if OBJECT_RANGE in kinds(streams[name])} == {
            *("encrypted-full", "encrypted-increment"),
        }
        writes = [streams["full-4096"][at:] for at in places(streams["full-4096"])]
        assert {payload_of(data, 0) for data in writes if number(data, 0, 4) == WRITE} == {512, 4096}
        for data in streams.values():
            assert kinds(data) == [BEGIN, END] or set(kinds(data)) >= {BEGIN, OBJECT, FREE, FREE_OBJECTS, END}


BLOCK = 16 * KIB
BASE, TARGET, OTHER = 0x1122334455667788, 0x99AABBCCDDEEFF01, 0x77


def record(kind, *fields, payload=b"", length=0):
    """Return a record. A field is (its offset in bytes, its format, its value)."""
    data = bytearray(RECORD)
    struct.pack_into("<II", data, 0, kind, length)
    for at, form, value in fields:
        struct.pack_into("<" + form, data, at, value)
    return bytes(data) + payload


def begin(version=1, kind=3, base=BASE, target=TARGET, magic=MAGIC, payload=b"", length=None):
    fields = [(8, "Q", magic), (16, "Q", version), (32, "I", kind), (40, "Q", target), (48, "Q", base)]
    return record(BEGIN, *fields, payload=payload, length=len(payload) if length is None else length)


def object_(index=1, kind=23, size=BLOCK, bonus=0, raw=0, guid=TARGET, payload=b""):
    fields = [(8, "Q", index), (16, "I", kind), (24, "I", size), (28, "I", bonus), (36, "I", raw), (40, "Q", guid)]
    return record(OBJECT, *fields, payload=payload)


def place(index, start, size, guid, at):
    """Return the fields of a range; numbers of blocks."""
    guid_at = 40 if at == 24 else 32
    return [(8, "Q", index), (at, "Q", int(start * BLOCK)), (at + 8, "Q", int(size * BLOCK)), (guid_at, "Q", guid)]


def write(start, size=1, index=1, guid=TARGET, payload=None, compressed=None):
    """Return a record that writes a block (`start` and `size` in blocks)."""
    fields = place(index, start, size, guid, 24)
    if compressed is not None:
        fields += [(50, "B", 15), (96, "Q", compressed)]
    return record(WRITE, *fields, payload=bytes(int(size * BLOCK)) if payload is None else payload)


def embedded(start, size=1, index=1, guid=TARGET, length=40, payload=None):
    fields = [*place(index, start, size, guid, 16), (52, "I", length)]
    return record(EMBEDDED, *fields, payload=bytes(length) if payload is None else payload)


def free(start, size, index=1, guid=TARGET):
    return record(FREE, *place(index, start, size, guid, 16))


def free_tail(start, index=1, guid=TARGET):
    return record(FREE, (8, "Q", index), (16, "Q", int(start * BLOCK)), (24, "Q", TO_THE_END), (32, "Q", guid))


def free_objects(first, count, guid=TARGET):
    return record(FREE_OBJECTS, (8, "Q", first), (16, "Q", count), (24, "Q", guid))


def object_range(guid=TARGET):
    return record(OBJECT_RANGE, (8, "Q", 0), (16, "Q", 32), (24, "Q", guid))


def spill(length, compressed=0, guid=TARGET, payload=b""):
    return record(SPILL, (8, "Q", 1), (16, "Q", length), (24, "Q", guid), (40, "Q", compressed), payload=payload)


def end(guid=TARGET):
    return record(END, (40, "Q", guid))


def whole(*records):
    """Return a whole stream with these records between the first and the last ones."""
    return b"".join([begin(), object_(), *records, end()])


def built(data):
    return parse(BASE, TARGET, data)


def of(is_written, start, stop):
    """Return what the answer says of a range of blocks."""
    return is_written, start * BLOCK, TO_THE_END if stop is None else stop * BLOCK


class TestBuilt:
    """What the recorded streams lack."""

    def test_blocks(self):
        data = whole(free_tail(9), write(0), free(1, 2), embedded(4), object_(2), write(0, index=2))
        assert built(data) == [of(True, 0, 1), of(False, 1, 3), of(True, 4, 5), of(False, 9, None)]

    def test_nothing_is_said_of_other_objects(self):
        others = write(5, 3, index=2), free(9, 1, index=2), free_tail(0, index=2), embedded(12, index=2)
        assert built(whole(write(3), object_(2, kind=24, size=512), *others)) == [of(True, 3, 4)]

    def test_neighbours_that_are_freed_apart(self):
        assert built(whole(free(1, 1), free(2, 5))) == [of(False, 1, 2), of(False, 2, 7)]

    def test_freed_beyond_the_tails_beginning(self):
        assert built(whole(free_tail(5), free(4, 3))) == [of(False, 4, 7), of(False, 7, None)]
        assert built(whole(free_tail(5), free(4, 3), free(9, 1))) == [of(False, 4, 7), of(False, 7, None)]
        assert built(whole(free_tail(5), free(7, 1))) == [of(False, 5, None)]

    def test_all_freed(self):
        assert built(whole(free_tail(0))) == [of(False, 0, None)]

    def test_no_tail(self):
        assert built(whole(write(1), free(2, 1))) == [of(True, 1, 2), of(False, 2, 3)]

    def test_a_full_stream(self):
        data = begin(base=0) + object_() + write(1) + end()
        assert parse(0, TARGET, data) == [of(True, 1, 2)]

    def test_far_away(self):
        last = (1 << 64) // BLOCK - 2
        assert built(whole(free(3, last - 3), write(last))) == [of(False, 3, last), of(True, last, last + 1)]

    @pytest.mark.parametrize(
        "with_payload",
        [
            object_range(),
            free_objects(0, 1),
            free_objects(2, 100),
            free_objects(3, TO_THE_END - 3),
            spill(100, payload=bytes(100)),
            spill(100, compressed=50, payload=bytes(50)),
            object_(2, bonus=5, payload=bytes(8)),
            object_(2, bonus=8, payload=bytes(8)),
            object_(2, bonus=5, raw=13, payload=bytes(13)),
            object_(2) + write(0, index=2, compressed=1, payload=b"x"),
            object_(2) + embedded(0, index=2, length=17, payload=bytes(24)),
        ],
    )
    def test_other_records_and_payloads(self, with_payload):
        assert built(whole(write(1), with_payload)) == [of(True, 1, 2)]
        if with_payload[0] != OBJECT:
            assert built(begin() + with_payload + object_() + write(1) + end()) == [of(True, 1, 2)]

    @pytest.mark.parametrize(
        "block",
        [
            write(1, compressed=BLOCK, payload=bytes(BLOCK)),
            write(1, compressed=513, payload=b"\3" * 513),
            # Not compressed: this number means nothing then.
            write(1)[:96] + b"\x07" + write(1)[97:],
            embedded(1, length=1, payload=b"\3" * 8),
            embedded(1, length=8, payload=b"\3" * 8),
            embedded(1, length=112, payload=b"\3" * 112),
        ],
    )
    def test_payloads_of_blocks(self, block):
        assert built(whole(block, write(2))) == [of(True, 1, 2), of(True, 2, 3)]

    def test_payload_of_the_beginning(self):
        data = begin(payload=end() * 3 + b"12345") + object_() + write(1) + end()
        assert built(data) == [of(True, 1, 2)]

    def test_the_largest_block(self):
        size = (16 << 20) // BLOCK
        data = begin() + object_(size=16 << 20) + write(size, size, payload=bytes(16 << 20)) + end()
        assert built(data) == [of(True, size, 2 * size)]

    @pytest.mark.parametrize("bit", [2, 16, 17, 19, 22, 23, 24, 25, 26, 27])
    def test_features(self, bit):
        assert built(begin(version=1 | 4 << bit) + object_() + write(1) + end()) == [of(True, 1, 2)]

    def test_memory(self):
        """128 MiB come in pieces, and the parser keeps next to nothing of them."""
        size, count = 128 * KIB, 1024
        payload = bytes(size)

        def pieces():
            left = begin() + object_(size=size)
            for index in range(count):
                left += write(index * 8, 8, payload=payload)
                yield left[:-1000]
                left = left[-1000:]
            yield left + end()

        tracemalloc.start()
        try:
            found = sum(1 for _ in sendstream.blocks(pieces(), base=BASE, target=TARGET))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert found == count
        assert peak < 2 << 20

    def test_blocks_are_told_before_the_stream_has_ended(self):
        def endless():
            yield begin() + object_()
            index = 0
            while True:
                yield write(index)
                index += 1

        found = sendstream.blocks(endless(), base=BASE, target=TARGET)
        assert list(islice(found, 3)) == [of(True, 0, 1), of(True, 1, 2), of(True, 2, 3)]


# Parts of the messages.
ORDER, OBJECTS, KIND, GUID, LONG = "blocks are not in order", "objects are not in order", "kind", "snapshot", "too long"
SIZE = "size of the zvol's blocks"
WRONG = [
    # The beginning.
    ("empty", b"", "it is empty"),
    ("other kind first", object_() + end(), "does not begin"),
    ("BEGIN of another kind", b"\x05" + begin()[1:] + end(), "does not begin"),
    ("magic", begin(magic=MAGIC ^ 1) + end(), "does not begin"),
    ("magic beyond its low half", begin(magic=MAGIC ^ 1 << 40) + end(), "does not begin"),
    ("other byte order", struct.pack(">IIQQ", 0, 0, MAGIC, 1) + begin()[24:] + end(), "does not begin"),
    ("compound", begin(version=2) + begin() + object_() + write(1) + end(), "single zvol"),
    ("neither simple nor compound", begin(version=3) + end(), "single zvol"),
    ("no type of stream", begin(version=0) + end(), "single zvol"),
    ("of a file system", begin(kind=2) + end(), "single zvol"),
    ("deduplicated", begin(version=1 | 4 << 0) + end(), "unknown features"),
    ("deduplicated, with properties", begin(version=1 | 4 << 1) + end(), "unknown features"),
    ("unknown feature", begin(version=1 | 4 << 18) + end(), "unknown features"),
    ("resumed", begin(version=1 | 4 << 20) + end(), "unknown features"),
    ("redacted", begin(version=1 | 4 << 21) + end(), "unknown features"),
    ("feature of file systems", begin(version=1 | 4 << 28) + end(), "unknown features"),
    ("the last possible feature", begin(version=1 | 4 << 61) + end(), "unknown features"),
    ("guid", begin(target=OTHER) + end(OTHER), "another snapshot"),
    ("guid of the base", begin(base=OTHER) + end(), "another snapshot"),
    ("full", begin(base=0) + end(), "another snapshot"),
    ("payload of BEGIN", begin(length=(64 << 20) + 1) + bytes((64 << 20) + 1) + end(), "first record is too long"),
    # The records' guids.
    ("guid of OBJECT", begin() + object_(guid=OTHER) + end(), GUID),
    ("guid of WRITE", whole(write(1, guid=OTHER)), GUID),
    ("guid of WRITE of another object", whole(object_(2), write(1, index=2, guid=OTHER)), GUID),
    ("guid of FREE", whole(free(1, 1, guid=OTHER)), GUID),
    ("guid of FREE to the end", whole(free_tail(1, guid=OTHER)), GUID),
    ("guid of WRITE_EMBEDDED", whole(embedded(1, guid=OTHER)), GUID),
    ("guid of FREEOBJECTS", whole(free_objects(2, 1, guid=OTHER)), GUID),
    ("guid of OBJECT_RANGE", whole(object_range(guid=OTHER)), GUID),
    ("guid of SPILL", whole(spill(8, guid=OTHER, payload=bytes(8))), GUID),
    ("guid of END", begin() + object_() + end(OTHER), GUID),
    # Kinds of records.
    ("WRITE_BYREF", whole(record(WRITE_BYREF, (8, "Q", 1), (32, "Q", TARGET))), KIND),
    ("REDACT", whole(record(REDACT, (8, "Q", 1), (32, "Q", TARGET))), KIND),
    ("a kind to come", whole(record(11, (8, "Q", 1), (24, "Q", TARGET))), KIND),
    ("another BEGIN", whole(begin()), KIND),
    ("FREEOBJECTS over the zvol's", whole(free_objects(0, 2)), KIND),
    ("FREEOBJECTS of the zvol's", whole(free_objects(1, 1)), KIND),
    ("FREEOBJECTS of all", whole(free_objects(0, TO_THE_END)), KIND),
    # Objects.
    ("type of the object", begin() + object_(kind=19) + end(), "not that of a zvol"),
    ("size of the object's blocks", begin() + object_(size=0) + end(), "not that of a zvol"),
    ("object twice", whole(write(1), object_(), write(2)), OBJECTS),
    ("object twice, another size", whole(object_(size=2 * BLOCK), write(2, 2)), OBJECTS),
    ("objects in another order", begin() + object_(2) + object_(1) + end(), OBJECTS),
    ("object 0", begin() + object_(0) + end(), OBJECTS),
    ("WRITE without object", begin() + write(1) + end(), OBJECTS),
    ("FREE without object", begin() + free(1, 1) + end(), OBJECTS),
    ("FREE to the end without object", begin() + free_tail(1) + end(), OBJECTS),
    ("WRITE_EMBEDDED without object", begin() + embedded(1) + end(), OBJECTS),
    ("WRITE of an object to come", whole(write(1, index=2)), OBJECTS),
    ("WRITE of object 0", whole(write(1, index=0)), OBJECTS),
    ("WRITE of no object, before all", begin() + write(1, index=TO_THE_END) + object_() + end(), OBJECTS),
    ("FREE of an object that was left", whole(object_(2), free(1, 1)), OBJECTS),
    # Blocks.
    ("WRITE, WRITE before it", whole(write(2), write(1)), ORDER),
    ("WRITE twice", whole(write(2), write(2)), ORDER),
    ("WRITE in what is freed", whole(free(1, 3), write(3)), ORDER),
    ("WRITE_EMBEDDED in what is freed", whole(free(1, 3), embedded(3)), ORDER),
    ("FREE of what is written", whole(write(2), free(1, 2)), ORDER),
    ("FREE over FREE", whole(free(1, 3), free(3, 3)), ORDER),
    ("FREE of nothing", whole(free(3, 0)), ORDER),
    ("WRITE of nothing", whole(write(3, 0)), ORDER),
    ("WRITE between blocks", whole(write(2.5)), ORDER),
    ("FREE between blocks", whole(free(2.5, 1)), ORDER),
    ("WRITE_EMBEDDED between blocks", whole(embedded(2.5)), ORDER),
    ("WRITE over the end", whole(write((1 << 64) // BLOCK - 1)), ORDER),
    ("FREE over the end", whole(free(5, (1 << 64) // BLOCK - 1)), ORDER),
    ("WRITE behind the tail's beginning", whole(free_tail(5), write(5)), ORDER),
    ("WRITE_EMBEDDED behind the tail's beginning", whole(free_tail(5), embedded(7)), ORDER),
    ("FREE to the end behind blocks", whole(write(1), free_tail(2)), "end is not where it should be"),
    ("FREE to the end twice", whole(free_tail(2), free_tail(2)), "end is not where it should be"),
    ("FREE to the end from between blocks", whole(free_tail(2.5)), "end is not where it should be"),
    ("WRITE of two blocks", whole(write(2, 2)), SIZE),
    ("WRITE of half a block", whole(write(2, 0.5)), SIZE),
    ("WRITE_EMBEDDED of two blocks", whole(embedded(2, 2)), SIZE),
    ("WRITE_EMBEDDED of half a block", whole(embedded(2, 0.5)), SIZE),
    ("FREE of half a block", whole(free(2, 1.5)), SIZE),
    # Payloads.
    ("payload of WRITE", whole(write(1, compressed=BLOCK + 8, payload=bytes(BLOCK + 8))), LONG),
    ("payload of WRITE, no end", whole(write(1, compressed=TO_THE_END, payload=b"")), LONG),
    ("payload of WRITE of another object", whole(object_(2), write(1, 1025, index=2)), LONG),
    ("payload of OBJECT", begin() + object_(bonus=(16 << 20) + 1, payload=bytes((16 << 20) + 8)) + end(), LONG),
    ("raw payload of OBJECT", begin() + object_(raw=(16 << 20) + 1, payload=bytes((16 << 20) + 1)) + end(), LONG),
    ("payload of WRITE_EMBEDDED", whole(embedded(1, length=(16 << 20) + 8)), LONG),
    ("payload of SPILL", whole(spill((16 << 20) + 1, payload=bytes((16 << 20) + 1))), LONG),
    ("payload of SPILL, compressed", whole(spill(8, compressed=TO_THE_END)), LONG),
    # The end.
    ("no record", begin(), "ends early"),
    ("no end of a record", begin() + object_()[:-1], "middle of a record"),
    ("no end of a payload", begin() + object_() + write(1)[:-1], "middle of a record"),
    ("no END", begin() + object_() + write(1), "ends early"),
    ("another record", whole(write(1)) + end(), "goes on after its end"),
    ("another stream", whole(write(1)) + whole(write(2)), "goes on after its end"),
    ("a byte more", whole(write(1)) + b"\0", "middle of a record"),
]


class TestWrong:
    @pytest.mark.parametrize(("data", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
    def test_is_refused(self, data, message):
        with pytest.raises(Damaged, match=message):
            built(data)

    def test_error_for_the_administrator(self):
        with pytest.raises(Damaged, match=r"^The output of 'zfs send' cannot be understood: it is empty\.$"):
            built(b"")

    @pytest.mark.parametrize("name", ["increment-4096", "encrypted-increment", "unchanged"])
    @each_version
    def test_cut_at_each_byte(self, version, name):
        base, target, data = STREAMS[version][name]
        for length in range(len(data)):
            with pytest.raises(Damaged):
                parse(base, target, data[:length])

    @each_version
    @each_recorded
    def test_cut_between_records(self, version, name):
        """At the end of a record or of its payload, and in the middle of the payload."""
        base, target, data = STREAMS[version][name]
        for at in places(data):
            for length in {at, min(at + RECORD, len(data) - 1), at + RECORD + payload_of(data, at) // 2 - 1}:
                with pytest.raises(Damaged):
                    parse(base, target, data[:length])

    @pytest.mark.parametrize("name", ["increment-4096", "encrypted-increment"])
    def test_damage_to_each_byte(self, name):
        """Damage is found, or makes no difference, or moves what one record is about (see above)."""
        base, target, data = STREAMS["2.3"][name]
        expected = parse(base, target, data)
        for start in places(data):
            kind, is_of_the_zvol = number(data, start, 4), number(data, start + 8, 8) == 1
            # Where the record's offset is, and the length of what is freed.
            free_to_move = {WRITE: range(24, 32), EMBEDDED: range(16, 24), FREE: range(16, 32)}.get(kind, ())
            for at in range(RECORD):
                was = data[start + at]
                for value in {0, 255, was ^ 1, was ^ 128} - {was}:
                    damaged = data[: start + at] + bytes([value]) + data[start + at + 1 :]
                    try:
                        found = parse(base, target, damaged)
                    except Damaged:
                        continue
                    if found != expected:
                        assert is_of_the_zvol, (start, at, value)
                        assert at in free_to_move, (start, at, value)
                        assert is_in_order(found)
                        # The other records are told as before; where the tail begins may change with the last one.
                        assert len(set(expected[:-1]) - set(found)) <= 1


# Small enough to be changed in many ways.
SMALL = [(version, name) for version in VERSIONS for name in RECORDED if len(STREAMS[version][name][2]) < 10000]
# Numbers where something may overflow or be taken for something else.
NUMBERS = st.sampled_from([0, 1, 2, 23, 311, 312, BLOCK, (16 << 20) + 1, 1 << 32, 1 << 63, TO_THE_END - 1, TO_THE_END])


def accepts_or_refuses(base, target, data, size):
    """Parse, which must end with an answer in order or with Damaged, and nothing else. Return the answer or None."""
    bound = len(data) // RECORD + 1
    blocks = sendstream.blocks(chunks(data, size), base=base, target=target)
    try:
        found = list(islice(blocks, bound + 1))
    except Damaged:
        return None
    assert len(found) <= bound
    assert is_in_order(found)
    return found


@st.composite
def changed(draw):
    """A recorded stream, changed in some ways: records first, then bytes."""
    version, name = draw(st.sampled_from(SMALL))
    base, target, data = STREAMS[version][name]
    starts = places(data)
    records = [data[start:stop] for start, stop in zip(starts, [*starts[1:], len(data)])]
    for _ in range(draw(st.integers(0, 3))):
        index, other = (draw(st.integers(0, len(records) - 1)) for _ in "ab")
        how = draw(st.sampled_from(["swap", "duplicate", "move"]))
        if how == "swap":
            records[index], records[other] = records[other], records[index]
        elif how == "duplicate":
            records.insert(other, records[index])
        else:
            records.insert(other, records.pop(index))
    data = b"".join(records)
    for _ in range(draw(st.integers(0, 3))):
        # Half of the time a whole number within a record is meant.
        at = draw(st.one_of(st.integers(0, len(data)), st.integers(0, 12).map(lambda word: 8 * word)))
        at = min(len(data), at + draw(st.sampled_from([0, *starts])))
        new = draw(st.one_of(st.binary(max_size=20), NUMBERS.map(lambda value: value.to_bytes(8, "little"))))
        how = draw(st.sampled_from(["cut", "insert", "overwrite"]))
        length = {"cut": draw(st.integers(0, 700)), "insert": 0, "overwrite": len(new)}[how]
        data = data[:at] + (b"" if how == "cut" else new) + data[at + length :]
    return base, target, data


class TestAnything:
    @settings(deadline=None, max_examples=400)
    @given(changed(), st.sampled_from([1 << 20, 4096, 313, 64]))
    def test_changed_streams(self, stream, size):
        base, target, data = stream
        found = accepts_or_refuses(base, target, data, size)
        assert accepts_or_refuses(base, target, data, 1 << 20) == found

    @settings(deadline=None, max_examples=100)
    @given(st.binary(max_size=2000), st.booleans())
    def test_any_bytes_after_the_beginning(self, data, with_object):
        accepts_or_refuses(BASE, TARGET, begin() + (object_() if with_object else b"") + data, 1 << 20)

    @settings(deadline=None, max_examples=300)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([write, embedded, free]), st.integers(0, 9), st.integers(0, 3), st.integers(0, 2)
            ),
            max_size=6,
        ),
        st.one_of(st.none(), st.integers(0, 9)),
    )
    def test_any_ranges(self, ranges, tail):
        """The answer is the records themselves, where they are in order, and else there is none."""
        records = [free_tail(tail)] if tail is not None else []
        records += [make(start, size, index=index) for make, start, size, index in ranges]
        found = accepts_or_refuses(BASE, TARGET, whole(*records), 1 << 20)
        is_right, reached, expected = True, 0, []
        for make, start, size, index in ranges:
            is_right &= index == 1
            if make is free and tail is not None and start >= tail:
                continue  # a part of the tail
            is_right &= reached <= start < (99 if tail is None else tail) and size > 0
            is_right &= make is free or size == 1
            reached = start + size
            expected.append(of(make is not free, start, reached))
        if tail is not None:
            expected.append(of(False, max(tail, reached), None))
        assert found == (expected if is_right else None)
