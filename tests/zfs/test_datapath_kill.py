# SPDX-License-Identifier: LGPL-2.1-only
"""Datapath verbs, killed before, during and after each of their changes: then each can be repeated or undone."""

import os
import time
from typing import Any, Dict

import pytest

from tests import blktap
from tests.client import VerbError, call_inside
from tests.killed import kill, kill_points, wait_for_children
from tests.zfs.disk import DOM0, GUEST, OTHER_GUEST, Disk, left, nbd_write
from zfsvol.host import lock

VERBS = ["attach", "activate", "deactivate", "detach"]


pytestmark = pytest.mark.usefixtures("nothing_left")


def prepare(disk: Disk, verb: str) -> "Dict[str, Any]":
    """Runs everything before the verb; returns the verb's arguments."""
    for earlier in VERBS[: VERBS.index(verb)]:
        call_inside("Datapath." + earlier, uri=disk.uri, domain=GUEST)
    return {"uri": disk.uri, "domain": GUEST}


def detached(disk: Disk, domain: str) -> None:
    """Ends a datapath as the client does, in any state."""
    for verb in ("deactivate", "detach"):
        call_inside("Datapath." + verb, uri=disk.uri, domain=domain)


@pytest.mark.parametrize("verb", VERBS)
def test_repeated(disk: Disk, verb: str) -> None:
    for point in kill_points("Datapath." + verb, lambda: prepare(disk, verb)):
        call_inside("Datapath." + verb, uri=disk.uri, domain=GUEST)
        if verb == "activate":
            nbd_write(disk.attach(GUEST), 0, b"x" * 512)
            assert len(blktap.tapdisks()) == 1, point
        detached(disk, GUEST)
        assert left() == [], point


@pytest.mark.parametrize("verb", ["attach", "activate"])
def test_undone(disk: Disk, verb: str) -> None:
    """detach and SR.attach handle each state."""
    for number, point in enumerate(kill_points("Datapath." + verb, lambda: prepare(disk, verb))):
        if number % 2:
            assert call_inside("SR.attach", configuration={"sr_uuid": disk.sr[3:]}) == disk.sr
        detached(disk, GUEST)
        assert left() == [], point


@pytest.mark.parametrize("verb", ["activate", "deactivate"])
def test_another_comes(disk: Disk, verb: str) -> None:
    """A half-started tapdisk is nobody's: another VM or dom0 gets the disk. A running one keeps it for its VM."""
    for number, point in enumerate(kill_points("Datapath." + verb, lambda: prepare(disk, verb))):
        other = (OTHER_GUEST, DOM0)[number % 2]
        served = disk.record.tapdisk is not None and bool(disk.record.active)
        call_inside("Datapath.attach", uri=disk.uri, domain=other)
        try:
            call_inside("Datapath.activate", uri=disk.uri, domain=other)
        except VerbError:
            # The verb had ended, or had got the tapdisk to open the image.
            assert served, point
        else:
            assert list(disk.record.active) == [other]
        for domain in (GUEST, other):
            detached(disk, domain)
        assert left() == [], point


def test_while_a_child_runs(disk: Disk) -> None:
    """The child continues and holds the disk's lock until it ends; not so the tapdisk, which never would."""
    number = 1
    while kill("Datapath.activate", "during", number, prepare(disk, "activate")):
        began = time.monotonic()
        call_inside("Datapath.activate", uri=disk.uri, domain=GUEST)
        nbd_write(disk.attach(GUEST), 0, b"x" * 512)
        assert time.monotonic() - began < lock.VDI_LIMIT / 4, number
        wait_for_children()
        assert len(blktap.tapdisks()) == 1, number
        detached(disk, GUEST)
        assert not os.path.exists(disk.record.path)
        number += 1
    detached(disk, GUEST)
    assert number > 3
