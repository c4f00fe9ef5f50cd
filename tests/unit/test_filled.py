# SPDX-License-Identifier: LGPL-2.1-only
"""What must be zeroed at the other end when a part of a disk is freed."""

from hypothesis import given
from hypothesis import strategies as st

from zfsvol.motion.filled import Filled

KIB = 1 << 10
BLOCK = 16 * KIB
EIB = 1 << 60


def filled(size, *ranges):
    made = Filled(size)
    for start, end in ranges:
        made.add(start, end)
    return made


def test_what_was_never_written_is_left_alone():
    made = filled(100 * BLOCK, (0, BLOCK), (7 * BLOCK, 9 * BLOCK))
    assert list(made.within(BLOCK, 7 * BLOCK)) == []
    assert list(made.within(0, 8 * BLOCK)) == [(0, BLOCK), (7 * BLOCK, 8 * BLOCK)]
    assert list(made.within(BLOCK, 1 << 64)) == [(7 * BLOCK, 9 * BLOCK)]


def test_small_blocks():
    """It may say more than was written, but no more than was asked for."""
    made = filled(100 * BLOCK, (4 * KIB, 8 * KIB))
    assert list(made.within(8 * KIB, 12 * KIB)) == [(8 * KIB, 12 * KIB)]


def test_the_end():
    made = filled(BLOCK + 512, (0, 2 * BLOCK))
    assert list(made.within(0, 1 << 64)) == [(0, BLOCK + 512)]
    assert list(made.within(2 * BLOCK, 1 << 64)) == []


def test_huge_disks():
    made = filled(8 * EIB - 512, (5 * EIB, 5 * EIB + BLOCK))
    assert list(made.within(5 * EIB + BLOCK, 5 * EIB + 2 * BLOCK)) == [(5 * EIB + BLOCK, 5 * EIB + 2 * BLOCK)]
    assert list(made.within(6 * EIB, 1 << 64)) == []


blocks = st.tuples(st.integers(0, 50), st.integers(1, 9)).map(lambda pair: (pair[0], sum(pair)))


@given(st.lists(blocks), blocks)
def test_any(written, asked):
    made = filled(60 * BLOCK, *((start * BLOCK, end * BLOCK) for start, end in written))
    found = [
        block for start, end in made.within(asked[0] * BLOCK, asked[1] * BLOCK) for block in range(start, end, BLOCK)
    ]
    held = {block for start, end in written for block in range(start, end)}
    assert found == [block * BLOCK for block in range(*asked) if block in held]
