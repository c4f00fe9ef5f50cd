# SPDX-License-Identifier: LGPL-2.1-only
"""The Volume verbs: a VDI is a zvol below the SR's root, its metadata are properties of that zvol.

Arguments and results are those of the SMAPIv3 interface; sizes are bytes. Each verb that changes something does so
by one command, so a crash leaves the VDI as it was or as it was asked for.
"""

from zfsvol import lock, log, naming, properties, zfs
from zfsvol import root as roots
from zfsvol.errors import InvalidSize, NoSpace, SRUnavailable, StorageError, VDIInUse, VDIUnavailable
from zfsvol.naming import Root, require_uuid

# Sizes are multiples of 2 MiB: VHD export rounds to that, and backup tools read change bitmaps in such steps.
GRANULE = 2 << 20
# The client's integers have 63 bits; ZFS would take more.
LARGEST = (1 << 63) - GRANULE

# A zvol that nobody has written to refers to less than this, in bytes, before compression.
_EMPTY = 1 << 20


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
    values["volsize"] = str(size)
    values["used"] = "0" if sparse else str(size)
    return record(root, uuid, values)


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


def _missing(root: Root, key: str) -> StorageError:
    """The error for a VDI that is not there: the SR itself may be what is missing."""
    try:
        roots.read(root)
    except SRUnavailable as error:
        return error
    return VDIUnavailable(f"The SR {root.uuid} has no VDI {key}.")


def record(root: Root, uuid: str, values: "dict[str, str]") -> "dict[str, object]":
    """The interface's `volume` record of a zvol with these properties."""
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
        # What the zvol alone takes of the pool: the numbers of all VDIs add up to what the SR takes.
        "physical_utilisation": int(values["used"]),
        "uri": [root.uri(uuid)],
        "keys": keys,
    }


def is_vdi(name: str, values: "dict[str, str]") -> bool:
    """Whether a zvol below a root, with these properties, is a VDI and completely made."""
    return naming.is_uuid(name) and naming.VDI_NAME in values


def listed(root: Root) -> "list[dict[str, object]]":
    """The records of all VDIs of the SR: complete, or an error."""
    try:
        sr_values, found = zfs.volumes(root.dataset)
    except zfs.Missing:
        raise roots.missing(root) from None
    roots.require(root, sr_values)
    return [record(root, name, values) for name, values in sorted(found.items()) if is_vdi(name, values)]


def repair(root: Root) -> None:
    """Removes zvols whose making a power cut interrupted: without properties, and never written to.

    One that holds data is left alone and told of in the log: it is not this driver's.
    """
    for name, values in zfs.volumes(root.dataset)[1].items():
        if is_vdi(name, values) or not naming.is_uuid(name):
            continue
        if int(values["logicalreferenced"]) < _EMPTY:
            log.warning(f"removing {root.volume(name)}, left by an interrupted Volume.create")
            zfs.destroy(root.volume(name))
        else:
            log.warning(f"{root.volume(name)} is no VDI and holds data; it is left alone")


def stat(dbg: str, sr: str, key: str) -> "dict[str, object]":
    """The VDI's `volume` record. Raises VDIUnavailable, SRUnavailable."""
    root = roots.find(sr)
    require_uuid(key, "The VDI")
    return record(root, key, _read(root, key))


def _read(root: Root, key: str) -> "dict[str, str]":
    try:
        values = zfs.properties(root.volume(key))
    except zfs.Missing:
        raise _missing(root, key) from None
    if not is_vdi(key, values):
        raise _missing(root, key)
    return values


def destroy(dbg: str, sr: str, key: str) -> None:
    """Removes the VDI and frees its space. Idempotent. Raises VDIInUse while it is open, SRUnavailable."""
    root = roots.find(sr)
    require_uuid(key, "The VDI")
    with lock.sr(root.uuid, exclusive=False):
        try:
            zfs.destroy(root.volume(key))
        except zfs.Missing:
            roots.read(root)
        except VDIInUse:
            raise VDIInUse(f"The VDI {key} is in use and was not destroyed.") from None


def resize(dbg: str, sr: str, key: str, new_size: int) -> None:
    """Grows the VDI to at least `new_size` bytes. Raises InvalidSize (also for shrinking), NoSpace, VDIUnavailable."""
    root = roots.find(sr)
    require_uuid(key, "The VDI")
    size = rounded(new_size)
    with lock.sr(root.uuid, exclusive=False):
        current = int(_read(root, key)["volsize"])
        if size < current:
            raise InvalidSize(f"the VDI {key} has {current} bytes and cannot shrink to {size}.")
        if size > current:
            try:
                zfs.set_properties(root.volume(key), {"volsize": str(size)})
            except NoSpace as error:
                raise NoSpace(f"The VDI {key} cannot grow to {size} bytes: {error}") from None


def set_name(dbg: str, sr: str, key: str, new_name: str) -> None:
    """Renames the VDI. Raises InvalidArgument (too long), VDIUnavailable, SRUnavailable."""
    _set(sr, key, properties.encode(naming.VDI_NAME, new_name))


def set_description(dbg: str, sr: str, key: str, new_description: str) -> None:
    """Describes the VDI. Raises InvalidArgument (too long), VDIUnavailable, SRUnavailable."""
    _set(sr, key, properties.encode(naming.VDI_DESCRIPTION, new_description))


def set(dbg: str, sr: str, key: str, k: str, v: str) -> None:  # noqa: A001
    """Stores the client's value `v` under its key `k`. Raises InvalidArgument (too long), VDIUnavailable."""
    _set(sr, key, properties.encode_key(k, v))


def _set(sr: str, key: str, values: "dict[str, str]") -> None:
    root = roots.find(sr)
    require_uuid(key, "The VDI")
    with lock.sr(root.uuid, exclusive=False):
        try:
            zfs.set_properties(root.volume(key), values)
        except zfs.Missing:
            raise _missing(root, key) from None


def unset(dbg: str, sr: str, key: str, k: str) -> None:
    """Forgets the client's key `k`; one that is not there is no error. Raises VDIUnavailable, SRUnavailable."""
    root = roots.find(sr)
    require_uuid(key, "The VDI")
    with lock.sr(root.uuid, exclusive=False):
        try:
            zfs.unset_property(root.volume(key), properties.key_property(k))
        except zfs.Missing:
            raise _missing(root, key) from None
