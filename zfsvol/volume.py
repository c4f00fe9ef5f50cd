# SPDX-License-Identifier: LGPL-2.1-only
"""The Volume verbs: a VDI is a zvol below the SR's root, its metadata are properties of that zvol.

Arguments and results are those of the SMAPIv3 interface; sizes are bytes. A crash, at whatever moment, leaves each VDI
as it was or as it was asked for: what clients see of a change happens in one transaction.
"""

import time

from zfsvol import blockdevice, family, lock, naming, properties, zfs
from zfsvol import root as roots
from zfsvol.errors import (
    ForeignSnapshots,
    InvalidArgument,
    InvalidSize,
    NoSpace,
    SRExists,
    SRUnavailable,
    StorageError,
    VDIInUse,
    VDIUnavailable,
)
from zfsvol.naming import Root, require_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

# Sizes are multiples of 2 MiB: VHD export rounds to that, and backup tools read change bitmaps in such steps.
GRANULE = 2 << 20
# The client's integers have 63 bits; ZFS would take more.
LARGEST = (1 << 63) - GRANULE

# What a reverted disk does not keep: what is the snapshot's, or the datapath's; and its clone-on-boot temporary, which
# is of its old content.
_NOT_KEPT = ("volsize", "volmode")


def create(dbg: str, sr: str, name: str, description: str, size: int, sharable: bool) -> "dict[str, object]":  # noqa: FBT001
    """Makes an empty VDI of at least `size` bytes and answers with its `volume` record.

    Raises InvalidSize, InvalidArgument (a text is too long), NoSpace, SRUnavailable.
    """
    size = rounded(size)
    values = properties.encode(naming.VDI_NAME, name)
    values.update(properties.encode(naming.VDI_DESCRIPTION, description))
    if sharable:
        values.update(properties.encode(naming.VDI_SHARABLE, value=True))
    root = roots.find(sr)
    uuid = new_uuid()
    with lock.sr(root.uuid, exclusive=False):
        sr_values = roots.read(root)
        sparse = sr_values.get(naming.SR_PROVISIONING) != "thick"
        if not sparse and size > int(sr_values["available"]):
            raise _no_space(root, size, sr_values)
        try:
            zfs.create_volume(
                root.volume(uuid),
                size,
                volblocksize=int(sr_values[naming.SR_VOLBLOCKSIZE]),
                sparse=sparse,
                values=values,
            )
        except NoSpace:
            raise _no_space(root, size, sr_values) from None
    return record(root, uuid, dict(values, volsize=str(size)), taken=0 if sparse else size)


def _no_space(root: Root, size: int, sr_values: "dict[str, str]") -> NoSpace:
    return NoSpace(
        f"A disk of {size} bytes does not fit: the SR {root.uuid} has {sr_values['available']} bytes free for its "
        "reservation (thick) or its metadata (thin). What was deleted lately may take some seconds to become free."
    )


def rounded(size: int) -> int:
    """The size that a VDI of at least `size` bytes has. Raises InvalidSize."""
    if size <= 0:
        raise InvalidSize(f"{size} bytes; a disk has at least one byte.")
    if size > LARGEST:
        raise InvalidSize(f"{size} bytes; the largest possible disk has {LARGEST}.")
    return -(-size // GRANULE) * GRANULE


def new_uuid() -> str:
    """A random uuid, made by the kernel: importing Python's uuid module would cost more time than the verb."""
    with open("/proc/sys/kernel/random/uuid") as file:
        return file.read().strip()


def missing(root: Root, key: str) -> StorageError:
    """The error for a VDI that is not there: the SR itself may be what is missing, or a revert half done."""
    try:
        roots.read(root)
        zfs.properties(root.volume(naming.revert_name(key)))
    except SRUnavailable as error:
        return error
    except zfs.Missing:
        return VDIUnavailable(f"The SR {root.uuid} has no VDI {key}.")
    return family.Interrupted(root)


def record(root: Root, uuid: str, values: "dict[str, str]", *, taken: int) -> "dict[str, object]":
    """The interface's `volume` record of a zvol with these properties, which takes `taken` bytes of the pool."""
    keys = properties.decode_keys(values)
    # Storage migration takes any VDI with the same content_id for a common base, an empty one included.
    keys.setdefault("content_id", uuid)
    return {
        "key": uuid,
        "uuid": uuid,
        "name": properties.text(values, naming.VDI_NAME),
        "description": properties.text(values, naming.VDI_DESCRIPTION),
        "read_write": values.get("readonly") != "on",
        "sharable": properties.decode(values, naming.VDI_SHARABLE) is True,
        "virtual_size": int(values["volsize"]),
        "physical_utilisation": taken,
        "uri": [root.uri(uuid)],
        "keys": keys,
    }


@family.resuming
def listed(root: Root) -> "list[dict[str, object]]":
    """The records of all VDIs of the SR: complete, or an error."""
    with lock.sr(root.uuid, exclusive=False):
        try:
            sr_values, found = zfs.volumes(root.dataset)
        except zfs.Missing:
            raise roots.missing(root) from None
    roots.require(root, sr_values)
    for name in map(naming.reverted, found):
        if name is not None and not family.is_vdi(name, found.get(name, {})):
            raise family.Interrupted(root)
    charges = family.charges(root, found)
    return [record(root, name, found[name], taken=charges[name]) for name in sorted(charges)]


@family.resuming
def stat(dbg: str, sr: str, key: str) -> "dict[str, object]":
    """The VDI's `volume` record. Raises VDIUnavailable, SRUnavailable.

    Its physical_utilisation is what its own zvol takes; SR.ls adds what the zvols of removed VDIs take.
    """
    root = roots.find(sr)
    require_uuid(key, "The VDI")
    with lock.sr(root.uuid, exclusive=False):
        values = _read(root, key)
    return record(root, key, values, taken=int(values["used"]))


def _read(root: Root, key: str, reader: "Callable[[str], dict[str, str]]" = zfs.properties) -> "dict[str, str]":
    try:
        values = reader(root.volume(key))
    except zfs.Missing:
        raise missing(root, key) from None
    if not family.is_vdi(key, values):
        raise missing(root, key)
    return values


def snapshot(dbg: str, sr: str, key: str) -> "dict[str, object]":
    """Makes a VDI that has the content of this one now, for good, and answers with its `volume` record.

    Of any VDI, in use or not. The client sets the keys of a snapshot after this; they are here already, so that a
    crash in between leaves a snapshot and not a disk. Raises NoSpace, VDIUnavailable, SRUnavailable; a crash leaves at
    most a ZFS snapshot that nothing was made from, which SR.attach removes.
    """
    return _derived(sr, key, is_snapshot=True)


def clone(dbg: str, sr: str, key: str) -> "dict[str, object]":
    """Makes a writable VDI with the content of this one, and answers with its `volume` record.

    Of any VDI, in use or not. Raises and leaves behind as `snapshot`.
    """
    return _derived(sr, key, is_snapshot=False)


@family.resuming
def _derived(sr: str, key: str, *, is_snapshot: bool) -> "dict[str, object]":
    root = roots.find(sr)
    require_uuid(key, "The VDI")
    uuid = new_uuid()
    with lock.sr(root.uuid, exclusive=False):
        source = _read(root, key, zfs.inherited_properties)
        keys = properties.decode_keys(source)
        values = properties.encode(naming.VDI_NAME, properties.text(source, naming.VDI_NAME))
        values.update(properties.encode(naming.VDI_DESCRIPTION, properties.text(source, naming.VDI_DESCRIPTION)))
        if properties.decode(source, naming.VDI_SHARABLE) is True:
            values.update(properties.encode(naming.VDI_SHARABLE, value=True))
        if naming.TYPE in keys:
            values.update(properties.encode_key(naming.TYPE, keys[naming.TYPE]))
        if is_snapshot:
            values[naming.VDI_SNAPSHOT] = "true"
            values["readonly"] = "on"
            values.update(properties.encode_key(naming.IS_A_SNAPSHOT, "true"))
            values.update(properties.encode_key(naming.SNAPSHOT_OF, key))
            values.update(properties.encode_key(naming.SNAPSHOT_TIME, time.strftime(naming.DATE, time.gmtime())))
        else:
            # Inherited, it would be that of the zvol this one is made from.
            if source.get(naming.SR_PROVISIONING) == "thick":
                values["refreservation"] = "auto"
            _adopt_siblings(root, keys, uuid)
        _make(root, key, source, uuid, uuid, values)
    taken = int(source["volsize"]) if "refreservation" in values else 0
    return record(root, uuid, dict(values, volsize=source["volsize"]), taken=taken)


def _make(root: Root, key: str, source: "dict[str, str]", name: str, uuid: str, values: "dict[str, str]") -> None:
    """Makes the zvol `name` with the content of the VDI `key`, whose properties are `source`. Raises NoSpace.

    A snapshot never changes: what is made from it is made from what it was made from, so that families do not grow
    deeper with every snapshot, and a snapshot can always be removed whole.
    """
    is_frozen = naming.VDI_SNAPSHOT in source and source.get("readonly") == "on" and "origin" in source
    base = source["origin"] if is_frozen else f"{root.volume(key)}@{uuid}"
    try:
        if not is_frozen:
            zfs.create_snapshot(base)
        try:
            zfs.clone(base, root.volume(name), values)
        except StorageError:
            zfs.settle(root.dataset, [base])
            raise
    except NoSpace as error:
        raise NoSpace(
            f"The SR {root.uuid} has no room for a snapshot or clone of {key}: one of a thick disk needs as much as "
            f"the disk holds, one of a thin disk some megabytes. {error}"
        ) from None


def _adopt_siblings(root: Root, keys: "dict[str, str]", uuid: str) -> None:
    """Makes the VDI `uuid` the one that its sibling snapshots are snapshots of, if theirs has been removed.

    xapi reverts a disk by removing it and cloning its snapshot, then does the same in its own database, and does not
    tell: the next scan would take it back. Before the clone is made: a crash in between leaves snapshots of a VDI that
    is not there, as it was before.
    """
    lost = keys.get(naming.SNAPSHOT_OF) if keys.get(naming.IS_A_SNAPSHOT) == "true" else None
    if lost is None:
        return
    if naming.is_uuid(lost):
        try:
            _read(root, lost)
            return
        except VDIUnavailable:
            pass
    siblings = [
        root.volume(name)
        for name, values in zfs.volumes(root.dataset)[1].items()
        if family.is_vdi(name, values) and properties.decode_keys(values).get(naming.SNAPSHOT_OF) == lost
    ]
    zfs.set_on_vdis(siblings, properties.encode_key(naming.SNAPSHOT_OF, uuid))


@family.resuming
def revert(dbg: str, sr: str, snapshot: str, key: str) -> None:
    """Gives the VDI `key` the content and the size of `snapshot`; all else of it, and all other VDIs, stay.

    Raises VDIInUse while it is open, InvalidArgument (`snapshot` is none, `key` is one), NoSpace, VDIUnavailable. Once
    the VDI's old content is removed, a crash leaves the rest to the next verb that looks for the VDI, or SR.attach.
    """
    from zfsvol import attachment

    root = roots.find(sr)
    require_uuid(key, "The VDI")
    require_uuid(snapshot, "The snapshot")
    with lock.sr(root.uuid, exclusive=True), lock.vdi_inside(key):
        source = _read(root, snapshot)
        values = _read(root, key, zfs.settings)
        if naming.VDI_SNAPSHOT not in source:
            raise InvalidArgument(f"The VDI {snapshot} is no snapshot: a disk can be reverted to a snapshot only.")
        if naming.VDI_SNAPSHOT in values:
            raise InvalidArgument(f"The VDI {key} is a snapshot, which never changes: revert the disk, or clone it.")
        if values.get("refreservation", "0") not in ("0", "none"):
            values["refreservation"] = "auto"
        temporary = properties.key_property(naming.TEMPORARY)
        for name in [name for name in values if name in _NOT_KEPT or name.partition(".")[0] == temporary]:
            del values[name]
        lease = attachment.require_idle(root, key, "reverted")
        name = naming.revert_name(key)
        try:
            _make(root, snapshot, source, name, new_uuid(), values)
        except SRExists:  # a revert was killed before it had any effect
            zfs.remove(root.dataset, name, "discard")
            _make(root, snapshot, source, name, new_uuid(), values)
        try:
            kept = _remove(root, key, "replace", "reverted")
        except StorageError:
            zfs.remove(root.dataset, name, "discard")
            raise
        attachment.withdraw_node(lease)
        family.bury(root, kept)
        zfs.rename(root.volume(name), root.volume(key))


@family.resuming
def destroy(dbg: str, sr: str, key: str) -> None:
    """Removes the VDI, and its clone-on-boot temporary. Idempotent.

    What only it took becomes free; what others were made from stays until the last of these is removed. Raises
    VDIInUse while it is open, ForeignSnapshots, SRUnavailable.
    """
    from zfsvol import attachment

    root = roots.find(sr)
    require_uuid(key, "The VDI")
    with lock.sr(root.uuid, exclusive=True), lock.vdi_inside(key):
        lease = attachment.require_idle(root, key, "destroyed")
        kept = _remove(root, key, "remove", "destroyed")
        attachment.withdraw_node(lease)
        family.bury(root, kept)
        lease.forget()


def _remove(root: Root, key: str, action: str, what: str) -> "dict[str, int]":
    """What zfs.remove answers; `what` was to be done with the VDI, for the sentence that says it was not.

    Its clone-on-boot temporary goes with it: nobody may have activated that, either.
    """
    temporary = _attached_temporary(root, key)
    if temporary is None:
        return _removed(root, key, action, what)
    from zfsvol import attachment

    with lock.vdi_inside(temporary):
        lease = attachment.require_idle(root, temporary, what)
        kept = _removed(root, key, action, what)
        attachment.withdraw_node(lease)
        lease.forget()
    return kept


def _attached_temporary(root: Root, key: str) -> "str | None":
    """The clone-on-boot temporary of the VDI, if somebody has it attached."""
    from zfsvol import lease as leases

    if not any(other != key for other in leases.all_of(root)):
        return None  # without a look at the keys
    try:
        temporary = properties.decode_keys(zfs.settings(root.volume(key))).get(naming.TEMPORARY, key)
    except zfs.Missing:
        return None
    return temporary if naming.is_uuid(temporary) and temporary != key and leases.exists(root, temporary) else None


def _removed(root: Root, key: str, action: str, what: str) -> "dict[str, int]":
    try:
        return zfs.remove(root.dataset, key, action)
    except zfs.Missing:
        error = missing(root, key)
        if isinstance(error, VDIUnavailable):
            return {}
        raise error from None
    except ForeignSnapshots:
        raise
    except VDIInUse as error:
        name = str(error).rpartition("/")[2]
        users = ", ".join(blockdevice.open_zvols(root.dataset).get(name, [])) or "a VM or the kernel"
        raise VDIInUse(f"The VDI {name} is in use by {users}, and was not {what}.") from None


@family.resuming
def resize(dbg: str, sr: str, key: str, new_size: int) -> None:
    """Grows the VDI to at least `new_size` bytes; who has its device node sees it grow.

    Raises InvalidSize (also for shrinking), NoSpace, VDIUnavailable, VDIInUse: a tapdisk would never notice.
    """
    from zfsvol import attachment, lease

    root = roots.find(sr)
    require_uuid(key, "The VDI")
    size = rounded(new_size)
    with lock.sr(root.uuid, exclusive=False), lock.vdi_inside(key):
        values = _read(root, key)
        if naming.VDI_SNAPSHOT in values:
            raise InvalidArgument(f"The VDI {key} is a snapshot, which never changes; clone it and grow the clone.")
        current = int(values["volsize"])
        if size < current:
            raise InvalidSize(f"the VDI {key} has {current} bytes and cannot shrink to {size}.")
        if size > current:
            attachment.require_idle(root, key, "resized", served_by=(lease.TAPDISK,))
            try:
                zfs.set_properties(root.volume(key), {"volsize": str(size)})
            except NoSpace as error:
                raise NoSpace(f"The VDI {key} cannot grow to {size} bytes: {error}") from None


@family.resuming
def set_name(dbg: str, sr: str, key: str, new_name: str) -> None:
    """Renames the VDI. Raises InvalidArgument (too long), VDIUnavailable, SRUnavailable."""
    _set(sr, key, properties.encode(naming.VDI_NAME, new_name))


@family.resuming
def set_description(dbg: str, sr: str, key: str, new_description: str) -> None:
    """Describes the VDI. Raises InvalidArgument (too long), VDIUnavailable, SRUnavailable."""
    _set(sr, key, properties.encode(naming.VDI_DESCRIPTION, new_description))


@family.resuming
def set(dbg: str, sr: str, key: str, k: str, v: str) -> None:  # noqa: A001
    """Stores the client's value `v` under its key `k`. Raises InvalidArgument (too long), VDIUnavailable."""
    _set(sr, key, properties.encode_key(k, v))


def _set(sr: str, key: str, values: "dict[str, str]") -> None:
    root = roots.find(sr)
    require_uuid(key, "The VDI")
    with lock.sr(root.uuid, exclusive=False):
        if not zfs.set_on_vdis([root.volume(key)], values):
            raise missing(root, key)


@family.resuming
def unset(dbg: str, sr: str, key: str, k: str) -> None:
    """Forgets the client's key `k`; one that is not there is no error. Raises VDIUnavailable, SRUnavailable."""
    root = roots.find(sr)
    require_uuid(key, "The VDI")
    with lock.sr(root.uuid, exclusive=False):
        if not zfs.unset_on_vdi(root.volume(key), properties.key_property(k)):
            raise missing(root, key)
