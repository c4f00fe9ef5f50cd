# SPDX-License-Identifier: LGPL-2.1-only
"""Random families, with writes, discards, snapshots, clones, reverts, destroyed data and kills; after each step the
driver is asked what changed between two of the VDIs.

The model knows of each block which write it was. An answer must have all blocks that differ, and none that both VDIs
have from the same write. Only if a base was lost may it have more, which the driver's log must say.

ZFSVOL_STEPS sets the approximate number of steps.
"""

import base64
import copy
import os
import shutil
import subprocess
from typing import Any, Dict, List

import pytest

pytest.importorskip("hypothesis")

from hypothesis import strategies
from hypothesis.stateful import invariant, precondition, rule

from tests import zvol
from tests.client import call_inside, refused
from tests.killed import kill_group
from tests.model import BLOCK, GRANULE, Refused, bits, noise
from tests.zfs.conftest import Bench, run
from tests.zfs.test_model import ANY, MOST, Volumes, busy_at_once, check, note, run_machine
from zfsvol import log
from zfsvol.repository import allocation

__all__ = ["busy_at_once"]

STEPS = int(os.environ.get("ZFSVOL_STEPS", "40"))
STEPS_EACH = 20
# What the driver logs of an answer that may be too wide.
WIDE = ("all holes in it counted", "for an older one without data", "nobody knows")


class Changes(Volumes):
    """The verbs that make and change families, and questions after what changed."""

    said: "List[str]"  # set by the test: what the driver logs

    @precondition(lambda self: len(self.model.vdis) < 2)
    @rule()
    def create(self) -> None:
        self.verb("Volume.create", name="disk", description="", size=2 * GRANULE, sharable=False)
        self.verb("Volume.enable_cbt", key=self.made[-1])

    @precondition(lambda self: self.made and len(self.model.vdis) < MOST)
    @rule(which=ANY, verb=strategies.sampled_from(["Volume.snapshot", "Volume.snapshot", "Volume.clone"]))
    def derive(self, which: int, verb: str) -> None:
        self.verb(verb, key=self.any_vdi(which))
        if verb == "Volume.clone" and self.made[-1] in self.model.vdis:
            self.verb("Volume.enable_cbt", key=self.made[-1])

    @precondition(lambda self: self.has(snapshots=True) and self.has(snapshots=False))
    @rule(which=ANY, to=ANY)
    def revert(self, which: int, to: int) -> None:
        self.verb("Volume.revert", snapshot=self.any_of(to, snapshots=True), key=self.any_of(which, snapshots=False))

    @precondition(lambda self: len(self.model.vdis) > 3)
    @rule(which=ANY)
    def destroy(self, which: int) -> None:
        self.verb("Volume.destroy", key=self.any_vdi(which))

    @precondition(lambda self: self.has(snapshots=True))
    @rule(which=ANY)
    def destroy_data(self, which: int) -> None:
        self.verb("Volume.data_destroy", key=self.any_of(which, snapshots=True))

    @precondition(lambda self: self.has(snapshots=False))
    @rule(which=ANY)
    def grow(self, which: int) -> None:
        key = self.any_of(which, snapshots=False)
        size = len(self.model.vdis[key].content) + GRANULE
        if size <= 4 * GRANULE:
            self.verb("Volume.resize", key=key, new_size=size)

    @precondition(lambda self: self.has(snapshots=False))
    @rule(
        which=ANY,
        start=strategies.integers(0, 4 * GRANULE // BLOCK),
        blocks=strategies.integers(1, 8),
        kind=strategies.sampled_from(["data", "data", "zeros", "discard"]),
        seed=strategies.integers(0, 1 << 30),
    )
    def write(self, which: int, start: int, blocks: int, kind: str, seed: int) -> None:
        key = self.any_of(which, snapshots=False)
        length = blocks * BLOCK
        offset = min(start * BLOCK, len(self.model.vdis[key].content) - length)
        data = noise(seed, length) if kind == "data" else bytes(length)
        note(f"{kind}({self.name(key)}, block {offset // BLOCK}, {blocks} blocks)")
        if kind == "discard":
            node = zvol.node(self.zvol(key))
            subprocess.run(["blkdiscard", "-o", str(offset), "-l", str(length), node], check=True)
        else:
            zvol.write(self.zvol(key), offset, data)
        self.model.write(key, offset, data)

    @rule()
    def forget(self) -> None:
        """Deletes what the driver remembers, which it may need for no right answer."""
        note("rm -r " + allocation.DIRECTORY)
        shutil.rmtree(allocation.DIRECTORY, ignore_errors=True)

    @precondition(lambda self: self.has(snapshots=True))
    @rule(
        which=ANY,
        to=ANY,
        verb=strategies.sampled_from(["Volume.data_destroy", "Volume.list_changed_blocks", "Volume.destroy"]),
        border=strategies.integers(1, 6),
        after=strategies.booleans(),
    )
    def kill(self, which: int, to: int, verb: str, border: int, after: bool) -> None:
        """Kills a verb before or after one of its changes: it has happened completely or not at all."""
        arguments: "Dict[str, Any]" = {"key": self.any_of(which, snapshots=True)}
        if verb == "Volume.list_changed_blocks":
            arguments.update(key2=self.any_vdi(to), offset=0, length=-1)
        note(f"{verb}({self.name(arguments['key'])}) killed {'after' if after else 'before'} change {border}")
        kill_group(verb, border, after=after, sr=self.sr, **arguments)
        done = copy.deepcopy(self.model)
        if verb != "Volume.list_changed_blocks":
            try:
                done.carry_out(verb, None, **arguments)
            except Refused:
                pass
        # Before it the zvol that replaces a VDI's may still have another name.
        assert call_inside("SR.attach", configuration={"sr_uuid": self.sr[-36:]}) == self.sr
        found = self.look()
        possible = [model for model in (self.model, done) if model.summary() == found]
        assert possible
        self.model = possible[0]

    @precondition(lambda self: self.made)
    @rule(which=ANY, to=ANY)
    def ask(self, which: int, to: int) -> None:
        self.compare(self.any_vdi(which), self.any_vdi(to))

    @precondition(lambda self: len(self.model.vdis) > 1)
    @rule(which=ANY, to=ANY)
    def ask_both_ways(self, which: int, to: int) -> None:
        self.compare(self.any_vdi(which), self.any_vdi(to))
        self.compare(self.any_vdi(to), self.any_vdi(which))

    def compare(self, key: str, key2: str) -> None:
        """Asks the driver and the model what changed from `key` to `key2`."""
        note(f"list_changed_blocks({self.name(key)}, {self.name(key2)})")
        try:
            must, may = self.model.changes(key, key2)
        except Refused as expected:
            refused(expected.code, "Volume.list_changed_blocks", sr=self.sr, key=key, key2=key2, offset=0, length=-1)
            return
        answer = call_inside("Volume.list_changed_blocks", sr=self.sr, key=key, key2=key2, offset=0, length=-1)
        found = bits(base64.b64decode(answer["bitmap"]))
        how = self.said[-1]
        note(f"  {sorted(found)}: {how}")
        assert must <= found
        if any(word in how for word in WIDE):
            assert not self.model.vdis[key].has_data
        else:
            assert found <= may

    @invariant()
    def they_are_the_same(self) -> None:
        self.steps += 1
        if self.steps % 4 == 0:
            assert self.look() == self.model.summary()
        check(self.sr)


def test_changes(bench: Bench, busy_at_once: None, without_udev: None, monkeypatch: pytest.MonkeyPatch) -> None:
    Changes.sr = bench.sr()
    Changes.said = []
    monkeypatch.setattr(log, "info", Changes.said.append)
    run("zfs", "set", "volmode=dev", Changes.sr)
    run_machine(Changes, STEPS, STEPS_EACH)
