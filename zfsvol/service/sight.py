# SPDX-License-Identifier: LGPL-2.1-only
"""What one look at an SR sees: the state of its pool, and how full it is."""

import os
import time

from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.host import blockdevice
from zfsvol.repository.sr import SR
from zfsvol.zfs import core, kernel, text, topology
from zfsvol.zfs.core import Numbers
from zfsvol.zfs.topology import Topology, Vdev

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, TypeVar

    _Read = TypeVar("_Read")


class Sight:
    """The result of a look, which is never changed.

    `time`: seconds since 1970. `state`: the pool's state in the kernel; None if it is not imported. `topology`: its
    devices; None if zpool does not tell them in time. `numbers`: see `core.numbers`; None likewise. `fragmentation`:
    of the pool's free space, from 0 to 1; None likewise. `labels`: what people know the disks by that are there, by guid.
    """

    def __init__(
        self,
        when: float,
        state: "str | None",
        topology_: "Topology | None",
        numbers: "Numbers | None",
        fragmentation: "float | None",
        labels: "dict[str, str]",
    ) -> None:
        self.time = when
        self.state = state
        self.topology = topology_
        self.numbers = numbers
        self.fragmentation = fragmentation
        self.labels = labels

    @property
    def status(self) -> "text.Pool | None":
        """What `zpool status` says; None likewise."""
        return None if self.topology is None else self.topology.described

    @property
    def space_used(self) -> "float | None":
        """Percent of the space that the SR may use; None likewise."""
        if self.numbers is None or self.numbers.used + self.numbers.available == 0:
            return None
        return 100 * self.numbers.used / (self.numbers.used + self.numbers.available)


def look(sr: SR) -> Sight:
    """Looks at the SR. May take as long as its pool needs to answer, or some minutes if it does not."""
    now = time.time()
    state = kernel.state(sr.pool)
    found = numbers = fragmentation = None
    if state is not None:
        found = _read(lambda: topology.read(sr.zfs), sr)
    if state not in (None, kernel.SUSPENDED):
        numbers = _read(lambda: core.numbers(sr.zfs, sr.dataset), sr)
        fragmentation = _read(lambda: _fragmentation(sr), sr)
    disks = found.disks if found is not None else []
    labels = {disk.guid: _label(disk) for disk in disks if _is_there(disk)}
    return Sight(now, state, found, numbers, fragmentation, labels)


def _fragmentation(sr: SR) -> "float | None":
    (percent,) = sr.zfs.values("fragmentation")
    return int(percent.rstrip("%")) / 100 if percent.rstrip("%").isdigit() else None  # "-" if the pool does not know it


def _is_there(disk: Vdev) -> bool:
    return disk.path is not None and os.path.exists(disk.path)


def _label(disk: Vdev) -> str:
    path = str(disk.stable_path)
    model, serial = blockdevice.model_and_serial(path)
    about = ", ".join(filter(None, (model, f"serial number {serial}" if serial else "")))
    return f"{blockdevice.stable_name(path)} ({about})" if about else blockdevice.stable_name(path)


def _read(read: "Callable[[], _Read]", sr: SR) -> "_Read | None":
    try:
        return read()
    except StorageError as error:
        log.warning(f"{sr.dataset}: {error}")
        return None


def _fragmentation(sr: SR) -> "float | None":
    try:
        (percent,) = sr.zfs.values("fragmentation")
    except (StorageError, ValueError) as error:
        log.warning(f"{sr.pool}: 'zpool list' cannot be read: {error}")
        return None
    return int(percent) / 100 if percent.isdigit() else None  # "-" of a pool that does not know it
