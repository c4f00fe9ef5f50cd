# SPDX-License-Identifier: LGPL-2.1-only
"""The steps by which families grow and shrink: a zvol is made from a VDI, removed, renamed.

For the holder of the SR's lock: shared to make, exclusive for all else. Each step is one ZFS transaction or two;
`repair` explains and mends what is there between two of them.
"""

import os
import time

from zfsvol import naming, properties
from zfsvol.errors import NoSpace, StorageError, VDIInUse
from zfsvol.repository.sr import SR
from zfsvol.repository.vdi import VDI, is_vdi
from zfsvol.zfs import changes, datasets, programs
from zfsvol.zfs.pool import Busy, Exists, Missing

# Seconds that what a removal has freed may take to be free.
_SPACE_LIMIT = 10
_SPACE_PAUSE = 0.25

# A reverted disk does not keep these: they are the snapshot's, or the datapath's.
_NOT_KEPT = ("volsize", "volmode")


def new_uuid() -> str:
    """A random uuid, made by the kernel: importing Python's uuid module would cost more time than the verb."""
    with open("/proc/sys/kernel/random/uuid") as file:
        return file.read().strip()


def inherited(source: VDI) -> "dict[str, str]":
    """The properties that a VDI gets from the one it is made from: name, description, type, may several write."""
    values = properties.encode(naming.VDI_NAME, properties.text(source.values, naming.VDI_NAME))
    values.update(properties.encode(naming.VDI_DESCRIPTION, properties.text(source.values, naming.VDI_DESCRIPTION)))
    if properties.decode(source.values, naming.VDI_SHARABLE) is True:
        values.update(properties.encode(naming.VDI_SHARABLE, value=True))
    if naming.TYPE in source.keys:
        values.update(properties.encode_key(naming.TYPE, source.keys[naming.TYPE]))
    return values


def make(sr: SR, source: VDI, name: str, uuid: str, values: "dict[str, str]") -> None:
    """Makes the zvol `name` below the root with the content of a VDI and these properties. Raises Exists, NoSpace.

    A snapshot never changes: what is made from it is made from what it was made from, so that families do not grow
    deeper with every snapshot, and a snapshot can always be removed whole. A crash leaves at most a ZFS snapshot that
    nothing was made from.
    """
    is_frozen = source.is_snapshot and source.values.get("readonly") == "on" and "origin" in source.values
    base = source.values["origin"] if is_frozen else f"{source.zvol}@{uuid}"
    try:
        if not is_frozen:
            changes.create_snapshot(sr.zfs, base)
        try:
            changes.clone(sr.zfs, base, sr.volume(name), values)
        except StorageError:
            programs.prune(sr.zfs, sr.dataset, [base])
            raise
    except NoSpace as error:
        raise NoSpace(
            f"The SR {sr.uuid} has no room for a snapshot or clone of {source.key}: one of a thick disk needs as much "
            f"as the disk holds, one of a thin disk some megabytes. {error}"
        ) from None


def adopt_siblings(sr: SR, source: VDI, uuid: str) -> None:
    """Makes the VDI `uuid` the one that its sibling snapshots are snapshots of, if theirs has been removed.

    xapi reverts a disk by removing it and cloning its snapshot, then does the same in its own database, and does not
    tell: the next scan would take it back. Before the clone is made: a crash in between leaves snapshots of a VDI that
    is not there, as it was before.
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


def remove(sr: SR, key: str, action: str, done: str) -> "dict[str, int]":
    """Removes the VDI at once, as zfs.programs.remove does. Raises VDIInUse.

    `done`: what was to be done with the VDI, for the sentence that says it was not. The answer is for `bury`.
    """
    try:
        kept = programs.remove(sr.zfs, sr.dataset, key, action)
    except Busy as error:
        from zfsvol.host import blockdevice  # it looks at all processes: for the sentence alone

        name = str(error).rpartition("/")[2]
        users = ", ".join(blockdevice.open_zvols(sr.dataset).get(name, [])) or "a VM or the kernel"
        raise VDIInUse(f"The VDI {name} is in use by {users}, and was not {done}.") from None
    if kept.foreign:
        sr.note_kept(is_any=True)
    return kept.reserved


def discard(sr: SR, name: str) -> None:
    """Removes a zvol that is only half made, or that a revert has left. Idempotent.

    What snapshots of others keep of it gives its name free, as that of a removed VDI does.
    """
    try:
        kept = programs.remove(sr.zfs, sr.dataset, name, "discard")
    except Missing:
        return
    if kept.foreign:
        sr.note_kept(is_any=True)
    bury(sr, kept.reserved)


def bury(sr: SR, kept: "dict[str, int]") -> None:
    """Gives removed zvols the names of such and drops their reservations; `kept`: datasets, and reserved bytes.

    For clients the VDIs are gone already. Neither step needs room within the SR's quota. A crash leaves some of it for
    `repair`.
    """
    for dataset, reserved in kept.items():
        if reserved:
            changes.set_properties(sr.zfs, dataset, {"refreservation": "none"})
        name = dataset.rpartition("/")[2]
        _move(sr, dataset, sr.grave(naming.reverted(name) or name, os.urandom(4).hex()))


def _move(sr: SR, dataset: str, name: str) -> None:
    end = time.monotonic() + _SPACE_LIMIT
    while True:
        try:
            changes.rename(sr.zfs, dataset, name)
            return
        except NoSpace:  # what the removal has freed takes a moment to be free
            if time.monotonic() > end:
                raise
            time.sleep(_SPACE_PAUSE)


def prune_graves(sr: SR) -> None:
    """Frees what removed zvols do not need any more, as snapshots of others that kept it are gone.

    Where the newest of these is gone, and older ones are not, the zvol still has that one's content.
    """
    from zfsvol.repository import family  # for SRs that others make snapshots of

    columns = ("name", "type", "written", "clones", "userrefs")
    rows = datasets.listing(sr.zfs, sr.dataset, types="volume,snapshot", columns=columns)
    found = {row[0]: dict(zip(columns, row)) for row in rows if naming.is_grave(row[0][len(sr.dataset) + 1 :])}
    kept = {
        name.partition("@")[0]
        for name, values in found.items()
        if "@" in name and (family.is_needed(values) or family.is_of_others(name, values))
    }
    unneeded = [
        name
        for name, values in found.items()
        if "@" not in name and (name not in kept or int(values["written"]) >= family.EMPTY_CLONE)
    ]
    if unneeded:
        programs.prune(sr.zfs, sr.dataset, unneeded)


def prepare_revert(sr: SR, source: VDI, target: VDI) -> None:
    """The first step of Volume.revert: makes, beside the VDI `target`, what it will be, with all that is set on it.

    `target.values` are its settings. Raises NoSpace.
    """
    values = dict(target.values)
    if values.get("refreservation", "0") not in ("0", "none"):
        values["refreservation"] = "auto"
    # The clone-on-boot temporary is of the old content.
    temporary = properties.key_property(naming.TEMPORARY)
    for name in [name for name in values if name in _NOT_KEPT or name.partition(".")[0] == temporary]:
        del values[name]
    name = naming.revert_name(target.key)
    try:
        make(sr, source, name, new_uuid(), values)
    except Exists:  # a revert was killed before it had any effect
        discard(sr, name)
        make(sr, source, name, new_uuid(), values)


def finish_revert(sr: SR, key: str) -> None:
    """The last steps of Volume.revert, by what is there. Raises NoSpace, Busy."""
    kept: "dict[str, int]" = {}
    try:
        values = datasets.properties(sr.zfs, sr.volume(key))
    except Missing:
        pass
    else:
        kept = {sr.volume(key): int(values.get("refreservation", "0"))}
    take_place(sr, key, kept)


def take_place(sr: SR, key: str, kept: "dict[str, int]") -> None:
    """The zvol that is the VDI gets the VDI's name, once what had it has another; `kept` as for `bury`."""
    bury(sr, kept)
    _move(sr, sr.volume(naming.revert_name(key)), sr.volume(key))
