# SPDX-License-Identifier: LGPL-2.1-only
"""The device node of a zvol: it exists while the VDI is attached.

A zvol has a node while its volmode is dev; all zvols inherit the volmode none from the root. The kernel says which zvol
a node belongs to (BLKZNAME). udev's links come late or never, or lead to another zvol's node: they are only hints.

Opening a node may never return if the pool's disk has failed and the pool has not noticed. So another process opens
it, and is abandoned after a time limit.
"""

import fcntl
import os
import re
import time

from zfsvol import log
from zfsvol.errors import NodeMissing, StorageError
from zfsvol.host import bounded, files
from zfsvol.zfs import changes
from zfsvol.zfs.pool import Missing, Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Callable

_NODE = re.compile(r"zd[0-9]+\Z")  # not the partitions, zd0p1
# OpenZFS's ioctl for the name of a zvol by its open device (include/sys/fs/zfs.h): _IOR(0x12, 125, char[256]).
_BLKZNAME = (2 << 30) | (256 << 16) | (0x12 << 8) | 125

# Seconds.
_OPEN_LIMIT = 15
_SHOW_LIMIT = 30
_HIDE_LIMIT = 10
_POLL = 0.002
_HIDE_POLL = 0.05
_OPEN_TRIES = 5
_AGAIN = 1


class Opened:
    """A process keeps the node open within the `with`, so that the node cannot become another zvol's."""

    def __init__(self, path: str, zvol: str) -> None:
        self._path = path
        self._zvol = zvol

    def __enter__(self) -> "Opened":  # noqa: PYI034 - Python 3.6 has no Self
        """Raises NodeMissing if the path is not this zvol's node, or if opening it takes too long."""
        self._process = bounded.Process(lambda: _matching([self._path], self._zvol))
        try:
            is_opened = bool(self._process.answer(_OPEN_LIMIT))
        except bounded.Stuck:
            self._process.close()
            raise _stuck(self._zvol) from None
        if not is_opened:
            self._process.close()
            raise NodeMissing(f"The device node {self._path} of the zvol {self._zvol} has just vanished: try again.")
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.close()


def _stuck(zvol: str) -> NodeMissing:
    return NodeMissing(
        f"The device of the zvol {zvol} does not answer. A disk of the pool {zvol.partition('/')[0]} may have failed: "
        "look at 'zpool status' and the kernel's log."
    )


def _matching(paths: "Iterable[str]", zvol: str) -> str:
    """The first of the paths that is the zvol's node, which stays open; "" if there is none. For `bounded`."""
    for path in paths:
        for _ in range(_OPEN_TRIES):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(_POLL)  # it is about to vanish, or ZFS is busy with the zvols' names
                continue
            try:
                name = fcntl.ioctl(descriptor, _BLKZNAME, bytes(256)).split(b"\0")[0]
            except OSError:
                name = b""
            if name == zvol.encode():
                return path
            os.close(descriptor)
            break
    return ""


def _asked(action: "Callable[[], str]", zvol: str, limit: float = _OPEN_LIMIT) -> str:
    try:
        return bounded.call(action, limit)
    except bounded.Stuck:
        raise _stuck(zvol) from None


def is_of(path: str, zvol: str) -> bool:
    """Whether the path is the node of this zvol now. Raises NodeMissing if it does not answer."""
    return os.path.exists(path) and bool(_asked(lambda: _matching([path], zvol), zvol))


def _nodes() -> "set[str]":
    return {"/dev/" + name for name in os.listdir("/dev") if _NODE.match(name)}


def _link(name: str) -> str:
    """The path of udev's link to a zvol, or of a pool's directory of links. zvol_id writes blanks as plus signs."""
    return "/dev/zvol/" + name.replace(" ", "+")


def _of_other_pools(zvol: str) -> "set[str]":
    """The nodes of zvols in other pools, by udev's links. Opening a node of a sick pool may take for ever."""
    own = _link(zvol.partition("/")[0])
    found: "set[str]" = set()
    for directory, below, names in os.walk("/dev/zvol"):
        below[:] = [name for name in below if os.path.join(directory, name) != own]
        found.update(files.real_path(os.path.join(directory, name)) for name in names)
    return found


def _linked(zvol: str) -> "list[str]":
    """The node that udev's link leads to."""
    path = files.real_path(_link(zvol))
    return [path] if _NODE.match(os.path.basename(path)) else []


def find(zvol: str) -> "str | None":
    """The zvol's node, None if it has none. Raises NodeMissing if nodes of the pool do not answer."""
    candidates = [*_linked(zvol), *sorted(_nodes() - _of_other_pools(zvol))]
    return (_asked(lambda: _matching(candidates, zvol), zvol) or None) if candidates else None


def wait(zvols: "Iterable[str]") -> None:
    """Waits until the zvols have the nodes that are due, for some seconds in all.

    ZFS makes a zvol's node once it has replayed the writes that were flushed before a power cut. A zvol whose node is
    hidden earlier is not replayed.
    """
    end = time.monotonic() + _HIDE_LIMIT
    for zvol in zvols:
        while time.monotonic() < end and find(zvol) is None:
            time.sleep(_HIDE_POLL)


def show(pool: Pool, zvol: str) -> str:
    """Makes the zvol's node appear, if it has none, and returns its path: /dev/zd16.

    Raises Missing, NodeMissing. A crash may leave the node, which `hide` removes.
    """
    known = _nodes()
    end = time.monotonic() + _SHOW_LIMIT
    while time.monotonic() < end:
        changes.set_properties(pool, zvol, {"volmode": "dev"})
        path = _appeared(zvol, known)
        if path:
            return path
        known = set()
    raise NodeMissing(
        f"The zvol {zvol} got no device node within {_SHOW_LIMIT} seconds. Look at the kernel's log, check that udev "
        "works ('udevadm settle'), and try again."
    )


def _appeared(zvol: str, known: "set[str]") -> str:
    """The zvol's node, as soon as it appears; "" if it does not within a second. Does not open the `known` nodes."""

    def look() -> str:
        end = time.monotonic() + _AGAIN
        while time.monotonic() < end:
            # New nodes first: with many disks attached, opening all of them would take long.
            new = _nodes() - known
            path = _matching([*sorted(new - _of_other_pools(zvol) if new else new), *_linked(zvol)], zvol)
            if path:
                return path
            time.sleep(_POLL)
        return ""

    return _asked(look, zvol, _AGAIN + _OPEN_LIMIT)


def hide(pool: Pool, zvol: str, path: "str | None") -> bool:
    """Removes the zvol's node; `path` is where it was last seen. False if it stays, as when something has it open.

    Raises nothing. ZFS fails silently while udev, blkid or LVM have the node open: so this repeats the command until
    the node is gone.
    """
    end = time.monotonic() + _HIDE_LIMIT
    try:
        while True:
            try:
                changes.inherit(pool, zvol, "volmode")
            except Missing:
                return True
            if path is None:
                path = find(zvol)
            elif not os.path.exists(path) or not _is_still_of(path, zvol):
                path = next(iter(_linked(zvol)), None)
                path = path if path is not None and is_of(path, zvol) else None
            if path is None:
                return True
            if time.monotonic() > end:
                break
            time.sleep(_HIDE_POLL)
    except StorageError as error:
        log.warning(f"{zvol}: its device node stays: {error}")
        return False
    log.warning(f"{zvol}: its device node {path} stays, since something has it open ('fuser -v {path}')")
    _remember(pool, zvol)
    return False


def _is_still_of(path: str, zvol: str) -> bool:
    """Whether the node is the zvol's, or belongs to a zvol that ZFS removed while it was open, as 2.3 does."""

    def look() -> str:
        if _matching([path], zvol):
            return path
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return ""
        except OSError:
            return path  # it is about to vanish
        return ""

    return bool(_asked(look, zvol))


def _remember(pool: Pool, zvol: str) -> None:
    """Marks a zvol whose node could not be removed by its volmode: SR.attach looks for those."""
    try:
        changes.set_properties(pool, zvol, {"volmode": "dev"})
    except StorageError as error:
        log.warning(f"{zvol}: {error}")
