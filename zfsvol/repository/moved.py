# SPDX-License-Identifier: LGPL-2.1-only
"""Keeps a disk that was moved here from being destroyed by a migration that has ended.

After xapi has moved the disk of a halted VM, it keeps a record of the migration. When its toolstack restarts, it
cancels what it takes for a migration under way: it detaches the migration from the moved disk, which has none any more,
and destroys the disk. So a disk with data cannot be destroyed right after such a detach.
"""

import os
import time

from zfsvol.errors import VDIInUse
from zfsvol.host import files
from zfsvol.repository.record import Record
from zfsvol.zfs import datasets
from zfsvol.zfs.pool import Missing

_LIMIT = 60  # seconds; xapi destroys the disk at once
_EMPTY = 1 << 20  # bytes that a zvol references before anything is written to it


def note_detach(record: Record) -> None:
    """A storage migration was detached from a VDI that it had not attached."""
    files.write(record.let_go, "")
    directory = os.path.dirname(record.let_go)
    for name in files.names(directory):
        path = os.path.join(directory, name)
        if not _is_recent(path):
            files.remove(path)


def _is_recent(path: str) -> bool:
    try:
        return time.time() - os.stat(path).st_mtime < _LIMIT
    except FileNotFoundError:
        return False


def require_no_detach(record: Record) -> None:
    """Raises VDIInUse if that was just now, and the VDI holds data."""
    if not _is_recent(record.let_go):
        return
    try:
        ((size,),) = datasets.listing(record.sr.zfs, record.zvol, types="volume", columns=("logicalreferenced",))
    except Missing:
        return
    if int(size) > _EMPTY:
        raise VDIInUse(
            f"The VDI {record.key} was not destroyed: a storage migration that had ended has just been detached from "
            "it, so this may be xapi, which cancels ended migrations when its toolstack restarts. To destroy the disk, "
            "try again in a minute."
        )
