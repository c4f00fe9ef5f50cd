# SPDX-License-Identifier: LGPL-2.1-only
"""The host's block devices: may a pool have this one, and what is its lasting name. Changes nothing."""

import errno
import os
import stat

from zfsvol import command, files, zfs
from zfsvol.errors import DeviceInvalid, SRInUse

_BY_ID = "/dev/disk/by-id"
_SYS = "/sys/class/block"
_DESTROYED = "2"  # a pool's state in its label
_SMALLEST = 64 << 20  # bytes; SPA_MINDEVSIZE of OpenZFS, which zpool looks at only after it has written to the disk

# Names that tell a person which disk it is (model, serial number) come before mere numbers; names that other
# volume managers give to what they have built are no names of disks.
_PREFERRED = ("ata-", "nvme-", "scsi-", "sas-", "virtio-", "usb-", "wwn-")
_AVOIDED = ("lvm-pv-uuid-", "dm-uuid-", "md-uuid-")


def require_free(path: str) -> None:
    """Raises DeviceInvalid for what is no block device or too small, SRInUse where anything uses it or a part of it."""
    try:
        is_block = stat.S_ISBLK(os.stat(path).st_mode)
    except OSError as error:
        raise DeviceInvalid(f"{path}: {error.strerror}.") from None
    if not is_block:
        raise DeviceInvalid(f"{path} is not a block device.")
    try:
        # The kernel grants an exclusive open only if nobody holds the device: no mount, swap, RAID, LVM or pool, be
        # it on the whole device or on a partition of it.
        descriptor = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise SRInUse(f"{path} is in use: {_user(path)}. Choose another device.") from None
        raise DeviceInvalid(f"{path} cannot be opened: {error.strerror}.") from None
    size = os.lseek(descriptor, 0, os.SEEK_END)
    os.close(descriptor)
    if size < _SMALLEST:
        raise DeviceInvalid(f"{path} has {size} bytes; a pool needs devices of {_SMALLEST} bytes or more.")


def require_empty_partitions(path: str) -> None:
    """Raises SRInUse where a partition of the device holds something.

    zpool looks for itself at the device, but at its partitions only where it takes it for a disk: not on loop devices
    or device-mapper. What a destroyed pool has left counts as nothing.
    """
    for node in partitions(path):
        try:
            content = command.run(["blkid", "-p", "-o", "value", "-s", "TYPE", node], command.READ_LIMIT).strip()
        except command.CommandFailed:
            content = ""
        if not content:
            continue  # nothing that blkid knows
        if content == "zfs_member":
            pool = zfs.label(node)
            if pool.get("state") == _DESTROYED:
                continue
            content = f"a disk of the pool {pool.get('name', 'of unknown name')}"
        raise SRInUse(
            f"{path} has partitions, and {node} holds {content}. Use another device, wipe this one ('wipefs -a'), or "
            "set device-config:force-create=true."
        )


def partitions(path: str) -> "list[str]":
    """The nodes of the device's partitions."""
    name = os.path.basename(files.real_path(path))
    try:
        entries = os.listdir(os.path.join(_SYS, name))
    except OSError:
        return []
    return [
        "/dev/" + entry for entry in sorted(entries) if os.path.exists(os.path.join(_SYS, name, entry, "partition"))
    ]


def _user(path: str) -> str:
    """What uses a device, as well as /proc and /sys tell it."""
    nodes = [files.real_path(path), *partitions(path)]
    for table, what in (("/proc/mounts", "it is mounted on {}"), ("/proc/swaps", "it is swap space")):
        with open(table) as file:
            for line in file:
                fields = line.split()
                if len(fields) > 1 and fields[0].startswith("/") and files.real_path(fields[0]) in nodes:
                    return what.format(fields[1])
    for node in nodes:
        try:
            holders = os.listdir(os.path.join(_SYS, os.path.basename(node), "holders"))
        except OSError:
            holders = []
        if holders:
            return "{} is built on it".format(", ".join(sorted(holders)))
    guids = [zfs.label(node).get("pool_guid") for node in nodes]
    for guid, pool, _ in zfs.imported_pools():
        if guid in guids:
            return f"the pool {pool} is on it"
    return "a program holds it ('fuser -v' and 'lsblk' may tell which)"


def open_zvols(root: str) -> "dict[str, list[str]]":
    """The zvols below a dataset that programs of this host have open, by name, and which programs: `name (pid)`.

    The kernel's own users of a device (a mount, device-mapper, blkback) do not show here.
    """
    nodes: "dict[int, str]" = {}
    for directory, _, names in os.walk(os.path.join("/dev/zvol", root)):
        for name in names:
            try:
                nodes[os.stat(os.path.join(directory, name)).st_rdev] = name
            except OSError:
                continue  # a link that udev has not removed yet
    users: "dict[str, list[str]]" = {}
    for pid in filter(str.isdigit, os.listdir("/proc") if nodes else ()):
        for device in _open_devices(pid) & set(nodes):
            users.setdefault(nodes[device], []).append(f"{_command(pid)} ({pid})")
    return users


def _command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return "a program that has just ended"


def _open_devices(pid: str) -> "set[int]":
    """The device numbers of what a process has open; empty for one that is gone."""
    found = set()
    try:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            try:
                found.add(os.stat(f"/proc/{pid}/fd/{descriptor}").st_rdev)
            except OSError:
                continue
    except OSError:
        pass
    return found


def stable_name(path: str) -> str:
    """The device's name below /dev/disk/by-id, which survives re-cabling; `path` itself where it has none."""
    if path.startswith("/dev/disk/"):
        return path
    target = files.real_path(path)
    try:
        names = os.listdir(_BY_ID)
    except OSError:
        return path
    matching = [
        name
        for name in names
        if not name.startswith(_AVOIDED) and files.real_path(os.path.join(_BY_ID, name)) == target
    ]
    if not matching:
        return path

    def rank(name: str) -> "tuple[int, str]":
        places = [place for place, prefix in enumerate(_PREFERRED) if name.startswith(prefix)]
        return (places[0] if places else len(_PREFERRED), name)

    return os.path.join(_BY_ID, min(matching, key=rank))
