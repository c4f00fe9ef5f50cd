# SPDX-License-Identifier: LGPL-2.1-only
"""The steps that change families: a zvol is made from a VDI, removed or renamed.

The caller holds the SR's lock: shared to make zvols, exclusive for all else. Each step is one or two ZFS transactions;
`repair` describes and mends the states between them.
"""

import os
import time

from zfsvol import naming, properties
from zfsvol.errors import NoSpace, StorageError, VDIInUse
from zfsvol.host import files
from zfsvol.repository.sr import SR
from zfsvol.repository.vdi import VDI, Base, is_vdi
from zfsvol.zfs import changes, datasets, programs
from zfsvol.zfs.pool import Busy, Exists, Missing
from zfsvol.zfs.programs import Left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

# Seconds until space freed by a removal is available.
_SPACE_LIMIT = 10
_SPACE_PAUSE = 0.25

# Block size of a zvol that will never hold data; divides all sizes of VDIs.
_EMPTY = 128 << 10

# Properties that a VDI does not keep when another zvol takes its place: the size is the other's, volmode belongs to the
# datapath, and the last says where its present zvol comes from.
_NOT_KEPT = ("volsize", "volmode", naming.VDI_COMPOSED)


def inherited(source: VDI) -> "dict[str, str]":
    """The properties that a VDI gets from the one it is made from: name, description, sharable, type."""
    values = properties.encode(naming.VDI_NAME, properties.text(source.values, naming.VDI_NAME))
    values.update(properties.encode(naming.VDI_DESCRIPTION, properties.text(source.values, naming.VDI_DESCRIPTION)))
    if properties.decode(source.values, naming.VDI_SHARABLE) is True:
        values.update(properties.encode(naming.VDI_SHARABLE, value=True))
    if naming.TYPE in source.keys:
        values.update(properties.encode_key(naming.TYPE, source.keys[naming.TYPE]))
    return values


def make(sr: SR, source: VDI, name: str, uuid: str, values: "dict[str, str]") -> None:
    """Makes the zvol `name` below the root with the content of a VDI and these properties. Raises Exists, NoSpace.

    A VDI that is a snapshot never changes, so its copies are cloned from its own origin. Families then do not grow
    deeper with every snapshot, and a snapshot can always be removed completely. A crash leaves at most a ZFS snapshot
    without clones.
    """
    base = source.frozen_at or f"{source.zvol}@{uuid}"
    try:
        if source.frozen_at is None:
            changes.create_snapshots(sr.zfs, base)
        try:
            changes.clone(sr.zfs, base, sr.volume(name), values)
        except StorageError:
            programs.prune(sr.zfs, sr.dataset, [base])
            raise
    except NoSpace as error:
        raise NoSpace(
            f"The SR {sr.uuid} has no room for a snapshot or clone of {source.key}: for a thick disk it needs as much "
            f"space as the disk holds, for a thin disk some megabytes. {error}"
        ) from None


def adopt_siblings(sr: SR, source: VDI, uuid: str) -> None:
    """If the snapshot `source` and its siblings are snapshots of a removed VDI, makes them snapshots of the VDI `uuid`.

    xapi reverts a disk by removing it and cloning its snapshot, and then changes snapshot_of in its own database only:
    the next scan would undo that. Called before the clone is made: after a crash in between, the snapshots still name
    a VDI that does not exist, as before.
    """
    lost = source.keys.get(naming.SNAPSHOT_OF) if source.keys.get(naming.IS_A_SNAPSHOT) == "true" else None
    if lost is None:
        return
    _, zvols = sr.zvols()
    if is_vdi(lost, zvols.get(lost, {})) or naming.revert_name(lost) in zvols:
        return
    siblings = [
        sr.volume(name)
        for name, values in zvols.items()
        if is_vdi(name, values) and properties.decode_keys(values).get(naming.SNAPSHOT_OF) == lost
    ]
    programs.set_on_vdis(sr.zfs, siblings, properties.encode_key(naming.SNAPSHOT_OF, uuid))


def remove(sr: SR, key: str, action: str, done: str, *, bookmark: "str | None" = None) -> Left:
    """Removes the VDI in one transaction, by zfs.programs.remove. Raises VDIInUse.

    `done`: what the caller wants to do, as in "was not destroyed". The result is for `bury`.
    """
    try:
        return _remove(sr, key, action, bookmark)
    except Busy as error:
        from zfsvol.host import blockdevice  # for the message only

        name = str(error).rpartition("/")[2]
        users = ", ".join(blockdevice.open_zvols(sr.dataset).get(name, [])) or "a VM or the kernel"
        raise VDIInUse(f"The VDI {name} is in use by {users}, and was not {done}.") from None


def _remove(sr: SR, name: str, action: str, bookmark: "str | None" = None) -> Left:
    left = programs.remove(sr.zfs, sr.dataset, name, action, bookmark=bookmark)
    if left.foreign:
        sr.note_kept(is_any=True)
    return left


def discard(sr: SR, name: str) -> None:
    """Removes a zvol that is only half made, or that a revert left behind. Idempotent.

    If others' snapshots keep it, it is renamed like a removed VDI, so that its name is free.
    """
    try:
        left = _remove(sr, name, "discard")
    except Missing:
        return
    bury(sr, left)


def bury(sr: SR, left: Left) -> None:
    """Renames removed zvols to names of removed ones, drops their reservations, and destroys bookmarks of removed VDIs.

    Clients do not see the VDIs any more. No step needs space within the SR's quota. After a crash, `repair` does the
    rest.
    """
    for base in left.bases:
        _destroy_bookmark(sr, Base.parsed(base).bookmark)
    for dataset, reserved in left.reserved.items():
        if reserved:
            changes.set_properties(sr.zfs, dataset, {"refreservation": "none"})
        name = dataset.rpartition("/")[2]
        _move(sr, dataset, sr.grave(naming.reverted(name) or name, os.urandom(4).hex()))


def _destroy_bookmark(sr: SR, short: str) -> None:
    """Destroys the driver's bookmark with this name within its zvol, which may be any of the SR's. Idempotent."""
    if not naming.is_bookmark(short):
        return
    for (name,) in datasets.listing(sr.zfs, sr.dataset, types="bookmark", columns=("name",)):
        if name.endswith("#" + short):
            try:
                changes.destroy(sr.zfs, name)
            except Missing:
                pass


def _move(sr: SR, dataset: str, name: str) -> None:
    end = time.monotonic() + _SPACE_LIMIT
    while True:
        try:
            changes.rename(sr.zfs, dataset, name)
            return
        except NoSpace:  # space freed by the removal is available after a moment
            if time.monotonic() > end:
                raise
            time.sleep(_SPACE_PAUSE)


def prune_graves(sr: SR) -> None:
    """Frees the space of removed zvols that was kept only by others' snapshots which are gone now.

    If only the newest of these snapshots is gone, the zvol is rolled back to an older one.
    """
    from zfsvol.repository import family  # only needed for SRs with others' snapshots

    zvols, snapshots = family.graves(sr)
    kept = {name.partition("@")[0] for name, values in snapshots.items() if family.is_kept(name, values)}
    unneeded = [
        name for name, values in zvols.items() if name not in kept or int(values["written"]) >= family.EMPTY_CLONE
    ]
    if unneeded:
        programs.prune(sr.zfs, sr.dataset, unneeded)


def prepare_revert(sr: SR, source: VDI, target: VDI) -> None:
    """The first step of Volume.revert: makes the zvol that will replace the VDI `target`, with the VDI's settings.

    `target.values` are these settings. Raises NoSpace.
    """
    values = _kept(target)
    if values.get("refreservation", "0") not in ("0", "none"):
        values["refreservation"] = "auto"
    name = naming.revert_name(target.key)
    _prepare(sr, name, lambda: make(sr, source, name, files.new_uuid(), values))


def _kept(vdi: VDI) -> "dict[str, str]":
    """The VDI's settings that go to the zvol that takes its place. `vdi.values` are all of its settings."""
    # The clone-on-boot temporary has the old content.
    temporary = properties.key_property(naming.TEMPORARY)
    return {
        name: value
        for name, value in vdi.values.items()
        if name not in _NOT_KEPT and name.partition(".")[0] != temporary
    }


def prepare_data_destroy(sr: SR, source: VDI, base: Base) -> None:
    """The first step of Volume.data_destroy: makes the empty zvol that will replace that of the snapshot `source`.

    It has all that the client knows of the snapshot, and `base`. Raises NoSpace.
    """
    values = {name: value for name, value in source.values.items() if ":" in name}
    values.update({"readonly": "on", naming.VDI_METADATA: str(base)})
    name = naming.revert_name(source.key)
    size = source.size

    def create() -> None:
        changes.create_volume(sr.zfs, sr.volume(name), size, volblocksize=_EMPTY, sparse=True, values=values)

    _prepare(sr, name, create)


def _prepare(sr: SR, name: str, create: "Callable[[], object]") -> None:
    try:
        create()
    except Exists:  # a verb was killed before it had any effect
        give_up(sr, str(naming.reverted(name)))
        create()


def prepare_compose(sr: SR, parent: VDI, leaf: VDI) -> None:
    """The first steps of Volume.compose: gives the parent's zvol the leaf's settings, then the name of its replacement.

    `values` of both are their settings. A reservation stays: a parent was made like its leaf. After a crash in between
    the parent is there, perhaps with the leaf's settings; after a crash at the end `give_up` gives it its name again.
    Raises NoSpace, Busy.
    """
    values = _kept(leaf)
    values[naming.VDI_COMPOSED] = parent.key
    own = {name: value for name, value in values.items() if ":" in name}
    unneeded = [name for name in parent.values if ":" in name and name not in own]
    programs.set_on_vdis(sr.zfs, [parent.zvol], own, unneeded)
    native = {
        name: value
        for name, value in values.items()
        if ":" not in name and name != "refreservation" and parent.values.get(name) != value
    }
    if native:
        changes.set_properties(sr.zfs, parent.zvol, native)
    name = sr.volume(naming.revert_name(leaf.key))
    try:
        changes.rename(sr.zfs, parent.zvol, name)
    except Exists:  # as in `_prepare`
        give_up(sr, leaf.key)
        changes.rename(sr.zfs, parent.zvol, name)


def give_up(sr: SR, key: str) -> None:
    """Undoes a revert, a data_destroy or a compose of a VDI that has not replaced the VDI yet. Idempotent.

    The zvol that was made for it is discarded; the parent of a compose gets its own name again.
    """
    name = naming.revert_name(key)
    try:
        values = datasets.settings(sr.zfs, sr.volume(name))
    except Missing:
        return
    parent = values.get(naming.VDI_COMPOSED)
    if parent is None:
        discard(sr, name)
    else:
        _move(sr, sr.volume(name), sr.volume(parent))


def finish_revert(sr: SR, key: str) -> None:
    """Does the last steps of Volume.revert that a crash left undone. Raises NoSpace, Busy."""
    reserved: "dict[str, int]" = {}
    try:
        values = datasets.properties(sr.zfs, sr.volume(key))
    except Missing:
        pass
    else:
        reserved = {sr.volume(key): int(values.get("refreservation", "0"))}
    take_place(sr, key, Left(reserved))


def take_place(sr: SR, key: str, left: Left) -> None:
    """Renames the removed zvols, as `bury` does, then gives the VDI's name to the zvol that replaces it."""
    bury(sr, left)
    _move(sr, sr.volume(naming.revert_name(key)), sr.volume(key))
