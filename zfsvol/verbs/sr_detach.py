# SPDX-License-Identifier: LGPL-2.1-only
"""SR.detach: ends the use of an SR on this host."""

from zfsvol import naming
from zfsvol.errors import SRInUse
from zfsvol.host import lock
from zfsvol.repository import release
from zfsvol.repository.sr import ALONE, SR
from zfsvol.zfs import changes, kernel, pools
from zfsvol.zfs.pool import Busy


def detach(dbg: str, sr: str) -> None:
    """Exports the SR's own pool and so frees its disks; an administrator's pool stays imported.

    Idempotent. Raises SRInUse while one of the SR's disks is in use.
    """
    found = SR(naming.parse_sr(sr).dataset)
    if kernel.state(found.pool) is None:
        found.mark_detached()
        return
    found.zfs.require()
    with lock.pool(found.guid):
        release.drop_dead(found)
        with release.AllLocked(found), found.locked(ALONE):
            release.release(found)
            if found.owns_pool:
                release.leave(pools.export, found)
            else:
                _unload_key(found)
            found.mark_detached()


def _unload_key(sr: SR) -> None:
    values = sr.read()
    if values.get("encryptionroot") == sr.dataset and values.get("keystatus") == "available":
        try:
            changes.unload_key(sr.zfs, sr.dataset)
        except Busy:
            raise SRInUse(f"A disk of the SR {sr.uuid} is in use: shut down its VM first.") from None
