# SPDX-License-Identifier: LGPL-2.1-only
"""Whether a mirror catches up with the writers of its disk."""

import pytest

from zfsvol.motion.pace import Pace, TooFast

MIB = 1 << 20


def paced(*seconds):
    """The pace after passes that took so long; each moved as many MiB as it took seconds."""
    pace = Pace()
    for duration in seconds:
        pace.passed(int(duration * MIB), duration)
    return pace


@pytest.mark.parametrize("seconds", [[0.5], [1000, 100, 10, 1], [3600, 3000, 2500, 2000, 1500, 1000, 500, 0.9]])
def test_short_passes(seconds):
    assert not paced(*seconds[:-1]).is_close
    assert paced(*seconds).is_close


def test_passes_that_get_no_shorter_but_are_short_enough():
    assert not paced(1000, 9, 9, 9, 9).is_close
    assert paced(1000, 9, 9, 9, 9, 9).is_close


def test_a_vm_that_writes_too_fast():
    pace = paced(100, 100, 100, 100)
    with pytest.raises(TooFast, match=r"100\.0 MiB, took 100 seconds"):
        pace.passed(100 * MIB, 100)


def test_a_vm_that_becomes_too_fast():
    """The job fails while the VM still runs, and not in its hand-over."""
    with pytest.raises(TooFast):
        paced(100, *[0.5] * 100, 30, 30, 30, 30)
    assert paced(100, *[0.5] * 100, 30, 30, 30).is_close


def test_a_vm_that_writes_much_at_times():
    assert paced(100, *[0.5, 30, 30, 30] * 20).is_close


def test_slow_progress_is_no_failure():
    assert not paced(*(100 * 0.79**number for number in range(20))).is_close
    assert paced(*(100 * 0.79**number for number in range(21))).is_close
