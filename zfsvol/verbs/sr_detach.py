# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs that end the use of an SR on this host: detach, and destroy, which also removes the SR.

Arguments and results are those of the SMAPIv3 interface; sizes are bytes.
"""

from zfsvol import naming
from zfsvol.errors import SRInUse, SRNotEmpty
from zfsvol.host import lock
from zfsvol.repository import attachment, family, release, repair
from zfsvol.repository import sr as srs
from zfsvol.repository.sr import ALONE, SR
from zfsvol.zfs import changes, datasets, kernel, pools
from zfsvol.zfs.pool import Busy, Missing

TYPE_CHECKING = False  # typing itself costs a verb more time than the verb's own modules
if TYPE_CHECKING:
    from typing import Callable


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
        release.for_each(found, attachment.drop_dead)
        with release.AllLocked(found), found.locked(ALONE):
            release.release(found)
            if found.owns_pool:
                _leave(pools.export, found)
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


def _leave(action: "Callable[..., None]", sr: SR) -> None:
    """Exports or destroys the SR by `action`. Raises SRInUse, with nothing changed, if one of its zvols is open."""
    release.require_closed(sr)
    try:
        action(sr.zfs)
    except Missing:
        pass
    except Busy:
        raise SRInUse(
            f"The SR {sr.uuid} is in use: something has one of its disks open. Shut down the VMs that use it."
        ) from None


def destroy(dbg: str, sr: str) -> None:
    """Removes the SR with all its disks: its own pool, or its root dataset in the administrator's pool.

    Raises SRNotEmpty if the root holds anything that this driver did not make, and SRInUse if one of its disks is open,
    both before it removes anything. Raises SRUnavailable if there is no such SR, as when it is called again. A crash
    may leave a part of the SR; calling the verb again removes that.
    """
    from zfsvol.repository.allocation import Memory  # of no use to `detach`

    found = srs.find(sr)
    with lock.pool(found.guid):
        release.for_each(found, attachment.drop_dead)
        with release.AllLocked(found), found.locked(ALONE):
            found.read()
            release.require_inactive(found)
            repair.repair(found)
            _require_nothing_foreign(found)
            release.release(found)
            memory = Memory(found)
            _leave(pools.destroy if found.owns_pool else _destroy_root(found), found)
            memory.forget()
            found.mark_detached()


def _destroy_root(sr: SR) -> "Callable[..., None]":
    return lambda pool: changes.destroy_all(pool, sr.dataset)


def _require_nothing_foreign(sr: SR) -> None:
    columns = ("name", "type", naming.VDI_NAME, naming.VDI_REMOVED, "userrefs", "clones")
    foreign = []
    for name, kind, *marks, holds, clones in datasets.listing(
        sr.zfs, sr.dataset, types="filesystem,volume,snapshot", columns=columns
    ):
        if kind == "snapshot":
            if not family.is_ours(name) or holds != "0":
                foreign.append(name)
            foreign += [clone for clone in clones.split(",") if not clone.startswith((sr.dataset + "/", "-"))]
        elif name != sr.dataset and marks == ["-", "-"]:
            foreign.append(name)
    if foreign:
        raise SRNotEmpty(
            "The SR {} has datasets, snapshots or holds that are not the driver's, or clones outside of it: {}. Move "
            "or destroy them, then destroy the SR again.".format(sr.uuid, ", ".join(foreign[:10]))
        )
