# SPDX-License-Identifier: LGPL-2.1-only
"""Volume.compose: puts the two halves of a disk together that has moved here while its VM was running.

The parent has the disk's old data, the leaf what the VM has written since. See `repository.recording`.
"""

import os

from zfsvol import naming
from zfsvol.errors import InvalidArgument, InvalidSize, StorageError, VDIInUse, VDIUnavailable
from zfsvol.motion.written import Written
from zfsvol.repository import idle, lineage, recording
from zfsvol.repository import record as records
from zfsvol.repository import sr as srs
from zfsvol.repository.record import Locked, Record
from zfsvol.repository.sr import ALONE, CHANGE, SR
from zfsvol.repository.vdi import VDI
from zfsvol.verbs.volume_idle import renamed, replaced, tidy
from zfsvol.zfs import datasets, node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PIECE = 1 << 20  # bytes copied at once


def compose(dbg: str, sr: str, key: str, key2: str) -> None:
    """Makes the leaf `key` the parent `key2` with all that was written to the leaf. Then there is no parent any more.

    The leaf keeps its key, its settings and its snapshots. What was written is copied onto the parent, which then takes
    the leaf's place. So the cost grows with what was written, not with the disk. Idempotent. Raises VDIInUse,
    InvalidArgument, InvalidSize, StorageError (the mirror broke off), NoSpace, VDIUnavailable; then the leaf has not
    changed, and the parent at most in what the leaf would have replaced. The same holds after a crash before the leaf's
    zvol is removed: a repetition begins anew. After that, SR.attach or the next verb finishes the renames.
    """
    found = srs.find(sr)
    for name in (key, key2):
        naming.require_uuid(name, "The VDI")
    if key == key2:
        raise InvalidArgument(f"The VDI {key} cannot be composed with itself.")
    with Locked(found, min(key, key2)) as one, Locked(found, max(key, key2)) as other:
        leaf, parent = (one, other) if one.key == key else (other, one)
        if found.vdi(key).values.get(naming.VDI_COMPOSED) == key2:
            recording.forget(found, key)  # done, but perhaps killed at the end
            return
        idle.require_idle(leaf, "composed")
        _require_detached(parent)
        with found.locked(ALONE):
            _read(found, key, key2)
        with _opened(recording.finished(found, key)) as written:
            _copy(leaf, parent, written.ranges())
        with found.locked(ALONE):
            vdi, old = _read(found, key, key2)
            lineage.prepare_compose(found, old, vdi)
            left = replaced(leaf, "composed")
            # From here on the leaf is composed, whatever happens.
            tidy(found, key, lambda: lineage.take_place(found, key, left))
        parent.forget()


def _require_detached(parent: Record) -> None:
    """Raises VDIInUse if a domain has attached the VDI: the node that it was given would go with the VDI."""
    idle.require_idle(parent, "composed")
    if parent.attached:
        users = ", ".join(records.called(domain) for domain in sorted(parent.attached))
        raise VDIInUse(f"The VDI {parent.key} is attached to {users}, and was not composed.")


def _read(sr: SR, key: str, key2: str) -> "tuple[VDI, VDI]":
    """The leaf and the parent with their settings, under their own names. Raises StorageErrors if they do not match."""
    leaf = renamed(sr, sr.vdi(key, datasets.settings), datasets.settings)
    try:
        parent = sr.vdi(key2, datasets.settings)
    except VDIUnavailable:
        lineage.give_up(sr, key)  # it has another name if a compose was killed
        parent = sr.vdi(key2, datasets.settings)
    for vdi in (leaf, parent):
        if vdi.is_snapshot:
            raise InvalidArgument(f"The VDI {vdi.key} is a snapshot, which never changes: it cannot be composed.")
    if leaf.size != parent.size:
        raise InvalidSize(
            f"the VDI {key} has {leaf.size} bytes, and {key2} has {parent.size}: they are not halves of one disk."
        )
    return leaf, renamed(sr, parent, datasets.settings)


def _opened(path: str) -> Written:
    try:
        return Written(path)
    except OSError as error:
        raise StorageError(f"The record of what was written cannot be read: {error}") from None


def _copy(leaf: Record, parent: Record, ranges: "Iterable[tuple[int, int]]") -> None:
    """Copies the ranges (offset, length) from the leaf to the parent. May be repeated."""
    todo = iter(ranges)
    first = next(todo, None)
    if first is None:
        return  # without the four transactions for the nodes
    with _Device(leaf, os.O_RDONLY) as source, _Device(parent, os.O_RDWR) as target:
        try:
            _copy_range(source, target, *first)
            for offset, length in todo:
                _copy_range(source, target, offset, length)
            os.fsync(target)
        except OSError as error:
            raise StorageError(
                f"What was written to the VDI {leaf.key} cannot be copied to {parent.key}: {error}"
            ) from None


def _copy_range(source: int, target: int, offset: int, length: int) -> None:
    while length > 0:
        data = os.pread(source, min(length, _PIECE), offset)
        if not data:
            raise StorageError("The record names sectors beyond the end of the disk.")
        done = 0
        while done < len(data):
            done += os.pwrite(target, data[done:], offset + done)
        offset += len(data)
        length -= len(data)


class _Device:
    """The open device node of a VDI that is not activated. It stays after the `with` only if the VDI is attached."""

    def __init__(self, record: Record, flags: int) -> None:
        self._record = record
        self._flags = flags

    def __enter__(self) -> int:
        """The descriptor. Raises NodeMissing, StorageError."""
        record = self._record
        if record.node is None or not node.is_of(record.node, record.zvol):
            with record.sr.locked(CHANGE):
                record.node = node.show(record.sr.zfs, record.zvol)
            record.save()
        try:
            with node.Opened(record.node, record.zvol):
                self._descriptor = os.open(record.node, self._flags | os.O_CLOEXEC)
        except (OSError, StorageError) as error:
            self._hide()
            raise StorageError(f"The device of the VDI {record.key} cannot be opened: {error}") from None
        return self._descriptor

    def __exit__(self, kind: object, *_exception: object) -> None:
        os.close(self._descriptor)
        if not self._hide() and kind is None:
            raise VDIInUse(
                f"Something has the device of the VDI {self._record.key} open, so it was not composed: 'fuser -v "
                f"{self._record.node}' shows what."
            )

    def _hide(self) -> bool:
        record = self._record
        if record.attached:
            return True
        is_hidden = node.hide(record.sr.zfs, record.zvol, record.node)
        if is_hidden:
            record.node = None
            record.forget()
        return is_hidden
