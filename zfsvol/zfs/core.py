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

_NUMBERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "numbers.lua")

_LIMIT = 20  # seconds


class Numbers:
    """What an SR uses of its pool. Sizes are bytes.

    `logical`: what its data would take without compression. `promised`: the sum of the sizes of its `disks`.
    `compression`: how much smaller compression makes what is stored, such as 1.53; ZFS's own ratio, for all data of
    the SR, snapshots included. Unlike `logical` / `used` it counts neither reservations nor the parity of raidz.
    """

    def __init__(self, found: "dict[str, int]") -> None:
        self.used = found["used"]
        self.available = found["available"]
        self.logical = found["logicalused"]
        self.promised = found["promised"]
        self.disks = found["disks"]
        self.compression = found["compressratio"] / 100


def numbers(pool: Pool, root: str) -> Numbers:
    """The numbers of the SR with this root dataset. Raises SRUnavailable, StorageError. Changes nothing."""
    import libzfs_core  # slow, and not wherever the rest of the service is tested

    with open(_NUMBERS, "rb") as file:
        program = file.read()

    def read() -> str:
        try:
            answer = libzfs_core.lzc_channel_program_nosync(pool.name.encode(), program, params=[root.encode()])
        except Exception as error:  # noqa: BLE001 - it must reach the other process
            return json.dumps(repr(error))
        return json.dumps({name.decode(): value for name, value in (answer or {}).items()})

    try:
        found = json.loads(bounded.call(read, _LIMIT) or '"no answer"')
    except bounded.Stuck:
        raise StorageError(f"The pool {pool.name} has not answered for {_LIMIT} seconds.") from None
    if isinstance(found, str):
        raise StorageError(f"The numbers of {root} cannot be read: {found}")
    if not found:
        raise SRUnavailable(f"The pool {pool.name} holds no dataset {root}.")
    return Numbers(found)
