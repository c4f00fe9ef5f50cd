# SPDX-License-Identifier: LGPL-2.1-only
"""The Volume verbs that are refused while somebody has the VDI open: resize, revert, destroy, data_destroy.

Arguments are those of the SMAPIv3 interface; sizes are bytes. All that clients see of a change happens in one
transaction. So after a crash at any moment, each VDI is unchanged or changed as requested.
"""

from zfsvol import log, naming
from zfsvol.errors import InvalidArgument, InvalidSize, NoSpace, StorageError, VDIInUse, VDIUnavailable
from zfsvol.repository import idle, lineage, recording
from zfsvol.repository import record as records
from zfsvol.repository import sr as srs
from zfsvol.repository import vdi as vdis
from zfsvol.repository.record import Locked, Record
from zfsvol.repository.sr import ALONE, CHANGE, SR
from zfsvol.repository.vdi import VDI
from zfsvol.zfs import changes, datasets
from zfsvol.zfs.pool import Missing
from zfsvol.zfs.programs import Left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable


def resize(dbg: str, sr: str, key: str, new_size: int) -> None:
    """Grows the VDI to at least `new_size` bytes; users of the device node see the new size at once.

    Raises InvalidSize (also to shrink), NoSpace, VDIUnavailable, and VDIInUse if a tapdisk has it open and would never
    notice.
    """
    naming.require_uuid(key, "The VDI")
    size = vdis.rounded(new_size)
    found = srs.find(sr)
    with Locked(found, key) as record, found.locked(CHANGE):
        vdi = found.vdi(key)
        if vdi.is_snapshot:
            raise InvalidArgument(f"The VDI {key} is a snapshot, which never changes; clone it and grow the clone.")
        if size < vdi.size:
            raise InvalidSize(f"the VDI {key} has {vdi.size} bytes and cannot shrink to {size}.")
        if size > vdi.size:
            idle.require_idle(record, "resized", served_by=(records.TAPDISK,))
            try:
                changes.set_properties(found.zfs, vdi.zvol, {"volsize": str(size)})
            except NoSpace as error:
                raise NoSpace(f"The VDI {key} cannot grow to {size} bytes: {error}") from None


def revert(dbg: str, sr: str, snapshot: str, key: str) -> None:
    """Gives the VDI `key` the content and the size of `snapshot`. Nothing else of it changes, and no other VDI.

    Raises VDIInUse while it is open, InvalidArgument (`snapshot` is no snapshot, `key` is one), NoSpace,
    VDIUnavailable; then nothing has changed. A crash before the old content is removed leaves a zvol that SR.attach
    removes. After that the VDI has its new content, and SR.attach or the next verb that needs it renames its zvol.
    """
    naming.require_uuid(key, "The VDI")
    found = srs.find(sr)
    with Locked(found, key) as record:
        if record.active:  # report invalid arguments before VDIInUse
            _require_revertible(found.vdi(snapshot), found.vdi(key))
        idle.require_idle(record, "reverted")
        with _Temporary(found, key, "reverted") as temporary, found.locked(ALONE):
            # Before reading the snapshot: the rename may change the snapshot's origin.
            target = renamed(found, found.vdi(key, datasets.settings), datasets.settings)
            source = found.vdi(snapshot)
            _require_revertible(source, target)
            temporary.require_same(target)
            lineage.prepare_revert(found, source, target)
            left = replaced(record, "reverted")
            temporary.forget()
            # From here on the VDI has its new content, whatever happens.
            tidy(found, key, lambda: lineage.take_place(found, key, left))


def replaced(record: Record, done: str, *, bookmark: "str | None" = None) -> Left:
    """Removes the VDI, whose replacement is made already, with its node; without success, the replacement goes."""
    try:
        left = lineage.remove(record.sr, record.key, "replace", done, bookmark=bookmark)
    except StorageError:
        lineage.give_up(record.sr, record.key)
        raise
    idle.withdraw_node(record)
    recording.forget(record.sr, record.key)
    return left


def _require_revertible(source: VDI, target: VDI) -> None:
    if not source.is_snapshot:
        raise InvalidArgument(f"The VDI {source.key} is no snapshot: a disk can only be reverted to a snapshot.")
    if target.is_snapshot:
        raise InvalidArgument(f"The VDI {target.key} is a snapshot, which never changes: revert the disk, or clone it.")
    source.require_data("reverted to")


def data_destroy(dbg: str, sr: str, key: str) -> None:
    """Destroys the data of a snapshot; the VDI stays, and what has changed since it can still be asked. Idempotent.

    The space that only it used is free at once. Before that, it is read if nobody knows yet which blocks it holds: the
    answers would be less exact without. Raises VDIInUse, InvalidArgument (no snapshot, or one without tracking),
    NoSpace, VDIUnavailable; then nothing has changed. A crash before the data is removed leaves a zvol that SR.attach
    removes. After that SR.attach or the next verb that needs it renames the zvol that has replaced the VDI's.
    """
    from zfsvol.repository import changelist  # of no use to the other verbs here

    naming.require_uuid(key, "The VDI")
    found = srs.find(sr)
    with Locked(found, key) as record:
        idle.require_idle(record, "changed")
        vdi = found.vdi(key)
        if vdi.base is not None:
            return
        _require_destroyable(vdi)
        base = changelist.learn(found, key)
        with found.locked(ALONE):
            lineage.prepare_data_destroy(found, found.vdi(key), base)
            left = replaced(record, "changed", bookmark=base.bookmark)
            tidy(found, key, lambda: lineage.take_place(found, key, left))


def _require_destroyable(vdi: VDI) -> None:
    """Raises InvalidArgument unless the VDI is a snapshot whose data may be destroyed."""
    if not vdi.is_snapshot or not vdi.is_tracked:
        raise InvalidArgument(
            f"The VDI {vdi.key} is no snapshot with changed block tracking: its data can only be destroyed with the "
            "VDI itself."
        )
    if vdi.frozen_at is None:
        raise InvalidArgument(f"The snapshot {vdi.key} was made writable, and may hold data that nothing else has.")


def renamed(sr: SR, vdi: VDI, reader: "Callable[..., dict[str, str]]" = datasets.properties) -> VDI:
    """The VDI, after its zvol has got its final name. Raises NoSpace, Busy."""
    if vdi.is_renamed:
        return vdi
    lineage.finish_revert(sr, vdi.key)
    return sr.vdi(vdi.key, reader)


def destroy(dbg: str, sr: str, key: str) -> None:
    """Removes the VDI, and its clone-on-boot temporary. Idempotent.

    Frees the space that only it used; data that other VDIs were made from stays until the last of them is removed.
    Raises VDIInUse while it is open, SRUnavailable; then nothing has changed.
    """
    naming.require_uuid(key, "The VDI")
    found = srs.find(sr)
    with Locked(found, key) as record:
        idle.require_no_ended_migration(record)
        idle.require_idle(record, "destroyed")
        with _Temporary(found, key, "destroyed") as temporary, found.locked(ALONE):
            temporary.require_same()
            try:
                left = _removed(found, key)
            except VDIUnavailable:
                recording.forget(found, key)
                record.forget()
                return
            idle.withdraw_node(record)
            recording.forget(found, key)
            record.forget()
            temporary.forget()
            tidy(found, key, lambda: lineage.bury(found, left))
            if found.may_keep:
                tidy(found, key, lambda: lineage.prune_graves(found))


def _removed(sr: SR, key: str) -> Left:
    try:
        return lineage.remove(sr, key, "remove", "destroyed")
    except Missing:
        renamed(sr, sr.vdi(key))
        return lineage.remove(sr, key, "remove", "destroyed")


class _Temporary:
    """A VDI's clone-on-boot temporary, which goes with the VDI. If attached, it is locked and idle inside the `with`.

    Enter it before taking the SR's lock: a verb that holds the temporary's lock may wait for the SR's. Raises VDIInUse.
    """

    def __init__(self, sr: SR, key: str, done: str) -> None:
        self._sr = sr
        self._of = key
        self._done = done
        self._key = ""
        self._locked: "Locked | None" = None

    def _attached(self, vdi: "VDI | None" = None) -> str:
        """The temporary's key; "" if there is none, or if nobody has it attached. `vdi`: the VDI, if already read."""
        if not any(other != self._of for other in records.all_of(self._sr)):
            return ""  # no need to read the VDI's keys
        try:
            key = (vdi or self._sr.vdi(self._of)).keys.get(naming.TEMPORARY, self._of)
        except VDIUnavailable:
            return ""
        return key if naming.is_uuid(key) and key != self._of and records.exists(self._sr, key) else ""

    def __enter__(self) -> "_Temporary":  # noqa: PYI034 - Python 3.6 has no Self
        self._key = self._attached()
        if self._key:
            self._locked = Locked(self._sr, self._key)
            self._record = self._locked.__enter__()
            try:
                idle.require_idle(self._record, self._done)
            except StorageError:
                self._locked.__exit__()
                raise
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._locked is not None:
            self._locked.__exit__()

    def require_same(self, vdi: "VDI | None" = None) -> None:
        """With the SR's lock held: raises VDIInUse if another temporary was set or attached in between."""
        if self._attached(vdi) not in ("", self._key):
            raise VDIInUse(f"The clone-on-boot disk of the VDI {self._of} was attached just now: try again.")

    def forget(self) -> None:
        """Removes the node and the record of the removed temporary."""
        if self._locked is not None:
            idle.withdraw_node(self._record)
            self._record.forget()


def tidy(sr: SR, key: str, action: "Callable[[], object]") -> None:
    """Runs the steps after the change itself. A failure is left to SR.attach and shown in the SR's health."""
    try:
        action()
    except StorageError as error:
        log.warning(f"{sr.volume(key)}: done, but remains could not be removed: {error}")
        sr.note_unfinished([*sr.unfinished, f"remains of the disk {key} could not be removed: {error}"])
