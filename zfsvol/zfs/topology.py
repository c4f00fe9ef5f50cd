# SPDX-License-Identifier: LGPL-2.1-only
"""A pool's devices as a tree, known by their guids: what each is, how it is, how many more of it may fail.

zpool prints the guids and the paths of devices in two tables of the same order. Pure except `read`; opens no device.
"""

import os
import re

from zfsvol.errors import InvalidArgument, StorageError
from zfsvol.host import blockdevice
from zfsvol.host.command import READ_LIMIT
from zfsvol.zfs import progress, text
from zfsvol.zfs.pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

DATA, LOG, CACHE, SPARE = "data", "log", "cache", "spare"
DISK, MIRROR = "disk", "mirror"

# The headings of zpool's table. special and dedup hold data that exists nowhere else.
_ROLES = {"logs": LOG, "cache": CACHE, "spares": SPARE, "special": "special", "dedup": "dedup"}
_VITAL = (DATA, "special", "dedup")

# Groups that zpool makes while one disk takes another's place.
_HANDOVERS = ("replacing", "spare")
_UNFILLED = ("resilvering", "awaiting resilver", "rebuilding")

_PARTITION = re.compile(r"-part\d+\Z")
_GROUP = re.compile(r"([a-z]+\d*)(:\S+)?-\d+\Z")
_PARITY = re.compile(r"(?:raidz|draid)(\d)")
_READS = 3


class Vdev:
    """A device of a pool, or a group of devices. `path`: where zpool has found the device last; None for a group."""

    def __init__(self, row: text.Device, guid: str, role: str, parent: "Vdev | None") -> None:
        self.guid = guid
        self.name = row.name
        self.role = role
        self.parent = parent
        self.children: "list[Vdev]" = []
        self.state = row.state
        self.errors = row.errors
        self.slow = row.slow
        self.trim, self.note = progress.trim(row.note)
        group = _GROUP.match(row.name)
        self.kind = group.group(1) if group else DISK
        was = self.note[len("was ") :] if self.note.startswith("was ") else None
        self.path: "str | None" = row.name if row.name.startswith("/") else was

    @property
    def is_disk(self) -> bool:
        """Whether it is a device and no group of devices."""
        return self.kind == DISK

    @property
    def is_raidz(self) -> bool:
        """Whether it is a group with parity, but for draid."""
        return self.kind.startswith("raidz")

    @property
    def is_vital(self) -> bool:
        """Whether the pool is lost without it: it holds data, alone or together with its siblings."""
        return self.role in _VITAL

    @property
    def top(self) -> "Vdev":
        """The group, or single device, of the pool that it belongs to."""
        return self if self.parent is None else self.parent.top

    @property
    def is_good(self) -> bool:
        """Whether it has all its data and works."""
        if self.is_disk:
            return self.state in text.GOOD and not any(word in self.note for word in _UNFILLED)
        if self.kind in _HANDOVERS:
            return any(child.is_good for child in self.children)
        return self.spare_disks >= 0

    @property
    def parity(self) -> int:
        """How many of its devices may fail while all are good."""
        if self.kind == MIRROR:
            return len(self.children) - 1
        found = _PARITY.match(self.kind)
        return int(found.group(1)) if found else 0

    @property
    def spare_disks(self) -> int:
        """How many more of its devices may fail before data is lost; negative if it has lost data already."""
        if self.is_disk:
            return 0 if self.is_good else -1
        return self.parity - sum(not child.is_good for child in self.children)

    @property
    def stable_path(self) -> "str | None":
        """Its path without the number of the partition that zpool made on a whole disk."""
        return None if self.path is None else _PARTITION.sub("", self.path)

    @property
    def title(self) -> str:
        """Its name for people: a path, or mirror-0."""
        return self.stable_path or self.name

    def below(self) -> "Iterator[Vdev]":
        """It and all below it."""
        yield self
        for child in self.children:
            yield from child.below()

    def is_called(self, word: str) -> bool:
        """Whether a person means it by this word: its guid, zpool's name, its path or a part of that, its device."""
        if word in (self.guid, self.name):
            return True
        if self.path is None:
            return False
        names = (self.path, self.stable_path or "")
        if word in names or word in map(os.path.basename, names):
            return True
        device = os.path.join("/dev", word)
        if not os.path.exists(self.path) or not os.path.exists(device):
            return False
        mine = blockdevice.kernel_name(self.path)
        return mine in map(blockdevice.kernel_name, (device, *blockdevice.partitions(device)))


class Topology:
    """The devices of a pool as they were when it was read. `described`: the rest of what zpool says about the pool.

    `printed`: the text that it was read from, as by the function `described`.
    """

    def __init__(self, described: text.Pool, tops: "list[Vdev]") -> None:
        self.described = described
        self.tops = tops
        self.printed = ""

    @property
    def vdevs(self) -> "list[Vdev]":
        """All of them, in zpool's order."""
        return [vdev for top in self.tops for vdev in top.below()]

    @property
    def disks(self) -> "list[Vdev]":
        """Those that are devices, each once: a spare in use is listed twice by zpool."""
        found = {vdev.guid: vdev for vdev in reversed(self.vdevs) if vdev.is_disk}
        return list(found.values())[::-1]

    @property
    def scans(self) -> "list[dict[str, Any]]":
        """The scrub, the resilver or the rebuilds that run or were last, as `progress.scan` describes them."""
        found = map(progress.scan, self.described.scans)
        return [record for record in found if record is not None]

    @property
    def removal(self) -> "dict[str, Any] | None":
        """The removal of a group that runs or was last, as `progress.removal` describes it."""
        return progress.removal(self.described.fields.get("remove", ""))

    @property
    def expansion(self) -> "dict[str, Any] | None":
        """The expansion of a raidz group that runs or was last, as `progress.expansion` describes it."""
        return progress.expansion(self.described.fields.get("expand", ""))

    @property
    def trim(self) -> "dict[str, Any] | None":
        """The trims of its devices together, as `progress.trims` describes them."""
        return progress.trims([disk.trim for disk in self.disks if disk.trim])

    def running(self, kind: str) -> "dict[str, Any] | None":
        """The scan of this kind that runs or is paused."""
        unfinished = (progress.RUNNING, progress.PAUSED)
        return next((scan for scan in self.scans if scan["kind"] == kind and scan["state"] in unfinished), None)

    def find(self, word: str) -> Vdev:
        """The device or group that a person means. Raises InvalidArgument if there is none, or more than one."""
        by_guid = {vdev.guid: vdev for vdev in reversed(self.vdevs) if vdev.is_called(word)}
        found = list(by_guid.values())[::-1]
        if len(found) == 1:
            return found[0]
        pool = self.described.name
        if found:
            titles = ", ".join(f"{vdev.guid} ({vdev.title} {vdev.state})" for vdev in found)
            raise InvalidArgument(f"'{word}' means several devices of the pool {pool}: {titles}. Name one by its guid.")
        titles = ", ".join(vdev.title for vdev in self.vdevs)
        raise InvalidArgument(f"The pool {pool} has no device '{word}'. It has {titles}.")


def build(named: text.Pool, by_guid: text.Pool) -> "Topology | None":
    """The tree by the tables of `zpool status -P` and `zpool status -g`; None if they differ in shape."""
    rows = named.devices
    if [row.depth for row in rows] != [row.depth for row in by_guid.devices]:
        return None
    tops: "list[Vdev]" = []
    path: "list[Vdev]" = []
    role = DATA
    for row, other in list(zip(rows, by_guid.devices))[1:]:
        if row.depth == 0:
            role = _ROLES.get(row.name, row.name)
            continue
        parent = path[row.depth - 2] if row.depth > 1 else None
        vdev = Vdev(row, other.name, role, parent)
        (tops if parent is None else parent.children).append(vdev)
        path[row.depth - 1 :] = [vdev]
    return Topology(named, tops)


def described(pool: Pool) -> str:
    """What `zpool status` says of the pool. Two equal texts describe the same devices in the same states.

    Raises Missing, SRUnavailable; answers also for a suspended pool, if zpool does.
    """
    return pool.read(["zpool", "status", "-P", "-p", "-s", "-t", pool.name])


def read(pool: Pool) -> Topology:
    """The pool's devices now. Raises as `described`."""
    for _ in range(_READS):
        child = pool.start(["zpool", "status", "-g", "-p", pool.name])
        try:
            named = described(pool)
        finally:
            by_guid = pool.finish(child, READ_LIMIT)
        found = build(text.read(named)[0], text.read(by_guid)[0])
        if found is not None:  # else a device came or went between the two
            found.printed = named
            return found
    raise StorageError(f"The devices of the pool {pool.name} keep changing: try again.")
