# SPDX-License-Identifier: LGPL-2.1-only
"""All attachments of an SR together, for SR.attach, SR.detach and SR.destroy.

The datapath's modules are imported only if there is an attachment, as in `idle`.
"""

from zfsvol import log
from zfsvol.errors import SRInUse, StorageError
from zfsvol.host import lock
from zfsvol.repository import links, recording
from zfsvol.repository import record as records
from zfsvol.repository.record import Locked, Record
from zfsvol.repository.sr import SR
from zfsvol.zfs import programs
from zfsvol.zfs.pool import Busy, Missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable


def for_each(
    sr: SR, action: "Callable[[Record], object]", concerns: "Callable[[Record], bool]" = lambda _: True
) -> None:
    """Runs the action on the record of every VDI of the SR that it concerns. Failures are only logged.

    Takes the lock of each VDI, so the caller must not hold the SR's lock.
    """
    for key in records.all_of(sr):
        try:
            if concerns(records.read(sr, key)):
                with Locked(sr, key, lock.VDI_LIMIT_OF_EACH) as record:
                    action(record)
        except StorageError as error:
            log.warning(f"{sr.volume(key)}: {error}")


def drop_dead(sr: SR) -> None:
    """Ends what dead tapdisks and VMs that are gone have of the SR. Failures are only logged. May be slow.

    Takes the lock of each VDI, so the caller must not hold the SR's lock.
    """
    if records.all_of(sr):
        from zfsvol.repository import attachment  # see above

        for_each(sr, attachment.drop_dead)


class AllLocked:
    """Holds the locks of all attached VDIs within its `with`. Take it before the SR's lock."""

    def __init__(self, sr: SR) -> None:
        self._sr = sr
        self._held = [sr.vdi_locked(key, lock.VDI_LIMIT_OF_EACH) for key in records.all_of(sr)]

    def __enter__(self) -> None:
        """Raises LockTimeout if another verb holds one of them."""
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
    """Raises SRInUse if a VDI of the SR is activated or mirrored. Changes nothing."""
    for key in records.all_of(sr):
        from zfsvol.repository import mirror  # see above

        if mirror.is_running(sr, key):
            raise SRInUse(
                f"The SR {sr.uuid} is in use: the VDI {key} {mirror.described(sr, key)}. Wait for the end of the "
                "migration, or cancel it."
            )
        record = records.read(sr, key)
        if record.active:
            users = record.holders(list(record.active))
            raise SRInUse(
                f"The SR {sr.uuid} is in use: {users} has the VDI {key}. Shut down the VM, or unplug the disk."
            )


def _require_closed(sr: SR) -> None:
    """Raises SRInUse if a program or the kernel has a zvol or a snapshot of the SR open.

    OpenZFS 2.1 refuses to export a pool with an open zvol, but destroys half of an SR before it refuses the rest. 2.3
    waits, uninterruptibly, until the zvol is closed.
    """
    opened = programs.open_below(sr.zfs, sr.dataset)
    if opened:
        from zfsvol.host import blockdevice  # for the message only

        users = blockdevice.open_zvols(sr.dataset)
        names = (name[len(sr.dataset) + 1 :] for name in opened)
        listed = (f"{name} by {', '.join(users.get(name, ['the kernel or a VM']))}" for name in names)
        raise SRInUse(f"The SR {sr.uuid} is in use. These are open: {'; '.join(listed)}.")


def release(sr: SR) -> None:
    """Removes the nodes and records of all VDIs of the SR. Raises SRInUse if one is activated or open.

    The caller holds the SR's exclusive lock.
    """
    require_inactive(sr)
    for key in records.all_of(sr):
        from zfsvol.repository import attachment  # see above

        record = records.read(sr, key)
        record.attached.clear()
        if not attachment.forget_unused(record):
            raise SRInUse(
                f"The SR {sr.uuid} is in use: something has {record.node} open, the device of the VDI {key}. "
                f"'fuser -v {record.node}' shows what."
            )
        recording.forget(sr, key)
    links.remove_directories(sr)


def leave(action: "Callable[..., None]", sr: SR) -> None:
    """Exports or destroys the SR by `action`. Raises SRInUse, with nothing changed, if one of its zvols is open."""
    _require_closed(sr)
    try:
        action(sr.zfs)
    except Missing:
        pass
    except Busy:
        raise SRInUse(
            f"The SR {sr.uuid} is in use: something has one of its disks open. Shut down the VMs that use it."
        ) from None
