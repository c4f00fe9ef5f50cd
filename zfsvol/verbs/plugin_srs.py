# SPDX-License-Identifier: LGPL-2.1-only
"""The Plugin verbs that look at the SRs and pools of the host: ls, diagnostics."""

from zfsvol import __version__
from zfsvol.errors import StorageError
from zfsvol.repository import record as records
from zfsvol.repository import sr as srs
from zfsvol.repository.sr import SR
from zfsvol.zfs import kernel, pools
from zfsvol.zfs.pool import Pool


def ls(dbg: str) -> "list[str]":
    """The SRs on the imported pools, as the strings that SR.attach returns."""
    if not kernel.is_loaded():
        return []
    return [sr.dataset for pool in _pools() if kernel.state(pool.name) != kernel.SUSPENDED for sr in _srs(pool)]


def _pools() -> "list[Pool]":
    return [Pool(name) for name in pools.imported().values() if not pools.is_to_look(name)]


def _srs(pool: Pool) -> "list[SR]":
    return srs.below(pool, pool.name)


def diagnostics(dbg: str) -> str:
    """A text for a bug report: versions, pools with their states, SRs, and the users of attached disks."""
    lines = [f"zfs-vol {__version__}"]
    if not kernel.is_loaded():
        return "\n".join([*lines, "The ZFS kernel module is not loaded."])
    lines += pools.version()
    try:
        for pool in _pools():
            lines += ["", pool.status()]
        found = ls(dbg)
        lines += ["SRs: " + (", ".join(found) or "none")]
        for sr in map(SR, found):
            lines += [f"{sr.dataset}: {sentence}" for sentence in sr.unfinished]
            lines += [f"{sr.volume(key)}: {records.read(sr, key).summary()}" for key in records.all_of(sr)]
    except StorageError as error:
        lines += ["", str(error)]
    return "\n".join(lines)
