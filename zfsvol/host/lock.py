# SPDX-License-Identifier: LGPL-2.1-only
"""Locks between verbs, which are processes of their own and may run in any number at once.

A lock is a file below `DIRECTORY`, in memory: gone at boot, as its holders are. Its file stays, so that everybody who
wants the lock means the same one. The kernel drops a lock with the last process that has its descriptor: the verb that
took it, and the commands that this verb has started for it.
"""

import fcntl
import os
import time

from zfsvol.errors import LockTimeout

DIRECTORY = "/run/lock/zfs-vol"

# Seconds. Importing a large pool may take minutes, and at host boot several verbs wait for each other's import.
POOL_LIMIT = 1800
DEVICES_LIMIT = 600
SEARCH_LIMIT = 30  # then without it: a disk that hangs must not keep all others from being found
SR_LIMIT = 120
VDI_LIMIT = 240  # stopping what serves a disk may take half of it
VDI_LIMIT_OF_EACH = 10  # for who looks at all of them

_CHANGES = "changes"

_POLL = 0.01
_POLL_MOST = 0.1  # of who has waited for long: a hundred that wait must not keep a processor busy


class Lock:
    """A lock, held within its `with`. `limit`: seconds to wait; then LockTimeout is raised."""

    def __init__(self, name: str, limit: float, *, shared: bool = False, queued: bool = True) -> None:
        """`queued`: whoever comes first is served first. Not so for a reader, whom a writer's wait must not hinder."""
        self.name = name
        self.descriptor = -1
        self._mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._limit = limit
        self._queued = queued

    def __enter__(self) -> "Lock":  # noqa: PYI034 - Python 3.6 has no Self
        deadline = time.monotonic() + self._limit
        os.makedirs(os.path.dirname(os.path.join(DIRECTORY, self.name)), mode=0o700, exist_ok=True)
        if self._queued:
            # Whoever wants the lock passes the gate, alone, and keeps it until the lock is had: then a stream of shared
            # holders cannot keep one exclusive waiter out for ever.
            gate = self._acquire(self.name + ".gate", fcntl.LOCK_EX, deadline)
            try:
                self.descriptor = self._acquire(self.name, self._mode, deadline)
            finally:
                os.close(gate)
        else:
            self.descriptor = self._acquire(self.name, self._mode, deadline)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the lock up before the end of its `with`. Idempotent."""
        if self.descriptor != -1:
            os.close(self.descriptor)
            self.descriptor = -1

    def _acquire(self, name: str, mode: int, deadline: float) -> int:
        path = os.path.join(DIRECTORY, name)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        pause = _POLL
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                return descriptor
            except OSError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise LockTimeout(
                        f"Another operation has not ended for {self._limit:.0f} seconds. See which in /var/log/SMlog "
                        f"and with 'fuser -v \"{path}\"', and try again."
                    ) from None
            time.sleep(pause)
            pause = min(1.2 * pause, _POLL_MOST)


def devices() -> Lock:
    """For who makes a pool on devices that must stay empty until then. One at a time on a host."""
    return Lock("devices", DEVICES_LIMIT)


def pool(guid: str, limit: float = POOL_LIMIT) -> Lock:
    """For who imports or exports this pool: never two at a time. Taken before a lock of the SR."""
    return Lock("pool-" + guid, limit)


def search() -> Lock:
    """For who searches disks for pools: `zpool import` hides pools from others that search at the same time."""
    return Lock("search", SEARCH_LIMIT)


def note_change() -> None:
    """To be called before and after each import and export of a pool: see `changes_noted`."""
    os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
    with open(os.path.join(DIRECTORY, _CHANGES), "ab") as file:
        file.write(b".")


def changes_noted() -> int:
    """How often `note_change` was called on this host since it booted.

    Whoever finds the same number before and after has seen no pool come or go in between. It is not a lock: an import
    that hangs must not keep anybody from looking for other pools.
    """
    try:
        return os.stat(os.path.join(DIRECTORY, _CHANGES)).st_size
    except FileNotFoundError:
        return 0
