# SPDX-License-Identifier: LGPL-2.1-only
"""What the kernel counts: reads and writes of datasets and of their device nodes, the use of ZFS's memory.

Reads files of /proc and /sys, which never wait for a disk, and starts no child. All counters grow until what they
count goes away: a zvol's with its device node, a pool's with its export.
"""

import os

from zfsvol.host import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Hashable

_KSTAT = "/proc/spl/kstat/zfs"
_BLOCK = "/sys/block"
_OBJSET = "objset-"

_OF_DATASET = ("dataset_name", "nread", "nwritten", "reads", "writes")
_OF_MEMORY = ("size", "hits", "misses", "iohits")

# Which dataset a file belongs to is learnt once, and again at every so manieth search: a zvol that was renamed, hidden
# and shown again between two readings has its file again, with another name inside.
_SEARCHES = 120


class Traffic:
    """A dataset's counters since `born`: when the kernel began to count. Bytes, and requests of its users."""

    def __init__(self, born: int, found: "dict[str, str]") -> None:
        self.born = born
        self.bytes_read = int(found["nread"])
        self.bytes_written = int(found["nwritten"])
        self.reads = int(found["reads"])
        self.writes = int(found["writes"])


class Datasets:
    """The counters of datasets: of mounted file systems, and of zvols with a device node (module/zfs/dataset_kstats.c).

    Each is a file `objset-0x…`, whose name does not tell the dataset, but whose content does.
    """

    def __init__(self) -> None:
        self._files: "dict[str, dict[str, str]]" = {}  # by pool: the dataset of each file
        self._searches = 0

    def read(self, wanted: "Iterable[str]") -> "dict[str, Traffic]":
        """The counters of those of the datasets that have any, by dataset.

        Each reading opens one file per dataset; if one has none, the pool's other files are looked at, once each.
        """
        by_pool: "dict[str, set[str]]" = {}
        for dataset in wanted:
            by_pool.setdefault(dataset.partition("/")[0], set()).add(dataset)
        self._files = {pool: known for pool, known in self._files.items() if pool in by_pool}
        found: "dict[str, Traffic]" = {}
        for pool, datasets in by_pool.items():
            known = self._files.setdefault(pool, {})
            for name in [name for name, dataset in known.items() if dataset in datasets]:
                self._open(pool, name, found)
            if datasets - set(found):
                self._search(pool, found)
        return {dataset: traffic for dataset, traffic in found.items() if dataset in by_pool[dataset.partition("/")[0]]}

    def _search(self, pool: str, found: "dict[str, Traffic]") -> None:
        known = self._files[pool]
        self._searches += 1
        names = {name for name in files.names(os.path.join(_KSTAT, pool)) if name.startswith(_OBJSET)}
        for name in set(known) - names:
            del known[name]
        again = names if self._searches % _SEARCHES == 0 else names - set(known)
        for name in again:
            self._open(pool, name, found)

    def _open(self, pool: str, name: str, found: "dict[str, Traffic]") -> None:
        """Reads a file, unless it has just vanished, and notes whose it is."""
        try:
            born, values = _kstat(os.path.join(_KSTAT, pool, name), _OF_DATASET)
            dataset = values["dataset_name"]
            found[dataset] = Traffic(born, values)
        except (OSError, LookupError, ValueError):
            return
        self._files[pool][name] = dataset


def _kstat(path: str, names: "Iterable[str]") -> "tuple[int, dict[str, str]]":
    """When the kernel began to count (nanoseconds), and those of these values of a kstat that it has, by name.

    The first line's sixth number is the time, the second line has titles, each other one a name, a type and a value.
    The ARC's has a hundred lines more than anybody needs, so each name is looked for. Raises OSError, LookupError.
    """
    text = files.proc_text(path)
    found: "dict[str, str]" = {}
    for name in names:
        _, is_there, rest = text.partition(f"\n{name} ")
        if is_there:
            found[name] = rest.partition("\n")[0].split(None, 1)[1].rstrip()
    return int(text.split(None, 6)[5]), found


class Device:
    """A device node's counters: requests that ended, the milliseconds that they took in all, and those not ended yet.

    The kernel measures times in its clock's ticks, up to 10 ms long: of a few requests the mean is vague.
    """

    def __init__(self, fields: "list[int]") -> None:
        # Documentation/block/stat.rst.
        self.reads, self.read_time = fields[0], fields[3]
        self.writes, self.write_time = fields[4], fields[7]
        self.waiting = fields[8]


def device(node: str) -> "Device | None":
    """The counters of a device node, /dev/zd16; None if there is no such device."""
    path = os.path.join(_BLOCK, os.path.basename(node), "stat")
    try:
        return Device([int(word) for word in files.proc_text(path).split()])
    except (OSError, LookupError, ValueError):
        return None


class Memory:
    """ZFS's cache in the host's memory (ARC). `size`: bytes. `hits`, `misses`: blocks asked for since the module is
    loaded, which were in it and which were not.
    """

    def __init__(self, found: "dict[str, str]") -> None:
        self.size = int(found["size"])
        self.hits = int(found["hits"])
        # 2.2 and later count those apart that somebody else was just reading: they had to wait, too.
        self.misses = int(found["misses"]) + int(found.get("iohits", 0))


def memory() -> "Memory | None":
    """The state of the ARC; None if the module is not loaded."""
    try:
        return Memory(_kstat(os.path.join(_KSTAT, "arcstats"), _OF_MEMORY)[1])
    except (OSError, LookupError, ValueError):
        return None


class Meter:
    """By how much counters grew from one reading to the next, without a jump when they begin or start again."""

    def __init__(self) -> None:
        self._last: "dict[Hashable, tuple[int, tuple[int, ...]]]" = {}

    def grown(self, readings: "dict[Hashable, tuple[int, tuple[int, ...]]]") -> "dict[Hashable, tuple[int, ...]]":
        """The growth of each thing's counters since the last call. `readings`: when they began, and the counters.

        What was not there at the last call, began anew since, or has a counter that went back, is left out.
        """
        grown: "dict[Hashable, tuple[int, ...]]" = {}
        for key, (born, counters) in readings.items():
            before = self._last.get(key)
            if before is not None and before[0] == born:
                differences = tuple(now - then for now, then in zip(counters, before[1]))
                if min(differences) >= 0:
                    grown[key] = differences
        self._last = dict(readings)
        return grown
