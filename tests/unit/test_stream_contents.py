# SPDX-License-Identifier: LGPL-2.1-only
"""zfsvol.zfs.sendstream reads the data of the blocks that a stream writes."""

import pytest

from tests.unit.test_sendstream import RECORD, STREAMS, WRITE, chunks, each_version, number, parse, payload_of, places
from zfsvol.zfs import sendstream
from zfsvol.zfs.sendstream import Damaged

PLAIN = "increment-plain"


def contents(base, target, data, size=1 << 30):
    """Return [(start, end, bytes)] for a stream that comes in chunks of `size` bytes."""
    found = sendstream.contents(chunks(data, size), base=base, target=target)
    return [(start, end, b"".join(pieces)) for start, end, pieces in found]


@each_version
@pytest.mark.parametrize("size", [1 << 30, 65536, 313, 7])
def test_the_data(version, size):
    base, target, data = STREAMS[version][PLAIN]
    found = contents(base, target, data, size)
    assert [(bool(held), start, end) for start, end, held in found] == parse(base, target, data)
    payloads = [
        data[at + RECORD : at + RECORD + payload_of(data, at)] for at in places(data) if number(data, at, 4) == WRITE
    ]
    assert [held for _, _, held in found if held] == payloads != []


@each_version
@pytest.mark.parametrize("name", ["increment-compressed", "full-16384"])
def test_data_as_it_is_on_disk(version, name):
    """It is of no use to a reader of the disk."""
    with pytest.raises(Damaged, match="a block is compressed"):
        contents(*STREAMS[version][name])


@each_version
def test_a_stream_that_is_cut_off(version):
    """Whatever comes before the cut, there is an error in the end."""
    base, target, data = STREAMS[version][PLAIN]
    cuts = {place + shift for place in places(data) for shift in (0, 1, RECORD, RECORD + 1, RECORD + 100)}
    for cut in sorted(cuts):
        if cut < len(data):
            with pytest.raises(Damaged):
                contents(base, target, data[:cut], 4096)


@each_version
def test_data_that_is_not_taken_is_passed_over(version):
    base, target, data = STREAMS[version][PLAIN]
    found = [(start, end) for start, end, _ in sendstream.contents(chunks(data, 100), base=base, target=target)]
    assert found == [(start, end) for _, start, end in parse(base, target, data)]
