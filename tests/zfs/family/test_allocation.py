# SPDX-License-Identifier: LGPL-2.1-only
"""What the driver remembers of snapshots: never needed for a right answer, bounded, cleaned of what is gone."""

from pathlib import Path
from typing import Any, Iterator, List

import pytest

from tests.client import call_inside
from tests.model import BLOCK
from tests.zfs.conftest import MIB, Bench
from tests.zfs.family.changes import changes, destroy_data, discard, fill, of, said, sr, tracked
from tests.zfs.family.relatives import (
    destroy,
    snapshot,
    with_nodes,
)
from zfsvol.repository import allocation
from zfsvol.zfs import datasets

__all__ = ["said", "sr"]


class TestMemory:
    def test_it_is_bounded_and_tidy(self, bench: Bench, without_udev: None, monkeypatch: pytest.MonkeyPatch) -> None:
        sr = with_nodes(bench.sr())
        disk = tracked(sr)
        fill(sr, disk, 1, 5)
        taken = [snapshot(sr, disk)]
        for number in range(3):
            fill(sr, disk, number * 4)
            discard(sr, disk, 500)
            taken.append(snapshot(sr, disk))
            changes(sr, taken[-2], taken[-1])
        remembered = list(Path(allocation.DIRECTORY).rglob(f"*/{sr[3:]}/*"))
        assert len(remembered) == 4
        destroy(sr, taken[0])
        changes(sr, taken[1], taken[2])
        assert len(list(Path(allocation.DIRECTORY).rglob(f"*/{sr[3:]}/*"))) == 3
        monkeypatch.setattr(allocation, "_LARGEST_SUM", 0)
        changes(sr, taken[1], taken[2])
        assert list(Path(allocation.DIRECTORY).rglob(f"*/{sr[3:]}/*")) == []
        monkeypatch.setattr(allocation, "_LARGEST", 0)
        assert changes(sr, taken[1], taken[2]) == of(4)
        monkeypatch.undo()
        changes(sr, taken[1], taken[2])
        call_inside("SR.destroy", sr=sr)
        assert not list(Path(allocation.DIRECTORY).rglob(sr[3:]))

    def test_it_reads_no_more_than_it_must(self, sr: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only the increment since the newest content that is known; nothing if the content itself is."""
        disk = tracked(sr)
        fill(sr, disk, 1, 5)
        read: "List[Any]" = []
        sent = datasets.sent

        def counted(dataset: Any, base: "Any", target: str) -> "Iterator[bytes]":
            read.append((base, target))
            return sent(dataset, base, target)

        monkeypatch.setattr(datasets, "sent", counted)
        first, second, third = (snapshot(sr, disk) for _ in range(3))
        destroy_data(sr, first, second, third)
        taken = [f"{sr}/{disk}@{key}" for key in (first, second, third)]
        marks = [f"{sr}/{disk}#cbt-{key}" for key in (first, second)]
        assert read == [(None, taken[0]), (marks[0], taken[1]), (marks[1], taken[2])]
        fourth = snapshot(sr, disk)
        discard(sr, disk, 5)
        changes(sr, fourth, disk)
        del read[:]
        destroy_data(sr, fourth)
        assert read == []
        other = tracked(sr, 2 * MIB)
        fill(sr, other, *range(2 * MIB // BLOCK))
        fifth = snapshot(sr, other)
        fill(sr, other, 9)
        sixth = snapshot(sr, other)
        # There is no hole, so nothing is compared.
        assert changes(sr, fifth, sixth) == of(9)
        assert read == [(f"{sr}/{other}@{fifth}", f"{sr}/{other}@{sixth}")]

    def test_it_keeps_only_what_stays(self, sr: str) -> None:
        """Not what a disk held for the moment of an answer, nor what a snapshot held that is gone."""
        disk = tracked(sr)
        fill(sr, disk, 1, 5)
        first = snapshot(sr, disk)
        discard(sr, disk, 5)
        for _ in range(2):
            changes(sr, first, disk)
        assert len(list(Path(allocation.DIRECTORY).rglob(f"*/{sr[3:]}/*"))) == 1
        destroy(sr, first)
        second = snapshot(sr, disk)
        destroy_data(sr, second)
        assert len(list(Path(allocation.DIRECTORY).rglob(f"*/{sr[3:]}/*"))) == 1

    def test_it_cannot_be_written(self, sr: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(allocation, "DIRECTORY", "/proc/nowhere")
        disk = tracked(sr)
        fill(sr, disk, 0, 100)
        first = snapshot(sr, disk)
        discard(sr, disk, 100)
        assert changes(sr, first, disk) == of(100)
        destroy_data(sr, first)
