# SPDX-License-Identifier: LGPL-2.1-only
"""The disks of pools: which may be searched for pools, and which a new pool may use. Changes nothing.

A guest may write the label of any pool to its disk. So zpool only gets devices that must be the host's own, and a
device counts as empty only if it is known to be.
"""

import errno
import os
import stat
import time

from zfsvol.errors import DeviceInvalid, SRInUse
from zfsvol.host import blockdevice, command
from zfsvol.zfs import pools

_DESTROYED = "2"  # a pool's state in its label
_SMALLEST = 64 << 20  # bytes; SPA_MINDEVSIZE of OpenZFS, which zpool looks at only after it has written to the disk

# Seconds that udev or blkid may keep a device open that has just changed.
_IDLE_LIMIT = 5
_POLL = 0.1

# blkid's exit statuses, and the fields that it reads from the partition table and not from the partition.
_NOTHING, _AMBIVALENT = 2, 8
_OF_THE_TABLE = ("DEVNAME", "PART_ENTRY_")

# The partitions that zpool makes on a whole disk: one for the pool, and a small one at the end.
_ZFS_TYPES = ("6a898cc3-1dd2-11b2-99a6-080020736631", "6a945a3b-1dd2-11b2-99a6-080020736631")


def searchable(named: "list[str]", in_use: "list[str]") -> "list[str]":
    """The devices that may be searched for pools, by stable names: the host's own, and the `named` ones.

    The partitions of named devices are included. Zvols and devices on zvols are never included; nor are the disks of
    imported pools (`in_use`), since a read from a failed disk may take for ever. Opens no device.
    """
    taken = {name for path in in_use for name in blockdevice.below(blockdevice.kernel_name(path))}
    wanted = {blockdevice.kernel_name(path) for path in named}
    wanted |= {blockdevice.kernel_name(node) for path in named for node in blockdevice.partitions(path)}
    lasting = blockdevice.stable_names()
    found = []
    for name in blockdevice.all_names():
        if name in taken:
            continue
        if name in wanted:
            if not blockdevice.is_on_zvol(name):
                found.append(name)
        # A member of an array, or one of several paths, is searched through the device built on it.
        elif blockdevice.is_host_disk(name) and not blockdevice.holders(name):
            found.append(name)
    return [lasting.get(name, blockdevice.node(name)) for name in found]


def pools_on(devices: "list[str]") -> "set[str]":
    """The guids of the pools that have labels on the devices or their partitions."""
    nodes = [
        node
        for device in devices
        if not blockdevice.is_on_zvol(blockdevice.kernel_name(device))
        for node in [*blockdevice.partitions(device), device]
    ]
    return {label["pool_guid"] for label in map(pools.label, nodes) if "pool_guid" in label}


def require_free(path: str) -> None:
    """Raises DeviceInvalid if a pool cannot use the device, SRInUse if anything uses it or a part of it."""
    try:
        is_block = stat.S_ISBLK(os.stat(path).st_mode)
    except OSError as error:
        raise DeviceInvalid(f"{path}: {error.strerror}.") from None
    if not is_block:
        raise DeviceInvalid(f"{path} is not a block device.")
    if blockdevice.is_on_zvol(blockdevice.kernel_name(path)):
        raise DeviceInvalid(f"{path} is a zvol, or lies on one: a pool cannot be made of a disk in another pool.")
    try:
        # The kernel refuses an exclusive open while a mount, swap, RAID, LVM or pool holds the device or a partition
        # of it.
        descriptor = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _in_use(path, blockdevice.users(path)) from None
        raise DeviceInvalid(f"{path} cannot be opened: {error.strerror}.") from None
    size = os.lseek(descriptor, 0, os.SEEK_END)
    os.close(descriptor)
    if size < _SMALLEST:
        raise DeviceInvalid(f"{path} has {size} bytes; a pool needs devices of {_SMALLEST} bytes or more.")
    end = time.monotonic() + _IDLE_LIMIT
    while True:
        users = blockdevice.users(path)
        if not users:
            return
        if time.monotonic() > end:
            raise _in_use(path, users)
        time.sleep(_POLL)


def _in_use(path: str, users: "list[str]") -> SRInUse:
    if not users:
        on_it = pools_on([path])
        users = [f"the pool {name} is on it" for guid, name in pools.imported().items() if guid in on_it]
    users = users or ["a program holds it ('fuser -v' and 'lsblk' may show which)"]
    return SRInUse(f"{path} is in use: {'; '.join(users[:3])}. Choose another device.")


def require_empty(path: str) -> None:
    """Raises SRInUse unless the device is known to hold nothing, or only the remains of a destroyed pool."""
    found = content(path)
    if found:
        raise SRInUse(
            f"{path} holds {found}. Use another device, wipe this one ('wipefs -a {path}'), or set "
            "device-config:force-create=true."
        )


def content(path: str) -> str:
    """What the device holds, in words; "" only if it is nothing, or the remains of a destroyed pool.

    A partition table counts as content: its partitions may hold data that blkid does not recognise.
    """
    found = _content(path)
    return "" if not found or _is_destroyed_pool(path, found) else _described(path, found)


def _content(path: str) -> "dict[str, str]":
    """What blkid finds on the device; empty only if blkid is certain that there is nothing."""
    try:
        output = command.run(["blkid", "-p", "-o", "export", path], command.READ_LIMIT)
    except command.CommandFailed as error:
        if error.status == _NOTHING:
            return {}
        said = "signatures of several kinds" if error.status == _AMBIVALENT else "something that blkid cannot read"
        return {"UNKNOWN": said}
    pairs = (line.partition("=") for line in output.splitlines())
    return {name: value for name, _, value in pairs if not name.startswith(_OF_THE_TABLE)}


def _described(path: str, content: "dict[str, str]") -> str:
    kind = content.get("TYPE", "")
    if kind == "zfs_member":
        name = pools.label(path).get("name", "of unknown name")
        return f"a disk of the pool {name}"
    if kind:
        return kind + (f" ({content['LABEL']})" if content.get("LABEL") else "")
    if "PTTYPE" not in content:
        return content.get("UNKNOWN", "something")
    inside = []
    for node in blockdevice.partitions(path):
        found = _content(node)
        inside.append(f"{node} holds {_described(node, found)}" if found else f"{node} holds nothing known")
    return "a partition table ({}){}".format(content["PTTYPE"], "; " + ", ".join(inside) if inside else "")


def _is_destroyed_pool(path: str, content: "dict[str, str]") -> bool:
    """Whether the device holds only the remains of a destroyed pool, including the partitions that zpool made."""
    if content.get("TYPE") == "zfs_member" and "PTTYPE" not in content:
        return pools.label(path).get("state") == _DESTROYED
    parts = blockdevice.partitions(path)
    if content.get("PTTYPE") != "gpt" or "TYPE" in content or not parts:
        return False
    if not all(_partition_type(node) in _ZFS_TYPES for node in parts):
        return False
    inside = [(node, _content(node)) for node in parts]
    held = [(node, found) for node, found in inside if found]
    return bool(held) and all(_is_destroyed_pool(node, found) for node, found in held)


def _partition_type(node: str) -> str:
    try:
        argv = ["blkid", "-p", "-o", "value", "-s", "PART_ENTRY_TYPE", node]
        return command.run(argv, command.READ_LIMIT).strip().lower()
    except command.CommandFailed:
        return ""
