# SPDX-License-Identifier: LGPL-2.1-only
"""The Plugin verbs of the volume plugin: what the driver is and what it can do."""

from zfsvol import __version__, configuration, zfs
from zfsvol import root as roots
from zfsvol.errors import StorageError

# What the client cannot see from the executables alone stands here beside what it can: one list for people, too.
FEATURES = [
    "SR_PROBE",
    "SR_UPDATE",
    "VDI_CREATE",
    "VDI_DESTROY",
    "VDI_SNAPSHOT",
    "VDI_CLONE",
    "VDI_REVERT",
    "VDI_RESIZE",
    "VDI_UPDATE",
    "THIN_PROVISIONING",
    "LARGE_VDI",
]


def query(dbg: str) -> "dict[str, object]":
    """The driver's description; xapi makes its SM record from it."""
    return {
        "plugin": "zfs-vol",
        "name": "ZFS volumes",
        "description": "Virtual disks as zvols of a local ZFS pool",
        "vendor": "XCP-ng community",
        "copyright": "LGPL-2.1-only",
        "version": __version__,
        "required_api_version": "5.0",
        "features": FEATURES,
        "configuration": {name: key.description for name, key in configuration.KEYS.items()},
        "required_cluster_stack": [],
    }


def ls(dbg: str) -> "list[str]":
    """The SRs on the imported pools, as the strings that SR.attach answers with."""
    if not zfs.is_loaded():
        return []
    pools = [pool for _, pool, _ in zfs.imported_pools() if zfs.pool_state(pool) != "SUSPENDED"]
    return [root.dataset for pool in pools for root in roots.below(pool)]


def diagnostics(dbg: str) -> str:
    """A text for a bug report: versions, pools with their states, SRs."""
    lines = [f"zfs-vol {__version__}"]
    if not zfs.is_loaded():
        return "\n".join([*lines, "The ZFS kernel module is not loaded."])
    lines += zfs.version()
    try:
        for _, pool, _ in zfs.imported_pools():
            lines += ["", zfs.status(pool)]
        lines += ["SRs: " + (", ".join(ls(dbg)) or "none")]
    except StorageError as error:
        lines += ["", str(error)]
    return "\n".join(lines)
