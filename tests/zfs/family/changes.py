# SPDX-License-Identifier: LGPL-2.1-only
"""Disks whose blocks change, and the question which ones did; for tests of changed block tracking."""

import base64
import re
import subprocess
from typing import Iterator, List, Set

import pytest

from tests import zvol
from tests.client import call_inside, refused
from tests.model import BIT, BLOCK, bits, noise
from tests.zfs.conftest import MIB
from tests.zfs.family.relatives import (
    create,
    destroy,
    destroy_everything,
    names,
    prop,
    stat,
)
from zfsvol import log

GIB = 1 << 30
LONG = 8 * MIB  # of data: its stream is longer than what a pipe holds
METADATA = "zfsvol:cbt-metadata"
UNKNOWN = "SR_BACKEND_FAILURE_460"


@pytest.fixture
def sr(shared: str) -> "Iterator[str]":
    """The shared SR. After a test it must be well, and empty once its VDIs are destroyed, without any bookmark."""
    yield shared
    # Those that have lost their bookmark are worth a note to `check`.
    destroy(
        shared,
        *(name for name in names(shared) if not re.search("[@#]", name) and prop(METADATA, f"{shared}/{name}") != "-"),
    )
    destroy_everything(shared)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> "List[str]":
    """What the driver logs."""
    lines: "List[str]" = []
    monkeypatch.setattr(log, "info", lines.append)
    return lines


def fill(sr: str, key: str, *blocks: int, seed: int = 1) -> None:
    """Writes blocks of 16 KiB that are not zeros."""
    for block in blocks:
        zvol.write(f"{sr}/{key}", block * BLOCK, noise(seed + block, BLOCK))


def zero(sr: str, key: str, *blocks: int) -> None:
    for block in blocks:
        zvol.write(f"{sr}/{key}", block * BLOCK, bytes(BLOCK))


def discard(sr: str, key: str, *blocks: int) -> None:
    node = zvol.node(f"{sr}/{key}")
    for block in blocks:
        subprocess.run(["blkdiscard", "-o", str(block * BLOCK), "-l", str(BLOCK), node], check=True)


def changes(sr: str, key: str, key2: str, size: int = 0) -> "Set[int]":
    """The numbers of the set bits, for the whole disk. `size`: its size, if it may be gone afterwards."""
    answer = call_inside("Volume.list_changed_blocks", sr=sr, key=key, key2=key2, offset=0, length=-1)
    assert answer["granularity"] == BIT
    bitmap = base64.b64decode(answer["bitmap"])
    assert len(bitmap) == -(-(size or stat(sr, key2)["virtual_size"]) // BIT // 32) * 4
    return bits(bitmap)


def of(*blocks: int) -> "Set[int]":
    """The bits that stand for blocks of 16 KiB."""
    return {block * BLOCK // BIT for block in blocks}


def tracked(sr: str, size: int = GIB) -> str:
    """A new disk with changed block tracking."""
    disk = create(sr, size)
    call_inside("Volume.enable_cbt", sr=sr, key=disk)
    return disk


def destroy_data(sr: str, *keys: str) -> None:
    for key in keys:
        call_inside("Volume.data_destroy", sr=sr, key=key)


def changes_refused(sr: str, key: str, key2: str, code: str = UNKNOWN) -> str:
    """The sentence of the refusal, which must have this code."""
    return refused(code, "Volume.list_changed_blocks", sr=sr, key=key, key2=key2, offset=0, length=-1)
