# SPDX-License-Identifier: LGPL-2.1-only
"""The host's block devices: names, partitions, the devices below them, their users. Opens none and changes nothing."""

import os
import re

from zfsvol.host import files, process

_SYS = "/sys/class/block"
_NUMBERS = "/sys/dev/block"
_BY_ID = "/dev/disk/by-id"
_UDEV = "/run/udev/data"
BACKENDS = "/sys/bus/xen-backend/devices"  # blkback's are vbd-<domid>-<device>

# Names with model and serial number, which people recognise, come before mere numbers. Names that volume managers
# give to what they built do not name disks.
_PREFERRED = ("ata-", "nvme-", "scsi-", "sas-", "virtio-", "usb-", "wwn-")
_AVOIDED = ("lvm-pv-uuid-", "dm-uuid-", "md-uuid-")

# Patterns of kernel names.
_ZVOL = re.compile(r"zd\d")
# Devices with content that others write (loop devices, tapdisk's, nbd's), or with no lasting content.
_NO_DISK = re.compile(r"(loop|td|tapdev|nbd|ram|zram|fd|sr|rbd)\d")
_MULTIPATH = re.compile(r"(part\d+-)?mpath-")


def kernel_name(path: str) -> str:
    """The kernel's name of the device at a path: sdb1, dm-3."""
    return os.path.basename(files.real_path(path))


def all_names() -> "list[str]":
    """The kernel's names of all block devices that have a size."""
    return [name for name in files.names(_SYS) if _read(name, "size") not in ("", "0")]


def _read(name: str, attribute: str) -> str:
    try:
        return files.text(os.path.join(_SYS, name, attribute)).strip()
    except OSError:
        return ""


def partitions(path: str) -> "list[str]":
    """The nodes of the device's partitions."""
    name = kernel_name(path)
    directory = os.path.join(_SYS, name)
    return [
        "/dev/" + entry
        for entry in files.names(directory)
        if os.path.exists(os.path.join(directory, entry, "partition"))
    ]


def below(name: str) -> "set[str]":
    """The kernel names of the device and of all devices below it, at any depth."""
    found: "set[str]" = set()
    todo = [name]
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            todo += _next_below(current)
    return found


def _next_below(name: str) -> "list[str]":
    found = files.names(os.path.join(_SYS, name, "slaves")) + _backing(name)
    if os.path.exists(os.path.join(_SYS, name, "partition")):
        found.append(os.path.basename(os.path.dirname(files.real_path(os.path.join(_SYS, name)))))
    return found


def _backing(name: str) -> "list[str]":
    """The device behind a loop device: its backing device, or the device that holds its backing file."""
    path = _read(name, "loop/backing_file")
    if not path:
        return []
    if os.path.realpath(path).startswith("/dev/"):
        return [kernel_name(path)]
    try:
        number = os.stat(path).st_dev
    except OSError:
        return []
    device = os.path.join(_NUMBERS, f"{os.major(number)}:{os.minor(number)}")
    return [os.path.basename(files.real_path(device))] if os.path.exists(device) else []


def is_on_zvol(name: str) -> bool:
    """Whether the device is a zvol or lies on one."""
    return any(_ZVOL.match(lower) for lower in below(name))


def is_host_disk(name: str) -> bool:
    """Whether the device can only be the host's own: a disk, or a partition, md or multipath built on such alone."""
    if name.startswith("dm-"):
        # Logical volumes and other device-mapper devices may be guests' disks. The paths of a multipath device are
        # disks.
        return _MULTIPATH.match(_read(name, "dm/uuid")) is not None and not is_on_zvol(name)
    return not _ZVOL.match(name) and not _NO_DISK.match(name) and all(map(is_host_disk, _next_below(name)))


def holders(name: str) -> "list[str]":
    """The devices built on this one: md, multipath, LVM, encryption."""
    return files.names(os.path.join(_SYS, name, "holders"))


def node(name: str) -> str:
    """The device's path in /dev."""
    if name.startswith("dm-"):
        mapped = "/dev/mapper/" + _read(name, "dm/name")
        if os.path.exists(mapped):
            return mapped
    return "/dev/" + name.replace("!", "/")


def stable_names() -> "dict[str, str]":
    """The paths below /dev/disk/by-id, which survive re-cabling, by the devices' kernel names."""
    found: "dict[str, str]" = {}

    def rank(name: str) -> "tuple[int, str]":
        places = [place for place, prefix in enumerate(_PREFERRED) if name.startswith(prefix)]
        return (places[0] if places else len(_PREFERRED), name)

    for name in sorted(files.names(_BY_ID), key=rank):
        if not name.startswith(_AVOIDED):
            path = os.path.join(_BY_ID, name)
            found.setdefault(kernel_name(path), path)
    return found


def stable_name(path: str) -> str:
    """The device's path below /dev/disk/by-id; `path` itself if the device has none or `path` is below /dev/disk."""
    return path if path.startswith("/dev/disk/") else stable_names().get(kernel_name(path), path)


def whole(name: str) -> str:
    """The kernel name of the disk that the device is a partition of; else its own."""
    if not os.path.exists(os.path.join(_SYS, name, "partition")):
        return name
    return os.path.basename(os.path.dirname(files.real_path(os.path.join(_SYS, name))))


def size(path: str) -> "int | None":
    """The size of the device in bytes; None if it is not there."""
    sectors = _read(kernel_name(path), "size")
    return int(sectors) * 512 if sectors else None


def model_and_serial(path: str) -> "tuple[str, str]":
    """What stands on the label of the disk, by udev; of a multipath device, that of the first of its disks."""
    for name in sorted(map(whole, below(kernel_name(path))), reverse=True):
        try:
            lines = files.text(os.path.join(_UDEV, "b" + _read(name, "dev"))).splitlines()
        except OSError:
            continue
        found = dict(line[2:].split("=", 1) for line in lines if line.startswith("E:") and "=" in line)
        serial = found.get("ID_SERIAL_SHORT") or found.get("ID_SERIAL", "")
        if serial:
            return found.get("ID_MODEL", ""), serial
    return "", ""


def users(path: str) -> "list[str]":
    """The users of the device or its partitions, in words, as far as /proc and /sys show them."""
    nodes = [files.real_path(path), *partitions(path)]
    names = list(map(os.path.basename, nodes))
    numbers = {_read(name, "dev"): name for name in names}
    found = [f"it is mounted on {mount.path}" for mount in files.mounts() if _is_one_of(mount.source, nodes)]
    found += [f"it is swap space ({path})" for path in files.swaps() if _is_one_of(path, nodes)]
    found += [f"{holder} is built on it" for name in names for holder in holders(name)]
    found += [f"the loop device {loop} is made of it" for loop in files.names(_SYS) if set(_given(loop)) & set(names)]
    found += [f"the VM with domain id {domain} has it" for domain, number in _backends() if number in numbers]
    devices = {os.makedev(*map(int, number.split(":"))) for number in numbers if number}
    for pid in process.pids():
        if pid != str(os.getpid()) and process.open_devices(pid) & devices:
            found.append(f"{process.command(pid)} ({pid}) has it open")
    return found


def _is_one_of(path: str, nodes: "list[str]") -> bool:
    return path.startswith("/") and files.real_path(path) in nodes


def _given(loop: str) -> "list[str]":
    path = _read(loop, "loop/backing_file")
    return [kernel_name(path)] if path.startswith("/dev/") else []


def _backends() -> "list[tuple[str, str]]":
    """The domain and the device number of each disk that blkback serves. The number is as elsewhere in /sys: 253:3."""
    found = []
    for name in files.names(BACKENDS):
        if name.startswith("vbd-"):
            try:
                major, minor = files.text(os.path.join(BACKENDS, name, "physical_device")).strip().split(":")
                found.append((name.split("-")[1], f"{int(major, 16)}:{int(minor, 16)}"))
            except (OSError, ValueError):
                continue  # it is being set up or torn down
    return found


def open_zvols(root: str) -> "dict[str, list[str]]":
    """The zvols below a dataset that programs on this host have open, by name; for each, its programs: `name (pid)`.

    Users inside the kernel (a mount, device-mapper, blkback) do not show here.
    """
    nodes: "dict[int, str]" = {}
    for directory, _, names in os.walk(os.path.join("/dev/zvol", root.replace(" ", "+"))):
        for name in names:
            try:
                nodes[os.stat(os.path.join(directory, name)).st_rdev] = name
            except OSError:
                continue  # a link that udev has not removed yet
    found: "dict[str, list[str]]" = {}
    for pid in process.pids() if nodes else ():
        for device in process.open_devices(pid) & set(nodes):
            found.setdefault(nodes[device], []).append(f"{process.command(pid)} ({pid})")
    return found
