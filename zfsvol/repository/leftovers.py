# SPDX-License-Identifier: LGPL-2.1-only
"""Device nodes and records that nobody uses any more: SR.attach removes them."""

from zfsvol import log
from zfsvol.errors import StorageError, VDIUnavailable
from zfsvol.repository import attachment
from zfsvol.repository import record as records
from zfsvol.repository.sr import SR
from zfsvol.zfs import datasets, node


def hide_unused(sr: SR) -> None:
    """Removes the nodes and records of VDIs that nobody has attached, or that are gone. Failures are only logged.

    The caller holds the SR's exclusive lock.
    """
    for key in records.all_of(sr):
        try:
            record = records.read(sr, key)
            # What is active is there: it is open.
            if record.attached and not record.active and _is_gone(record):
                log.warning(f"{record.zvol} is gone: removing its record, with {record.summary()}")
                record.attached.clear()
            if not record.attached:
                attachment.forget_unused(record)
        except StorageError as error:
            log.warning(f"{sr.volume(key)}: {error}")
    # Their volmode is not none, and nobody has them attached. A volmode of none may be a person's setting.
    left = [
        zvol
        for zvol, value in datasets.with_own_volmode(sr.zfs, sr.dataset).items()
        if value != "none" and not records.exists(sr, zvol.rpartition("/")[2])
    ]
    if left:
        log.warning(f"{', '.join(left)}: removing device nodes of zvols that nobody has attached")
        node.wait(left)
    for zvol in left:
        node.hide(sr.zfs, zvol, None)


def _is_gone(record: records.Record) -> bool:
    """Whether a killed verb has removed the VDI, but not its record."""
    try:
        record.sr.vdi(record.key)
    except VDIUnavailable:
        return True
    return False
