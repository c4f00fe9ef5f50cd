# SPDX-License-Identifier: LGPL-2.1-only
"""What one look at an SR sees: the state of its pool, and how full it is."""

import os
import time

from zfsvol import log, naming, properties
from zfsvol.errors import StorageError
from zfsvol.host import blockdevice
from zfsvol.repository.sr import SR
from zfsvol.zfs import core, kernel, topology
from zfsvol.zfs.core import Numbers
from zfsvol.zfs.topology import Topology, Vdev

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, TypeVar

    _Read = TypeVar("_Read")


_AGAIN = 600  # seconds

# Of the root. `creation` is seconds since 1970.
_PROPERTIES = (naming.SR_NAME, naming.SR_SCRUB, naming.SR_TRIM, "creation")


class Sight:
    """The result of a look, which is never changed. What could not be read in time is None.

    `time`: seconds since 1970. `state`: the pool's state; None if it is not imported. `topology`: its devices.
    `numbers`: see `core.numbers`. `fragmentation`: of the pool's free space, from 0 to 1. `autotrim`: whether ZFS trims
    all the time. `labels`: what people know the disks by that are there, by guid.
    """

    def __init__(
        self,
        when: float,
        state: "str | None",
        topology_: "Topology | None" = None,
        numbers: "Numbers | None" = None,
        settings: "tuple[float | None, bool | None]" = (None, None),
        labels: "dict[str, str] | None" = None,
    ) -> None:
        self.time = when
        self.state = state
        self.topology = topology_
        self.numbers = numbers
        self.fragmentation, self.autotrim = settings
        self.labels = labels or {}

    @property
    def name(self) -> str:
        """The SR's name; "" if it could not be read."""
        return properties.text(self.numbers.properties, naming.SR_NAME) if self.numbers is not None else ""


class Looker:
    """Looks at one SR. What cannot have changed since the last look is not asked for again."""

    def __init__(self, sr: SR) -> None:
        self._sr = sr
        self._topology: "Topology | None" = None
        self._labels: "dict[str, str]" = {}
        self._numbers: "Numbers | None" = None
        self._settings: "tuple[float | None, bool | None]" = (None, None)
        self._read_at = 0.0  # of these two

    def look(self, *, changed: bool = True) -> Sight:
        """Looks. May take as long as the pool needs to answer, or some minutes if it does not.

        `changed`: since the last look, something may have changed the SR's disks or settings, or written to it. Others
        may fill the pool meanwhile, so its numbers are read again after some minutes in any case.
        """
        now = time.time()
        state = kernel.state(self._sr.pool)
        found = _read(self._devices, self._sr) if state is not None else None
        if found is not None:
            state = found.described.state  # of the same moment as the devices' states
        if state in (None, kernel.SUSPENDED):
            return Sight(now, state, found, labels=self._labels)
        if changed or self._numbers is None or not 0 <= now - self._read_at < _AGAIN:
            self._numbers = _read(lambda: core.numbers(self._sr.zfs, self._sr.dataset, _PROPERTIES), self._sr)
            self._settings = _read(lambda: _settings(self._sr), self._sr) or (None, None)
            self._read_at = now
        return Sight(now, state, found, self._numbers, self._settings, self._labels)

    def _devices(self) -> "Topology | None":
        if self._topology is None or topology.described(self._sr.zfs) != self._topology.printed:
            self._topology = topology.read(self._sr.zfs)
            self._labels = {disk.guid: _label(disk) for disk in self._topology.disks if _is_there(disk)}
        return self._topology


def _settings(sr: SR) -> "tuple[float | None, bool | None]":
    percent, autotrim = sr.zfs.values("fragmentation", "autotrim")
    # "-" if the pool does not know it
    return int(percent.rstrip("%")) / 100 if percent.rstrip("%").isdigit() else None, autotrim == "on"


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
