# SPDX-License-Identifier: LGPL-2.1-only
"""All attachments of an SR at once: what SR.attach finds of earlier ones, and what SR.detach and destroy release."""

import os

from zfsvol import log
from zfsvol.errors import SRInUse, StorageError
from zfsvol.host import blockdevice, lock
from zfsvol.repository import attachment
from zfsvol.repository import record as records
from zfsvol.repository.record import Locked, Record
from zfsvol.repository.sr import SR
from zfsvol.zfs import datasets, node, programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable


def for_each(
    sr: SR, action: "Callable[[Record], object]", concerns: "Callable[[Record], bool]" = lambda _: True
) -> None:
    """Does something with the record of every VDI of the SR that it concerns; the log tells what cannot be done.

    Takes the lock of each VDI: not for the holder of the SR's lock.
    """
    for key in records.all_of(sr):
        try:
            if concerns(records.read(sr, key)):
                with Locked(sr, key, lock.VDI_LIMIT_OF_EACH) as record:
                    action(record)
        except StorageError as error:
            log.warning(f"{sr.volume(key)}: {error}")


class AllLocked:
    """The locks of all VDIs that are attached, within its `with`. To be taken before the SR's lock."""

    def __init__(self, sr: SR) -> None:
        self._sr = sr
        self._held = [sr.vdi_locked(key, lock.VDI_LIMIT_OF_EACH) for key in records.all_of(sr)]

    def __enter__(self) -> None:
        """Raises LockTimeout: somebody is at work on one of them."""
        for number, held in enumerate(self._held):
            try:
                held.__enter__()
            except StorageError:
                self._held = self._held[:number]
                self.__exit__()
                raise

    def __exit__(self, *_exception: object) -> None:
        for held in reversed(self._held):
            held.__exit__()


def require_inactive(sr: SR) -> None:
    """Raises SRInUse where a VDI of the SR is activated. Changes nothing."""
    for key in records.all_of(sr):
        record = records.read(sr, key)
        if record.active:
            users = record.holders(list(record.active))
            raise SRInUse(
                f"The SR {sr.uuid} is in use: {users} has the VDI {key}. Shut down the VM, or unplug the disk."
            )


def require_closed(sr: SR) -> None:
    """Raises SRInUse where something has a zvol or a snapshot of the SR open, be it a program or the kernel.

    OpenZFS 2.1 refuses to export a pool with an open zvol, and destroys half of an SR before it refuses the rest; 2.3
    waits, uninterruptibly, until the zvol is closed.
    """
    opened = programs.open_below(sr.zfs, sr.dataset)
    if opened:
        users = blockdevice.open_zvols(sr.dataset)
        names = (name[len(sr.dataset) + 1 :] for name in opened)
        listed = (f"{name} by {', '.join(users.get(name, ['the kernel or a VM']))}" for name in names)
        raise SRInUse(f"The SR {sr.uuid} is in use. These are open: {'; '.join(listed)}.")


def release(sr: SR) -> None:
    """Removes the nodes and records of all VDIs of the SR. Raises SRInUse where one is activated, or open.

    For the holder of the SR's exclusive lock.
    """
    require_inactive(sr)
    for key in records.all_of(sr):
        record = records.read(sr, key)
        record.attached.clear()
        if not attachment.forget_unused(record):
            raise SRInUse(
                f"The SR {sr.uuid} is in use: something has {record.node} open, the device of the VDI {key}. "
                f"'fuser -v {record.node}' tells what."
            )
    for directory in (attachment.DEVICES, attachment.STATISTICS, attachment.SERVERS):
        try:
            os.rmdir(os.path.join(directory, sr.uuid))
        except OSError:
            pass  # it is not there, or somebody else's are in it


def hide_unused(sr: SR) -> None:
    """Removes the nodes and records of VDIs that nobody has attached. For the holder of the SR's exclusive lock.

    The log tells what cannot be removed now.
    """
    for key in records.all_of(sr):
        try:
            record = records.read(sr, key)
            if not record.attached:
                attachment.forget_unused(record)
        except StorageError as error:
            log.warning(f"{sr.volume(key)}: {error}")
    # One with another value than none, and nobody has it attached. A person may have set none.
    left = [
        zvol
        for zvol, value in datasets.with_own_volmode(sr.zfs, sr.dataset).items()
        if value != "none" and not records.exists(sr, zvol.rpartition("/")[2])
    ]
    if left:
        log.warning(f"{', '.join(left)}: device nodes are there and nobody has them attached")
        node.wait(left)
    for zvol in left:
        node.hide(sr.zfs, zvol, None)
