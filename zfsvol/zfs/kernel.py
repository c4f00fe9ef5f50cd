# SPDX-License-Identifier: LGPL-2.1-only
"""The state of the ZFS kernel module and of its pools, read without a child process and without ever waiting."""

import os

from zfsvol import log
from zfsvol.errors import SRUnavailable
from zfsvol.host import command, files

_KSTAT = "/proc/spl/kstat/zfs"
_HOSTID = "/etc/hostid"
_MODULE_HOSTID = "/sys/module/spl/parameters/spl_hostid"

SUSPENDED = "SUSPENDED"


def is_loaded() -> bool:
    """Whether the kernel module is loaded."""
    return os.path.exists("/dev/zfs")


def load_module() -> None:
    """Loads the kernel module if it is not loaded. Raises SRUnavailable if that fails."""
    if is_loaded():
        return
    try:
        command.run(["modprobe", "zfs"], command.READ_LIMIT)
    except command.CommandFailed as error:
        raise SRUnavailable(f"The ZFS kernel module cannot be loaded: {error}") from None


def ensure_hostid() -> None:
    """Gives this host an id if it has none. Never changes an existing one.

    ZFS writes the id into the labels of the pools that it imports, and refuses a pool with another host's id. If both
    hosts lack an id, it imports a pool that the other host uses without a warning. The module reads the file each time.
    The format is zgenhostid's: 4 bytes. A crash leaves no file, or a complete one.
    """
    if has_hostid():
        return
    number = 0
    while number == 0:
        number = int.from_bytes(os.urandom(4), "little")
    temporary = f"{_HOSTID}.{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            file.write(number.to_bytes(4, "little"))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.link(temporary, _HOSTID)  # not rename: another verb may have made the file meanwhile
    except FileExistsError:
        pass
    except OSError as error:
        log.warning(f"{_HOSTID} cannot be made: {error}. ZFS will not notice if another host uses a pool.")
    finally:
        files.remove(temporary)


def has_hostid() -> bool:
    """Whether the kernel has a host id to write into the labels of pools."""
    try:
        return os.path.exists(_HOSTID) or int(files.text(_MODULE_HOSTID)) != 0
    except (OSError, ValueError):
        return False


def state(pool: str) -> "str | None":
    """The pool's state in the kernel: ONLINE, DEGRADED, FAULTED, SUSPENDED …; None if the pool is not imported."""
    try:
        return files.proc_text(os.path.join(_KSTAT, pool, "state")).strip()
    except OSError:
        return None
