# SPDX-License-Identifier: LGPL-2.1-only
"""Statistics of SRs, for xapi's lists and Xen Orchestra's graphs: every five seconds what the kernel counts, and what
the followers saw at their last look.

Called in the supervisor's thread, it never waits: it reads memory, /proc, /sys and the records of attached disks.
"""

import os
import time

from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.repository import record as records
from zfsvol.repository.record import NODE, Record
from zfsvol.repository.sr import SR
from zfsvol.service import sources
from zfsvol.service.follower import Follower
from zfsvol.service.guests import Guests
from zfsvol.service.metrics import DIRECTORY, Metrics, Source
from zfsvol.service.sight import Sight
from zfsvol.service.work import Watch, Work
from zfsvol.zfs import counters, kernel, progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Sequence

# Seconds between two updates. xcp-rrdd reads every five seconds, skips the next two readings after one that it knows
# already, and takes no harm from an update that it missed. So this beat is the faster one.
BEAT = 4.99
# What a look saw that many seconds ago says nothing any more: looks come once a minute, unless the pool hangs.
_LASTING = 300

_UNKNOWN = float("nan")


class Statistics:
    """All data sources of this host's SRs. Only one process of the host has an object of this class."""

    def __init__(self, directory: str = DIRECTORY) -> None:
        """Removes what an earlier process left."""
        self._directory = directory
        self._metrics: "Metrics | None" = None
        self._watch = Watch()
        self._arc = counters.Meter()
        self._guests = Guests()
        self._records = _Records()
        self._last: "float | None" = None
        self._sources: "dict[tuple[str, ...], list[Source]]" = {}
        self._kept: "dict[tuple[str, ...], list[Source]]" = {}  # of the last update
        self._complaint = ""
        self._write([])

    def update(self, now: float, followed: "Sequence[Follower]") -> None:
        """Reads and publishes. `now`: seconds of a clock that never goes back; later than at the last call.

        Raises nothing. What cannot be written is logged once.
        """
        try:
            self._write(self._readings(now, followed))
        except Exception as error:  # noqa: BLE001 - one failure must not end the service
            self._complain(f"a fault of the service's statistics: {error!r}")

    def _readings(self, now: float, followed: "Sequence[Follower]") -> "list[tuple[Source, float]]":
        seconds = now - self._last if self._last is not None else None
        self._last = now
        self._kept, self._sources = self._sources, {}
        used = self._records.of(follower.sr for follower in followed)
        disks = {record.zvol: record.node for found in used.values() for record in found}
        works = self._watch.look(disks)
        readings: "list[tuple[Source, float]]" = []
        if followed:
            readings += self._of_memory()
        for follower in followed:
            found = used[follower.sr.dataset]
            work = Work.together(works[record.zvol] for record in found)
            follower.note_written(work.bytes_written)
            readings += self._of_sr(follower.sr, follower.sight, work, seconds)
            if is_blkback_alone(found):
                readings += self._for_orchestra(follower.sr, work, seconds)
        readings += self._of_vms(now, [record for found in used.values() for record in found], works, seconds)
        return readings

    def close(self) -> None:
        """Ends the publication."""
        self._write([])

    def _write(self, readings: "list[tuple[Source, float]]") -> None:
        try:
            if self._metrics is None:
                self._metrics = Metrics(self._directory)
            self._metrics.write(time.time(), readings)
            self._complaint = ""
        except OSError as error:
            self._complain(f"the statistics cannot be written: {error}")

    def _complain(self, sentence: str) -> None:
        if sentence != self._complaint:
            log.warning(sentence)
        self._complaint = sentence

    def _made(self, templates: "Iterable[sources.Template]", owner: str, name: str = "{}") -> "list[Source]":
        """The data sources of one owner: those of the last update, if it had them."""
        key = (owner, name)
        self._sources[key] = self._kept.get(key) or [template.of(owner, name) for template in templates]
        return self._sources[key]

    def _of_memory(self) -> "list[tuple[Source, float]]":
        memory = counters.memory()
        if memory is None:
            return []
        grown = self._arc.grown({"arc": (0, (memory.hits, memory.misses))}).get("arc", (0, 0))
        ratio = grown[0] / sum(grown) if sum(grown) else _UNKNOWN
        return list(zip(self._made(sources.HOST, sources.OF_HOST), (memory.size, ratio)))

    def _of_sr(
        self, sr: SR, sight: "Sight | None", work: Work, seconds: "float | None"
    ) -> "list[tuple[Source, float]]":
        state = kernel.state(sr.pool)
        values = work.of_sr(seconds) if seconds and state is not None else {}
        if sight is not None and time.time() - sight.time < _LASTING:
            values.update(_seen(sight, answers=state not in (None, kernel.SUSPENDED)))
        made = self._made(sources.SR, f"sr {sr.uuid}")
        return [(source, values.get(source.name, _UNKNOWN)) for source in made]

    def _for_orchestra(self, sr: SR, work: Work, seconds: "float | None") -> "list[tuple[Source, float]]":
        if not seconds:
            return []
        made = self._made(sources.DISK, sources.OF_HOST, sources.host_name(sr.uuid))
        return list(zip(made, _in_order(work.as_rrdp_iostat(seconds))))

    def _of_vms(
        self, now: float, used: "list[Record]", works: "dict[str, Work]", seconds: "float | None"
    ) -> "list[tuple[Source, float]]":
        """Those of disks that blkback serves."""
        disks = {(domid, str(record.node)): record.zvol for record in used for domid in _by_blkback(record)}
        readings: "list[tuple[Source, float]]" = []
        for disk, (uuid, device) in sorted(self._guests.of(now, disks).items()):
            zvol = disks[disk]
            if seconds and zvol in self._watch.totals:
                made = self._made(sources.VM_DISK, f"vm {uuid}", sources.vm_name(device))
                values = (*self._watch.totals[zvol], *_in_order(works[zvol].as_rrdp_iostat(seconds)))
                readings += zip(made, values)
        return readings


def _in_order(values: "dict[str, float]") -> "list[float]":
    return [values[template.name] for template in sources.DISK]


def _by_blkback(record: Record) -> "list[str]":
    """The VMs that have the disk through blkback."""
    return [domain for domain in record.users(NODE) if records.is_guest(domain)]


class _Records:
    """The records of attached disks, each of which is only read again after a verb has replaced it."""

    def __init__(self) -> None:
        self._known: "dict[str, tuple[tuple[int, int], Record]]" = {}

    def of(self, srs: "Iterable[SR]") -> "dict[str, list[Record]]":
        """The disks that somebody has attached, by the SR's root. The others do nothing."""
        before, self._known = self._known, {}
        found: "dict[str, list[Record]]" = {}
        for sr in srs:
            read = [self._read(Record(sr, key, {}).path, sr, key, before) for key in records.all_of(sr)]
            found[sr.dataset] = [record for record in read if record is not None]
        return found

    def _read(
        self, path: str, sr: SR, key: str, before: "dict[str, tuple[tuple[int, int], Record]]"
    ) -> "Record | None":
        try:
            status = os.stat(path)
            version = (status.st_ino, status.st_mtime_ns)
            known = before.get(path)
            record = known[1] if known is not None and known[0] == version else records.read(sr, key)
        except (OSError, StorageError):
            return None  # verbs on this disk say what is wrong
        self._known[path] = (version, record)
        return record


def is_blkback_alone(used: "list[Record]") -> bool:
    """Whether VMs have disks of an SR through blkback, and no tapdisk serves another.

    As soon as there is a tapdisk, rrdp-iostat makes the host's data sources of this SR, and the same name twice would
    be a matter of chance.
    """
    by_node = [domain for record in used for domain in _by_blkback(record)]
    return bool(by_node) and all(record.tapdisk is None for record in used)


def _seen(sight: Sight, *, answers: bool) -> "dict[str, float]":
    """What a look saw. `answers`: the pool still does, so that its numbers hold."""
    values: "dict[str, float]" = {}
    numbers, found = sight.numbers, sight.topology
    if numbers is not None and answers:
        values.update(
            used=numbers.used,
            available=numbers.available,
            promised=numbers.promised,
            promised_ratio=numbers.promised_ratio,
            disks=numbers.disks,
            compression_ratio=numbers.compression,
        )
        if sight.fragmentation is not None:
            values["pool_fragmentation"] = sight.fragmentation
    if found is not None:
        for kind in (progress.SCRUB, progress.RESILVER):
            scan = found.running(kind)
            if scan is not None and scan["percent"] is not None:
                values[f"pool_{kind}_progress"] = scan["percent"] / 100
        if found.described.data_errors is not None:
            values["pool_data_errors"] = found.described.data_errors
        counts = zip((0, 0, 0), *(disk.errors for disk in found.disks))
        values.update(zip(("pool_read_errors", "pool_write_errors", "pool_checksum_errors"), map(sum, counts)))
    return values
