# SPDX-License-Identifier: LGPL-2.1-only
"""The device node of a zvol: made to appear while the VDI is attached, found, made to vanish.

A zvol has a node while its volmode is dev; the root's volmode, which all inherit, is none. Whose a node is the kernel
tells (BLKZNAME), so that links of udev, which come late, never, or lead to another zvol's node, are mere hints.
"""

import fcntl
import os
import re
import time

from zfsvol import files, log, zfs
from zfsvol.errors import NodeMissing, StorageError

_NODE = re.compile(r"zd[0-9]+\Z")  # not the partitions, zd0p1
# Of OpenZFS (include/sys/fs/zfs.h): the name of a zvol, by its open device; _IOR(0x12, 125, char[256]).
_BLKZNAME = (2 << 30) | (256 << 16) | (0x12 << 8) | 125

# Seconds.
_SHOW_LIMIT = 30
_HIDE_LIMIT = 10
_POLL = 0.002
_OPEN_TRIES = 5
_AGAIN = 1


def opened(path: str, zvol: str) -> "int | None":
    """A descriptor of the node, for reading, if it is that of the zvol. While it is open, it stays that of the zvol."""
    for _ in range(_OPEN_TRIES):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            break
        except FileNotFoundError:
            return None
        except OSError:
            time.sleep(_POLL)  # it is about to vanish, or ZFS is busy with the names of zvols
    else:
        return None
    try:
        name = fcntl.ioctl(descriptor, _BLKZNAME, bytes(256)).split(b"\0")[0]
    except OSError:
        name = b""
    if name == zvol.encode():
        return descriptor
    os.close(descriptor)
    return None


def is_of(path: str, zvol: str) -> bool:
    """Whether the path is the node of this zvol now."""
    descriptor = opened(path, zvol)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def _nodes() -> "set[str]":
    return {"/dev/" + name for name in os.listdir("/dev") if _NODE.match(name)}


def _find(zvol: str, paths: "set[str]") -> "str | None":
    return next((path for path in sorted(paths) if is_of(path, zvol)), None)


def _of_other_pools(zvol: str) -> "set[str]":
    """Those that udev says are of zvols in other pools: to open one of a suspended pool may take for ever."""
    own = os.path.join("/dev/zvol", zvol.partition("/")[0])
    found: "set[str]" = set()
    for directory, below, names in os.walk("/dev/zvol"):
        below[:] = [name for name in below if os.path.join(directory, name) != own]
        found.update(files.real_path(os.path.join(directory, name)) for name in names)
    return found


def linked(zvol: str) -> "str | None":
    """The zvol's node if udev's link leads to it."""
    path = files.real_path("/dev/zvol/" + zvol)
    return path if _NODE.match(os.path.basename(path)) and is_of(path, zvol) else None


def find(zvol: str) -> "str | None":
    """The zvol's node, None if it has none."""
    return linked(zvol) or _find(zvol, _nodes() - _of_other_pools(zvol))


def wait(zvol: str) -> None:
    """Until the zvol of which a node is to be expected has it, or for some seconds.

    ZFS makes it when it has replayed what was flushed to the zvol before the power went; without a node it would not.
    """
    end = time.monotonic() + _HIDE_LIMIT
    while find(zvol) is None and time.monotonic() < end:
        time.sleep(_POLL)


def show(zvol: str) -> str:
    """Makes the zvol's node appear, if it is not there, and answers with its path: /dev/zd16.

    Raises zfs.Missing, NodeMissing. A crash leaves the node, which `hide` takes back.
    """
    known = _nodes()
    zfs.set_properties(zvol, {"volmode": "dev"})
    began = again = time.monotonic()
    while True:
        # What was there before is looked at last: with many disks attached it would take its time.
        new = _nodes() - known
        path = (_find(zvol, new - _of_other_pools(zvol)) if new else None) or linked(zvol)
        if path is not None:
            return path
        now = time.monotonic()
        if now > began + _SHOW_LIMIT:
            raise NodeMissing(
                f"The zvol {zvol} has had no device node for {_SHOW_LIMIT} seconds. Look at the kernel's log, and "
                "whether udev works ('udevadm settle'), and try again."
            )
        if now > again + _AGAIN:
            known = set()
            zfs.set_properties(zvol, {"volmode": "dev"})
            again = now
        time.sleep(_POLL)


def _is_leaving(path: str) -> bool:
    """Whether it is the node of a zvol that ZFS has removed while something had it open; OpenZFS 2.3 does so."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def hide(zvol: str, path: "str | None") -> bool:
    """Takes the zvol's node away; `path` is where it was last seen. False if something has it open for too long.

    Never raises. ZFS is silent where it cannot remove a node because udev, blkid or LVM are looking at it: so it is
    told again until the node is gone.
    """
    began = time.monotonic()
    while True:
        try:
            zfs.inherit(zvol, "volmode")
        except zfs.Missing:
            return True
        except StorageError as error:
            log.warning(f"{zvol}: the device node stays: {error}")
            return False
        if path is None:
            path = find(zvol)
        elif not (is_of(path, zvol) or _is_leaving(path)):
            path = linked(zvol)  # and no look at all others, each time that a node goes
        if path is None:
            return True
        if time.monotonic() > began + _HIDE_LIMIT:
            log.warning(f"{zvol}: its device node {path} stays, something has it open ('fuser -v {path}')")
            _remember(zvol)
            return False
        time.sleep(0.05)


def _remember(zvol: str) -> None:
    """Lets the zvol's volmode tell of a node that could not be taken away: SR.attach looks for those."""
    try:
        zfs.set_properties(zvol, {"volmode": "dev"})
    except StorageError as error:
        log.warning(f"{zvol}: {error}")
