# SPDX-License-Identifier: LGPL-2.1-only
"""Random sequences of verbs, killed verbs and writes, on real ZFS and on the model: after each step, both are the same.

ZFSVOL_STEPS sets the approximate number of steps. A failure shows the steps that led to it as a script of verbs. It is
not shrunk: that would run the whole sequence hundreds of times.
"""

import copy
import os
import sys
import traceback
from typing import Any, Dict, List, Type

import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, settings, strategies
from hypothesis.errors import StopTest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests import zvol
from tests.client import VerbError, call_inside
from tests.killed import kill_group
from tests.model import BLOCK, GRANULE, Model, Refused, noise, observed, without_lost
from tests.zfs.conftest import Bench, run
from zfsvol.repository import family, repair
from zfsvol.repository.sr import SR
from zfsvol.zfs import pool

STEPS = int(os.environ.get("ZFSVOL_STEPS", "40"))
STEPS_EACH = 30
# Hypothesis begins with examples of very few steps.
SHORT = 6
MOST = 10
LOOK_EVERY = 3

TEXTS = ("", "disk", "n\nö💾", "x" * 9000)
ANY = strategies.integers(0, 99)


@pytest.fixture
def busy_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the wait for a device in use to become idle."""
    monkeypatch.setattr(pool, "_BUSY_LIMIT", 0.2)
    monkeypatch.setattr(pool, "_BUSY_PAUSE", 0.01)


def note(step: str) -> None:
    """Tells a step. pytest shows it if a step fails, and Hypothesis' own note only where the failure comes twice."""
    print(step)


class Volumes(RuleBasedStateMachine):
    """The driver and the model side by side: the base of the state machines, which add the rules."""

    sr = ""  # set by the test: one for all examples

    def __init__(self) -> None:
        super().__init__()
        note("--- a new sequence")
        self.model = Model()
        self.names: "Dict[str, str]" = {}
        self.made: "List[str]" = []
        self.steps = 0

    def any_vdi(self, which: int) -> str:
        """One of the VDIs, or the last one destroyed."""
        there = [key for key in self.made if key in self.model.vdis]
        candidates = there + [key for key in self.made if key not in self.model.vdis][-1:]
        return candidates[which % len(candidates)]

    def any_of(self, which: int, *, snapshots: bool) -> str:
        """One of the snapshots, or of the disks."""
        found = [key for key in self.made if key in self.model.vdis and self.model.vdis[key].is_snapshot == snapshots]
        return found[which % len(found)]

    def has(self, *, snapshots: bool) -> bool:
        return any(vdi.is_snapshot == snapshots for vdi in self.model.vdis.values())

    def zvol(self, key: str) -> str:
        return f"{self.sr}/{key}"

    def name(self, key: str) -> str:
        """The VDI's name in a printed script."""
        return self.names.setdefault(key, f"v{len(self.names) + 1}")

    def look(self, *, into: bool = True) -> "Dict[str, Any]":
        """The driver's state in the form of Model.summary; with the VDIs' contents only if `into`."""
        records = {record["key"]: record for record in call_inside("SR.ls", sr=self.sr)}
        if not into:
            return {key: observed(record, None) for key, record in records.items()}
        contents = zvol.checksums({self.zvol(key): record["virtual_size"] for key, record in records.items()})
        return {key: observed(record, contents[self.zvol(key)]) for key, record in records.items()}

    def verb(self, verb: str, **arguments: Any) -> None:
        """Runs a verb on the driver and the model; both must refuse the same, with the same code."""
        shown = ", ".join(
            f"{name}={self.name(value) if name in ('key', 'snapshot') else repr(value)[:60]}"
            for name, value in arguments.items()
        )
        refusal, answer = None, None
        try:
            answer = call_inside(verb, sr=self.sr, **arguments)
        except VerbError as error:
            refusal = error
        if refusal:
            note(f"{verb}({shown})  # {refusal.code}")
            with pytest.raises(Refused) as refused:
                self.model.carry_out(verb, None, **arguments)
            assert refused.value.code == refusal.code, refusal
            return
        if answer:
            self.made.append(answer["key"])
        note(f"{self.name(answer['key']) + ' = ' if answer else ''}{verb}({shown})")
        self.model.carry_out(verb, answer, **arguments)

    def show_failure(self) -> None:
        """For `teardown`. Hypothesis repeats a sequence that failed and shows only how that ends."""
        kind, _, _ = sys.exc_info()
        if kind is not None and not issubclass(kind, StopTest):
            note(traceback.format_exc())

    def teardown(self) -> None:
        self.show_failure()
        # The clone-on-boot keys lead from one VDI to the next.
        try:
            for key in sorted(self.model.vdis):
                call_inside("Volume.destroy", sr=self.sr, key=key)
            left = run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", self.sr).split()
            assert left == [self.sr]
        finally:
            for name in run("zfs", "list", "-H", "-o", "name", "-t", "volume", "-r", self.sr).split():
                run("zfs", "destroy", "-R", name, check=False)


class Families(Volumes):
    """Everything that Volume verbs can do."""

    def __init__(self) -> None:
        super().__init__()
        self.open: "Dict[str, Any]" = {}

    @precondition(lambda self: len(self.model.vdis) < MOST)
    @rule(text=ANY, size=strategies.integers(1, 3 * GRANULE), sharable=strategies.booleans())
    def create(self, text: int, size: int, sharable: bool) -> None:
        name = TEXTS[text % len(TEXTS)]
        self.verb("Volume.create", name=name, description="d", size=size, sharable=sharable)

    @precondition(lambda self: self.made and len(self.model.vdis) < MOST)
    @rule(which=ANY, verb=strategies.sampled_from(["Volume.snapshot", "Volume.clone"]))
    def derive(self, which: int, verb: str) -> None:
        self.verb(verb, key=self.any_vdi(which))

    @precondition(lambda self: self.has(snapshots=True) and self.has(snapshots=False))
    @rule(which=ANY, to=ANY)
    def revert(self, which: int, to: int) -> None:
        key, snapshot = self.any_of(which, snapshots=False), self.any_of(to, snapshots=True)
        self.verb("Volume.revert", snapshot=snapshot, key=key)

    @precondition(lambda self: self.made)
    @rule(which=ANY, to=ANY)
    def revert_any(self, which: int, to: int) -> None:
        """Three in four are refused."""
        self.verb("Volume.revert", snapshot=self.any_vdi(to), key=self.any_vdi(which))

    @precondition(lambda self: self.made)
    @rule(which=ANY)
    def destroy(self, which: int) -> None:
        self.verb("Volume.destroy", key=self.any_vdi(which))

    @precondition(lambda self: self.has(snapshots=True))
    @rule(which=ANY)
    def destroy_data(self, which: int) -> None:
        self.verb("Volume.data_destroy", key=self.any_of(which, snapshots=True))

    @precondition(lambda self: self.made)
    @rule(which=ANY, size=strategies.integers(1, 4 * GRANULE))
    def resize(self, which: int, size: int) -> None:
        self.verb("Volume.resize", key=self.any_vdi(which), new_size=size)

    @precondition(lambda self: self.made)
    @rule(which=ANY, what=ANY, to=ANY)
    def change(self, which: int, what: int, to: int) -> None:
        """Changes a name, a description or a key."""
        text = TEXTS[to % len(TEXTS)]
        verbs = [
            ("Volume.set_name", {"new_name": text}),
            ("Volume.set_description", {"new_description": text}),
            ("Volume.set", {"k": "vdi-type", "v": text}),
            ("Volume.set", {"k": "k" * 300, "v": text}),
            ("Volume.unset", {"k": "vdi-type"}),
            ("Volume.enable_cbt", {}),
            ("Volume.disable_cbt", {}),
        ]
        verb, arguments = verbs[what % len(verbs)]
        self.verb(verb, key=self.any_vdi(which), **arguments)

    @precondition(lambda self: self.made)
    @rule(which=ANY, temporary=ANY)
    def set_clone_on_boot(self, which: int, temporary: int) -> None:
        self.verb("Volume.set", key=self.any_vdi(which), k="clone-on-boot", v=self.any_vdi(temporary))

    @precondition(lambda self: self.has(snapshots=False))
    @rule(
        which=ANY,
        block=strategies.integers(0, GRANULE // BLOCK - 8),
        blocks=strategies.integers(1, 8),
        seed=strategies.integers(0, 1 << 30),
    )
    def write(self, which: int, block: int, blocks: int, seed: int) -> None:
        key, data = self.any_of(which, snapshots=False), noise(seed, blocks * BLOCK)
        note(f"write({self.name(key)}, offset={block * BLOCK}, noise({seed}, {len(data)}))")
        zvol.write(self.zvol(key), block * BLOCK, data)
        self.model.write(key, block * BLOCK, data)

    @precondition(lambda self: self.model.vdis)
    @rule(which=ANY)
    def open_or_close(self, which: int) -> None:
        key = self.any_vdi(which)
        if key in self.open:
            note(f"close({self.name(key)})")
            self.open.pop(key).__exit__(None, None, None)
            self.model.opened.remove(key)
        elif key in self.model.vdis:
            note(f"open({self.name(key)})")
            self.open[key] = zvol.opened(self.zvol(key))
            self.open[key].__enter__()
            self.model.opened.add(key)

    @precondition(lambda self: self.made and not self.open and len(self.model.vdis) < MOST)
    @rule(
        which=ANY,
        to=ANY,
        verb=strategies.sampled_from([f"Volume.{verb}" for verb in ("revert", "destroy", "clone", "snapshot")]),
        border=strategies.integers(1, 6),
        after=strategies.booleans(),
    )
    def kill(self, which: int, to: int, verb: str, border: int, after: bool) -> None:
        """Kills a verb before or after one of its children: it has happened completely or not at all."""
        arguments = {"key": self.any_vdi(which)}
        if verb == "Volume.revert":
            arguments["snapshot"] = self.any_vdi(to)
        note(f"{verb}({self.name(arguments['key'])}) killed {'after' if after else 'before'} change {border}")
        kill_group(verb, border, after=after, sr=self.sr, **arguments)
        found = self.look()
        done = copy.deepcopy(self.model)
        new = sorted(set(found) - set(self.model.vdis))
        try:
            done.carry_out(verb, {"key": new[0]} if new else None, **arguments)
        except Refused:
            pass
        possible = [model for model in (self.model, done) if without_lost(model.summary()) == without_lost(found)]
        assert possible
        self.model = possible[0]
        self.model.adopt_keys(found)
        self.made += new
        assert call_inside("SR.attach", configuration={"sr_uuid": self.sr[-36:]}) == self.sr

    @invariant()
    def they_are_the_same(self) -> None:
        self.steps += 1
        into = self.steps % LOOK_EVERY == 0
        expected = self.model.summary()
        if not into:
            expected = {key: {**vdi, "content": None} for key, vdi in expected.items()}
        assert self.look(into=into) == expected
        check(self.sr)

    def teardown(self) -> None:
        for manager in self.open.values():
            manager.__exit__(None, None, None)
        super().teardown()


def check(sr: str) -> None:
    """Checks that nothing is half done and nothing unneeded remains."""
    assert [finding.text for finding in repair.inspect(family.read(SR(sr))) if finding.is_wrong] == []


def run_machine(machine: "Type[Volumes]", steps: int, each: int) -> None:
    """Runs examples of `each` steps, about `steps` in all."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=SHORT + steps // each,
            stateful_step_count=each,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_families(bench: Bench, busy_at_once: None, without_udev: None) -> None:
    Families.sr = bench.sr()
    run("zfs", "set", "volmode=dev", Families.sr)
    run_machine(Families, STEPS, STEPS_EACH)
