# SPDX-License-Identifier: LGPL-2.1-only
"""Locks between verbs. Each verb is a process of its own, and any number of them may run at once.

A lock is a file below `DIRECTORY`, in memory: a boot removes it along with its holders. The file is never removed
otherwise, so everybody who wants the lock opens the same file. The kernel releases a lock when the last process with
its descriptor ends: the verb that took it, or a command that this verb started.
"""

import fcntl
import os
import time

from zfsvol.errors import LockTimeout

DIRECTORY = "/run/lock/zfs-vol"

# Seconds. The import of a large pool may take minutes, and at host boot several verbs wait for each other's imports.
POOL_LIMIT = 1800
DEVICES_LIMIT = 600
SEARCH_LIMIT = 30  # then the search runs without the lock: a disk that hangs must not hide all others
SR_LIMIT = 120
VDI_LIMIT = 240  # to stop a tapdisk may take half of it
VDI_LIMIT_OF_EACH = 10  # for verbs that lock the VDIs one after another

_CHANGES = "changes"

_POLL = 0.01
_POLL_MOST = 0.1  # after a long wait: a hundred waiting verbs must not keep a processor busy


class Lock:
    """A lock, held within its `with`. Raises LockTimeout after waiting `limit` seconds."""

    def __init__(self, name: str, limit: float, *, shared: bool = False, queued: bool = True) -> None:
        """`queued`: first come, first served. Not for readers, which must not wait behind a waiting writer."""
        self.name = name
        self.descriptor = -1
        self._mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._limit = limit
        self._queued = queued

    def __enter__(self) -> "Lock":  # noqa: PYI034 - Python 3.6 has no Self
        deadline = time.monotonic() + self._limit
        os.makedirs(os.path.dirname(os.path.join(DIRECTORY, self.name)), mode=0o700, exist_ok=True)
        if self._queued:
            # Each waiter holds the gate, alone, until it has the lock: so a stream of shared holders cannot keep an
            # exclusive waiter out for ever.
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
        """Releases the lock before the end of its `with`. Idempotent."""
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
                        f"Another operation has held a lock for {self._limit:.0f} seconds. Find it in /var/log/SMlog "
                        f"or with 'fuser -v \"{path}\"', and try again."
                    ) from None
            time.sleep(pause)
            pause = min(1.2 * pause, _POLL_MOST)


def devices() -> Lock:
    """Held from the check that devices are empty until a pool is on them. One at a time on a host."""
    return Lock("devices", DEVICES_LIMIT)


def pool(guid: str, limit: float = POOL_LIMIT) -> Lock:
    """Held while this pool is imported or exported: never two at a time. Taken before the SR's locks."""
    return Lock("pool-" + guid, limit)


def search() -> Lock:
    """Held while disks are searched for pools: of two searches at a time, one may miss pools."""
    return Lock("search", SEARCH_LIMIT)


def note_change() -> None:
    """Call it before and after each import and export of a pool: see `changes_noted`."""
    os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
    with open(os.path.join(DIRECTORY, _CHANGES), "ab") as file:
        file.write(b".")


def changes_noted() -> int:
    """How often `note_change` was called on this host since boot.

    If the number is the same before and after a search, no pool came or went in between. It is not a lock: an import
    that hangs must not stop a search for other pools.
    """
    try:
        return os.stat(os.path.join(DIRECTORY, _CHANGES)).st_size
    except FileNotFoundError:
        return 0
