# SPDX-License-Identifier: LGPL-2.1-only
"""SR.destroy: removes an SR with all that is in it."""

from zfsvol import naming
from zfsvol.errors import SRNotEmpty
from zfsvol.host import lock
from zfsvol.repository import family, release, repair
from zfsvol.repository import sr as srs
from zfsvol.repository.allocation import Memory
from zfsvol.repository.sr import ALONE, SR
from zfsvol.zfs import changes, datasets, pools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable


def destroy(dbg: str, sr: str) -> None:
    """Removes the SR with all its disks: its own pool, or its root dataset in the administrator's pool.

    Raises SRNotEmpty if the root holds anything that this driver did not make, and SRInUse if one of its disks is open,
    both before it removes anything. Raises SRUnavailable if there is no such SR, as when it is called again. A crash
    may leave a part of the SR; calling the verb again removes that.
    """
    found = srs.find(sr)
    with lock.pool(found.guid):
        release.drop_dead(found)
        with release.AllLocked(found), found.locked(ALONE):
            found.read()
            release.require_inactive(found)
            repair.repair(found)
            _require_nothing_foreign(found)
            release.release(found)
            memory = Memory(found)
            release.leave(pools.destroy if found.owns_pool else _destroy_root(found), found)
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
