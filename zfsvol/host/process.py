# SPDX-License-Identifier: LGPL-2.1-only
"""Processes, as /proc shows them. A process may end while it is looked at."""

import os
import stat

from zfsvol.errors import StorageError
from zfsvol.host import files

# Of this process, if it becomes a daemon.
_DESCRIPTORS = 1024

_PF_EXITING = 0x4  # proc(5) and linux/sched.h: the process has begun to end


def pids() -> "list[str]":
    """The pids of all processes."""
    return [name for name in os.listdir("/proc") if name.isdigit()]


def command(pid: str) -> str:
    """The name of its program."""
    try:
        return files.text(f"/proc/{pid}/comm").strip()
    except OSError:
        return "a program that has just ended"


def open_devices(pid: str) -> "set[int]":
    """The numbers of the block devices that it has open; empty if the process is gone."""
    found = set()
    for name in _descriptors(pid):
        try:
            status = os.stat(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue  # just closed
        if stat.S_ISBLK(status.st_mode):
            found.add(status.st_rdev)
    return found


def _descriptors(pid: str) -> "list[str]":
    try:
        return os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []


def limit_descriptors() -> None:
    """Limits the descriptors of this process, which is about to become a daemon.

    python-daemon closes every one that the process may have, and half a million take a second and 60 MiB.
    """
    import resource  # for daemons only

    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))


def is_ending(pid: str) -> bool:
    """Whether it has begun to end but has not ended yet."""
    try:
        fields = files.text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in "ZX" and bool(int(fields[6]) & _PF_EXITING)


def environment(pid: str) -> "list[bytes]":
    """Its variables, `NAME=value`. Empty if no process has the pid, or if the process has ended or is ending.

    Raises StorageError if /proc cannot be read, as when memory is short: the process must not be taken for gone.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []
    except OSError as error:
        raise StorageError(f"The environment of the process {pid} cannot be read: {error}.") from None
