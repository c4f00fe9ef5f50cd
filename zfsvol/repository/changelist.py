# SPDX-License-Identifier: LGPL-2.1-only
"""Which blocks of a VDI differ from those of another VDI of its family, as ZFS knows it.

`zfs send` of an increment lists the blocks that were written since its base, and as freed all holes that it comes
across: those that have become holes, and those that never held data. Which of these changed is known by what the base
has allocated. That is read from a full stream of the base, or follows from what an older one has allocated and the
increment between them; it is remembered for the next time.

If the base's data was destroyed and nobody remembers what it had allocated, all holes in the increment count as
changed. If ZFS does not know any more when the base was, everything counts as changed.
"""

from zfsvol import log, naming
from zfsvol.errors import ChangesUnknown, NoSpace, StorageError
from zfsvol.host import files
from zfsvol.repository import ancestry, blockmap, family
from zfsvol.repository.allocation import Memory
from zfsvol.repository.ancestry import Ancestry, Moment
from zfsvol.repository.blockmap import Bitmap
from zfsvol.repository.sr import CHANGE, SR
from zfsvol.repository.vdi import VDI, Base
from zfsvol.zfs import changes, datasets, programs, sendstream
from zfsvol.zfs.pool import Missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Callable, TypeVar

    _Answer = TypeVar("_Answer")

_TRIES = 5


def between(sr: SR, key: str, key2: str) -> Bitmap:
    """The blocks of the VDI `key2` that may differ from those of the VDI `key`.

    Both may be in use. Raises ChangesUnknown, VDIUnavailable, SRUnavailable, NoSpace. For a disk it makes a ZFS
    snapshot, which a crash may leave and SR.attach removes.
    """

    def attempt() -> Bitmap:
        view = _View(sr)
        try:
            return view.between(key, key2)
        finally:
            view.close()

    return _while_renamed(sr, (key, key2), attempt)


def learn(sr: SR, key: str) -> Base:
    """Remembers what a snapshot has allocated, which may mean to read it, and returns what will be left of its data.

    If it cannot be read, later answers are wider. Raises VDIUnavailable, SRUnavailable.
    """

    def attempt() -> Base:
        found = ancestry.read(sr)
        snapshot = found.snapshot(_vdi(sr, found, key).frozen_at or key)
        memory = Memory(sr)
        try:
            if memory.recall(snapshot.guid) is None:
                _go_through(_Reader(sr, found, memory, set()).allocated(snapshot))
            memory.tidy(found.guids, found.when)
        except Missing:
            raise
        except StorageError as error:
            log.warning(f"{sr.dataset}: what {key} has allocated cannot be read: {error}")
        return Base(naming.bookmark(key), snapshot.guid, found.family(snapshot))

    return _while_renamed(sr, (key,), attempt)


def _while_renamed(sr: SR, keys: "tuple[str, ...]", attempt: "Callable[[], _Answer]") -> "_Answer":
    """The answer of `attempt`, again if it raises Missing, since a zvol was renamed or removed meanwhile."""
    for _ in range(_TRIES):
        try:
            return attempt()
        except Missing as error:
            log.info(f"{sr.dataset}: reads the family of {keys[-1]} again: {error}")
    for key in keys:
        sr.vdi(key)
    raise StorageError(f"The family of the VDI {keys[-1]} changes all the time: try again.")


def _vdi(sr: SR, found: Ancestry, key: str) -> VDI:
    """A VDI of the family that was read. Raises VDIUnavailable, SRUnavailable, and Missing if it was made just now."""
    naming.require_uuid(key, "The VDI")
    vdi = found.vdi(key)
    if vdi is None:
        sr.vdi(key)
        raise Missing(key)
    return vdi


class _View:
    """The SR at one moment, with ZFS snapshots of the disks that are asked for, until `close`."""

    def __init__(self, sr: SR) -> None:
        self._sr = sr
        self._taken: "dict[str, str]" = {}  # snapshots by their zvols
        self._used: "set[str]" = set()  # the names of all snapshots that are read, without their zvols'

    def between(self, key: str, key2: str) -> Bitmap:
        with self._sr.locked(CHANGE):
            found = ancestry.read(self._sr)
            first, second = _vdi(self._sr, found, key), _vdi(self._sr, found, key2)
            if first.key == second.key:
                raise ChangesUnknown("Source and target VDI are the same")
            if second.base is not None:
                raise ChangesUnknown("The data of the target VDI was destroyed")
            disks = [vdi.zvol for vdi in (first, second) if vdi.frozen_at is None and vdi.base is None]
            found = self._with_snapshots(found, disks)
            ways = self._ways(found, first, second)
            # Those with bookmarks that are newer than all their snapshots.
            ends = [end for _, end in ways or () if not end.has_data and found.snapshot_after(end) is None]
            found = self._with_snapshots(found, [end.zvol for end in ends])
        bitmap = Bitmap(second.size)
        if ways is None:
            bitmap.add(0, second.size)
            self._report(first, second, bitmap, ["nobody knows what the first one held"])
            return bitmap
        memory = Memory(self._sr)
        reader = _Reader(self._sr, found, memory, set(self._taken.values()))
        how = []
        for base, end in ways:
            target = end if end.has_data else found.snapshot_after(end)
            if target is None:
                raise Missing(end.name)
            # Without a clone it is not a VDI's: another answer's, or that of a verb that makes one just now.
            self._used.update(read.name.rpartition("@")[2] for read in (base, target) if found.has_clone(read))
            how.append(reader.mark(base, target, bitmap) + ("" if target is end else ", for an older one without data"))
        memory.tidy(found.guids, found.when)
        self._report(first, second, bitmap, how or ["they have the same content"])
        return bitmap

    def _ways(self, found: Ancestry, first: VDI, second: VDI) -> "list[tuple[Moment, Moment]] | None":
        """The increments to read; None if there is nothing to read and everything may have changed."""
        newest = self._moment(found, second)
        if first.base is None:
            older: "Moment | None" = self._moment(found, first)
        else:
            older = found.bookmark(first.base)
            if older is None and first.base.family == found.family(newest):
                return None
        ways = None if older is None else ancestry.ways(found, older, newest)
        if ways is None:
            raise ChangesUnknown("Source and target VDI are unrelated")
        return ways

    def _moment(self, found: Ancestry, vdi: VDI) -> Moment:
        return found.snapshot(vdi.frozen_at or self._taken[vdi.zvol])

    def _with_snapshots(self, found: Ancestry, zvols: "list[str]") -> Ancestry:
        """The family with a new ZFS snapshot of each of the zvols. Raises NoSpace."""
        if not zvols:
            return found
        new = {zvol: f"{zvol}@{files.new_uuid()}" for zvol in zvols}
        self._taken.update(new)
        self._used.update(name.rpartition("@")[2] for name in new.values())
        try:
            changes.create_snapshots(self._sr.zfs, *new.values())
        except NoSpace as error:
            raise NoSpace(
                "There is no room for the snapshot by which a disk is compared; that of a thick disk needs as much "
                f"space as the disk holds. Compare snapshots of it instead. {error}"
            ) from None
        return ancestry.read(self._sr)

    def _report(self, first: VDI, second: VDI, bitmap: Bitmap, how: "list[str]") -> None:
        log.info(
            f"{self._sr.dataset}: changes from {first.key} to {second.key}: {bitmap.count()} blocks of 64 KiB: "
            f"{'; '.join(how)}"
        )

    def close(self) -> None:
        """Destroys the snapshots, and those whose VDIs were destroyed while they were read.

        Raises nothing: what stays is removed by SR.attach.
        """
        if not self._used:
            return
        try:
            # The zvols may have other names by now.
            rows = datasets.listing(self._sr.zfs, self._sr.dataset, types="snapshot", columns=("name", "clones"))
            read = [(name, clones) for name, clones in rows if name.rpartition("@")[2] in self._used]
            doomed = [name for name, clones in read if not family.is_needed({"clones": clones})]
            if doomed:
                programs.prune(self._sr.zfs, self._sr.dataset, doomed)
        except StorageError as error:
            log.warning(f"{self._sr.dataset}: snapshots that were read may stay: {error}")


class _Reader:
    """Reads streams. `passing`: ZFS snapshots that exist only for a moment and are not worth remembering."""

    def __init__(self, sr: SR, found: Ancestry, memory: Memory, passing: "set[str]") -> None:
        self._sr = sr
        self._found = found
        self._memory = memory
        self._passing = passing

    def mark(self, base: Moment, target: Moment, bitmap: Bitmap) -> str:
        """Sets the bits of what changed from `base` to `target`, which was made from it. Returns in words how."""
        way = f"increment {base.name} to {target.name}"
        known = self._memory.recall(base.guid)
        if known is not None:
            _go_through(self._after(known, self._stream(base, target), target, bitmap))
            return way + ", holes compared"
        increment = blockmap.Twice(lambda: self._stream(base, target))
        has_holes = False
        for is_written, start, end in increment.first():
            if is_written or not base.has_data:
                bitmap.add(start, end)
            has_holes = has_holes or (not is_written and start < bitmap.size)
        if not has_holes:
            return way
        if not base.has_data:
            return way + ", all holes in it counted"
        _go_through(self._after(self.allocated(base), increment.again(), target, bitmap))
        return way + ", holes compared"

    def allocated(self, moment: Moment) -> "Iterator[tuple[int, int]]":
        """What a ZFS snapshot that nobody remembers has allocated, by the shortest way."""
        for older in self._found.older(moment):
            known = self._memory.recall(older.guid)
            if known is not None:
                return self._after(known, self._stream(older, moment), moment, Bitmap(0))
        written = ((start, end) for is_written, start, end in self._stream(None, moment) if is_written)
        return self._remembered(moment, blockmap.joined(written))

    def _after(
        self,
        known: "Iterator[tuple[int, int]]",
        increment: "Iterator[tuple[bool, int, int]]",
        target: Moment,
        bitmap: Bitmap,
    ) -> "Iterator[tuple[int, int]]":
        """What `target` has allocated, by what its base has, `known`. Sets the bits of what changed as it goes."""
        return self._remembered(target, blockmap.joined(blockmap.changed(known, increment, bitmap.add)))

    def _remembered(self, moment: Moment, ranges: "Iterator[tuple[int, int]]") -> "Iterator[tuple[int, int]]":
        return ranges if moment.name in self._passing else self._memory.keeping(moment.guid, ranges)

    def _stream(self, base: "Moment | None", target: Moment) -> "Iterator[tuple[bool, int, int]]":
        chunks = datasets.sent(self._sr.zfs, None if base is None else base.name, target.name)
        return sendstream.blocks(chunks, base=0 if base is None else base.guid, target=target.guid)


def _go_through(ranges: "Iterator[tuple[int, int]]") -> None:
    for _ in ranges:
        pass
