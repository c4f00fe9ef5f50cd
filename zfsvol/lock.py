# SPDX-License-Identifier: LGPL-2.1-only
"""Locks between verbs, which are processes of their own and may run in any number at once.

Three kinds: `pools()` for the verbs that change which pools are imported, one at a time on a host; `sr()` for what
happens inside one SR, shared by the verbs that live with each other, exclusive for those that need the SR alone;
`vdi()` for who uses a disk and what serves it, one at a time. Who takes several takes them in this order.
The kernel drops a lock with the process that held it, so a killed verb leaves none behind. A lock of an SR or a VDI is
held by the commands that the verb has started, too: what a killed verb had begun is over before the next one begins.
"""

import fcntl
import os
import time

from zfsvol.errors import LockTimeout, Unfinished

DIRECTORY = "/run/lock/zfs-vol"  # tmpfs: gone at boot, as the holders are

# Seconds. Importing a large pool may take minutes, and at host boot several verbs wait for each other's import.
POOLS_LIMIT = 1800
SR_LIMIT = 120
VDI_LIMIT = 240  # stopping what serves a disk may take half of it
VDI_LIMIT_OF_EACH = 10  # for who looks at all of them
VDI_LIMIT_INSIDE = 1  # for who holds the SR's lock: others wait for that
_POLL = 0.01
_POLL_MOST = 0.1  # of who has waited for long: a hundred that wait must not keep a processor busy

_POOLS = "pools"
_VDI = "vdi-"

# The descriptors of the locks of SRs and VDIs that this process holds, for its children. Not that of the pools: a
# command that hangs on one pool must not keep all others from being imported.
held: "list[int]" = []

# A child that could not be ended has them still: then the next verb must find the same files.
left_to_a_child: "list[int]" = []


class _Lock:
    def __init__(self, name: str, mode: int, limit: float) -> None:
        self.name = name
        self.mode = mode
        self.limit = limit
        self.descriptor = -1

    def __enter__(self) -> "_Lock":  # noqa: PYI034 - Python 3.6 has no Self
        deadline = time.monotonic() + self.limit
        os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
        # Whoever wants the lock passes the gate, alone, and keeps it until the lock is had: then a stream of shared
        # holders cannot keep one exclusive waiter out for ever.
        gate = self._acquire(self.name + ".gate", fcntl.LOCK_EX, deadline)
        try:
            self.descriptor = self._acquire(self.name, self.mode, deadline)
        finally:
            os.close(gate)
        if self.name != _POOLS:
            held.append(self.descriptor)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the lock up before the end of its `with`. Idempotent."""
        if self.descriptor == -1:
            return
        if self.descriptor in held:
            held.remove(self.descriptor)
        os.close(self.descriptor)
        self.descriptor = -1

    def _acquire(self, name: str, mode: int, deadline: float) -> int:
        descriptor = os.open(os.path.join(DIRECTORY, name), os.O_RDWR | os.O_CREAT, 0o600)
        pause = _POLL
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                return descriptor
            except OSError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise LockTimeout(
                        f"Another operation on {self.name} has not ended for {self.limit:.0f} seconds. See which in "
                        f"/var/log/SMlog and with 'fuser -v {os.path.join(DIRECTORY, name)}', and try again."
                    ) from None
            time.sleep(pause)
            pause = min(1.2 * pause, _POLL_MOST)


def pools() -> _Lock:
    """For verbs that import, export, make or destroy a pool. Taken before `sr`, where both are needed."""
    return _Lock(_POOLS, fcntl.LOCK_EX, POOLS_LIMIT)


def sr(uuid: str, *, exclusive: bool) -> _Lock:
    """For verbs inside the SR: exclusive for what needs it alone, shared for all others."""
    return _Lock("sr-" + uuid, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, SR_LIMIT)


class VDIBusy(LockTimeout, Unfinished):
    """Another verb had the VDI's lock for longer than this one may wait, which is short for who holds the SR's."""

    def __init__(self, uuid: str, sentence: str) -> None:
        super().__init__(sentence)
        self.uuid = uuid

    def end(self) -> None:
        """Waits as long as may be without the SR's lock."""
        with vdi(self.uuid):
            pass

    def what(self) -> object:
        """One after the other may have it."""
        return None


class _VDILock(_Lock):
    """Its file goes with it: there would be one for every VDI that ever was."""

    def __enter__(self) -> "_VDILock":  # noqa: PYI034
        deadline = time.monotonic() + self.limit
        os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
        while True:
            try:
                self.descriptor = self._acquire(self.name, self.mode, deadline)
            except LockTimeout as error:
                raise VDIBusy(self.name[len(_VDI) :], str(error)) from None
            try:
                if os.fstat(self.descriptor).st_ino == os.stat(os.path.join(DIRECTORY, self.name)).st_ino:
                    break
            except FileNotFoundError:
                pass
            # Who had the lock took the file along.
            os.close(self.descriptor)
        held.append(self.descriptor)
        return self

    def release(self) -> None:
        if self.descriptor != -1 and not left_to_a_child:
            try:
                os.unlink(os.path.join(DIRECTORY, self.name))
            except FileNotFoundError:
                pass
        super().release()


def vdi(uuid: str, *, limit: int = VDI_LIMIT) -> _Lock:
    """For verbs that change who uses the VDI, and those that need it to be used by nobody. Raises VDIBusy."""
    return _VDILock(_VDI + uuid, fcntl.LOCK_EX, limit)


def vdi_inside(uuid: str) -> _Lock:
    """The same for who holds the SR's lock."""
    return vdi(uuid, limit=VDI_LIMIT_INSIDE)


def remove_unused() -> None:
    """Removes the files of VDIs' locks that killed verbs have left."""
    for name in os.listdir(DIRECTORY):
        if name.startswith(_VDI):
            try:
                with vdi(name[len(_VDI) :], limit=0):
                    pass
            except LockTimeout:
                pass  # in use
