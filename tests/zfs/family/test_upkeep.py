# SPDX-License-Identifier: LGPL-2.1-only
"""The service does what verbs leave for later, soon after a change, and makes no verb wait for it."""

from typing import Any, Callable, List

import pytest

from tests.client import call_inside
from tests.zfs.conftest import Bench, run
from tests.zfs.family.relatives import Members, create, destroy, findings, prop, require_well
from tests.zfs.family.test_repair import HALF_DONE
from zfsvol.errors import LockTimeout, SRUnavailable
from zfsvol.host import command, files, lock, xen
from zfsvol.repository import family
from zfsvol.repository import record as records
from zfsvol.repository.sr import ALONE, SR
from zfsvol.service.upkeep import Upkeep
from zfsvol.zfs import datasets

QUIET, LATEST, RETRY, USERS = 10, 300, 60, 600


class Kept:
    """The upkeep of an SR, with a clock that the test sets. Its first look, which it has at its start, is over."""

    def __init__(self, sr: str) -> None:
        self.now = 1000.0
        self.upkeep = Upkeep(SR(sr), lambda: self.now)
        self.upkeep.run()
        self.after(QUIET)

    def after(self, seconds: float, *, changing: bool = False) -> None:
        """Lets time pass, second by second, with or without changes meanwhile."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1
            if changing:
                self.upkeep.note_change()
            self.upkeep.run()


@pytest.fixture
def kept(sr: str) -> Kept:
    return Kept(sr)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> "List[str]":
    """The commands that are started from now on."""
    started: "List[str]" = []
    start = command.Child.__init__

    def noted(child: command.Child, argv: "List[str]", **how: Any) -> None:
        started.append(" ".join(argv[:2]))
        start(child, argv, **how)

    monkeypatch.setattr(command.Child, "__init__", noted)
    return started


# Of each kind one: test_repair.py has them all, and the service calls the same code.
@pytest.mark.parametrize("half_done", HALF_DONE[::4])
def test_what_is_half_done(sr: str, kept: Kept, half_done: "Callable[[str, Members], str]") -> None:
    members = Members.made(sr)
    half_done(sr, members)
    left = findings(sr)
    assert left
    kept.upkeep.note_change()
    kept.after(QUIET - 1)
    assert findings(sr) == left
    kept.after(2)
    require_well(sr)


def test_at_its_start(sr: str) -> None:
    run("zfs", "create", "-s", "-V", "1G", f"{sr}/{files.new_uuid()}")
    Kept(sr)
    require_well(sr)


def test_nothing_is_started_while_nothing_changes(kept: Kept, commands: "List[str]") -> None:
    kept.after(USERS - QUIET - 2)
    assert commands == []


def test_while_changes_never_end(sr: str, kept: Kept) -> None:
    members = Members.made(sr)
    HALF_DONE[0](sr, members)
    kept.after(LATEST - 1, changing=True)
    assert findings(sr) != []
    kept.after(3, changing=True)
    require_well(sr)


def test_while_a_verb_has_the_lock(sr: str, kept: Kept) -> None:
    HALF_DONE[0](sr, Members.made(sr))
    kept.upkeep.note_change()
    with SR(sr).locked("change"):
        kept.after(2 * QUIET)
        assert findings(sr) != []
    kept.after(RETRY - QUIET - 2)
    assert findings(sr) != []
    kept.after(4)
    require_well(sr)


def test_a_verb_does_not_queue_behind_it(sr: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a verb shares the lock, the upkeep does not wait for it: others may share it, too."""
    with SR(sr).locked("change"):
        with pytest.raises(LockTimeout), SR(sr).unused():
            pass
        create(sr)
    monkeypatch.setattr(lock, "SR_LIMIT", 0.1)
    with SR(sr).unused(), pytest.raises(LockTimeout), SR(sr).locked(ALONE):
        pass


def test_a_slow_look_is_followed_by_a_long_pause(sr: str, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    read = family.read

    def slow(of: SR) -> Any:
        kept.now += 30
        return read(of)

    monkeypatch.setattr(family, "read", slow)
    kept.upkeep.note_change()
    kept.after(QUIET + 32)
    monkeypatch.undo()
    HALF_DONE[0](sr, Members.made(sr))
    kept.upkeep.note_change()
    kept.after(20 * 30 - 60)
    assert findings(sr) != []
    kept.after(60)
    require_well(sr)


def test_a_failure_is_tried_again(sr: str, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    HALF_DONE[0](sr, Members.made(sr))
    kept.upkeep.note_change()

    def fails(_sr: SR) -> Any:
        raise SRUnavailable("no answer")

    monkeypatch.setattr(family, "read", fails)
    with pytest.raises(SRUnavailable):
        kept.after(QUIET + 2)
    monkeypatch.undo()
    kept.after(RETRY + 2)
    require_well(sr)


def test_users_that_are_gone(sr: str, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    key = create(sr)
    run("zfs", "set", "zfsvol:datapath=blkback", sr)
    call_inside("Datapath.attach", uri=SR(sr).uri(key), domain="7")
    call_inside("Datapath.activate", uri=SR(sr).uri(key), domain="7")
    monkeypatch.setattr(xen, "gone", lambda domids: domids)
    kept.after(USERS - 2 * QUIET)
    assert records.read(SR(sr), key).active == {"7": "rw"}
    kept.after(2 * QUIET)
    assert records.read(SR(sr), key).attached == {}
    run("zfs", "inherit", "zfsvol:datapath", sr)
    destroy(sr, key)


def test_nodes_that_nobody_needs(bench: Bench) -> None:
    sr = bench.sr()
    key = create(sr)
    kept = Kept(sr)
    run("zfs", "set", "volmode=dev", f"{sr}/{key}")
    kept.upkeep.note_change()
    kept.after(QUIET + 2)
    assert datasets.with_own_volmode(SR(sr).zfs, sr) == {}
    assert prop("volmode", f"{sr}/{key}") == "none"
