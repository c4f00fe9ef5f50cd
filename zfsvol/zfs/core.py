# SPDX-License-Identifier: LGPL-2.1-only
"""Reads a pool through libzfs_core, without a zfs command. Only for long-lived processes: its import takes long.

A call may wait for a disk for ever, so each is made in a process of its own (`host.bounded`). That one opens /dev/zfs;
this process never does, so it does not keep the kernel module in use.
"""

import json
import os

from zfsvol.errors import SRUnavailable, StorageError
from zfsvol.host import bounded
from zfsvol.zfs.pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_NUMBERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "numbers.lua")

_LIMIT = 20  # seconds


class Numbers:
    """What an SR uses of its pool. Sizes are bytes.

    `promised`: what its thin disks may still grow by. `disks`: how many it has, snapshots included. `compression`: how
    much smaller compression makes what is stored, such as 1.53; ZFS's own ratio, for all data of the SR, snapshots
    included, which counts neither reservations nor the parity of raidz. `properties`: of its root, as texts.
    """

    def __init__(self, found: "dict[str, Any]") -> None:
        self.used: int = found["used"]
        self.available: int = found["available"]
        self.promised: int = found["promised"]
        self.disks: int = found["disks"]
        self.compression: float = found["compressratio"] / 100
        self.properties = {name: str(value) for name, value in found["properties"].items()}

    @property
    def total(self) -> int:
        """The space that the SR may use, or uses."""
        return self.used + self.available

    @property
    def filled(self) -> float:
        """How much of `total` it uses, from 0 to 1."""
        return self.used / self.total if self.total else 0.0

    @property
    def promised_ratio(self) -> float:
        """How much of `total` it would use if all its disks were full: above 1 there is too little space for that."""
        return (self.used + self.promised) / self.total if self.total else 0.0


def numbers(pool: Pool, root: str, properties: "Sequence[str]" = ()) -> Numbers:
    """The numbers of the SR with this root dataset, and these properties of the root, if set.

    Raises SRUnavailable, StorageError. Changes nothing.
    """
    import libzfs_core  # slow, and not wherever the rest of the service is tested

    with open(_NUMBERS, "rb") as file:
        program = file.read()

    def read() -> str:
        words = [word.encode() for word in (root, *properties)]
        try:
            answer = libzfs_core.lzc_channel_program_nosync(pool.name.encode(), program, params=words)
        except Exception as error:  # noqa: BLE001 - it must reach the other process
            return json.dumps(repr(error))
        return json.dumps(_texts(answer or {}))

    try:
        found = json.loads(bounded.call(read, _LIMIT) or '"no answer"')
    except bounded.Stuck:
        raise StorageError(f"The pool {pool.name} has not answered for {_LIMIT} seconds.") from None
    if isinstance(found, str):
        raise StorageError(f"The numbers of {root} cannot be read: {found}")
    if not found:
        raise SRUnavailable(f"The pool {pool.name} holds no dataset {root}.")
    return Numbers(found)


def _texts(value: "Any") -> "Any":
    """The answer of a channel program with texts in the place of bytes."""
    if isinstance(value, dict):
        return {_texts(name): _texts(inner) for name, inner in value.items()}
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
