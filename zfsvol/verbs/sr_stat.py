# SPDX-License-Identifier: LGPL-2.1-only
"""SR.stat: the state of an attached SR. Sizes are bytes."""

from zfsvol.repository import health
from zfsvol.repository import sr as srs


def stat(dbg: str, sr: str) -> "dict[str, object]":
    """The SR's names, sizes and health: an `sr_stat`.

    free_space is the space that ZFS would still give to its disks, after parity, reservations, quota and ZFS's own
    reserve; total_space adds the space that the SR uses. Raises SRUnavailable if the pool is missing or suspended: its
    sizes and names cannot be read, and made-up ones would overwrite those in xapi.
    """
    found = srs.find(sr)
    notes = found.unfinished
    if found.may_keep:
        kept = health.kept(found)
        notes += [kept] if kept else []
        found.note_kept(is_any=bool(kept))
    return health.stat(found.zfs, found.dataset, found, notes)
