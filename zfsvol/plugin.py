# SPDX-License-Identifier: LGPL-2.1-only
"""The Plugin verbs: what the driver is and what it can do."""

from zfsvol import __version__, configuration, lease, naming, zfs
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
    "VDI_RESIZE_ONLINE",  # of disks that blkback serves; refused for those that a tapdisk has open
    "VDI_ACTIVATE_READONLY",
    "VDI_UPDATE",
    "THIN_PROVISIONING",
    "LARGE_VDI",
]


def query(dbg: str) -> "dict[str, object]":
    """The driver's description; xapi makes its SM record from it."""
    keys = {name: key.description for name, key in configuration.KEYS.items()}
    return _description("zfs-vol", "ZFS volumes", "Virtual disks as zvols of a local ZFS pool", FEATURES, keys)


def query_datapath(dbg: str) -> "dict[str, object]":
    """The description of the datapath plugin, which is called as its URIs' scheme.

    Not NONPERSISTENT: the client then clones a disk that is to be reset at boot, which takes a moment.
    """
    return _description("zvol", "ZFS volumes", "Gives zvols to VMs: by tapdisk, or by blkback", [], {})


def _description(
    plugin: str, name: str, description: str, features: "list[str]", keys: "dict[str, str]"
) -> "dict[str, object]":
    return {
        "plugin": plugin,
        "name": name,
        "description": description,
        "vendor": "XCP-ng community",
        "copyright": "LGPL-2.1-only",
        "version": __version__,
        "required_api_version": "5.0",
        "features": features,
        "configuration": keys,
        "required_cluster_stack": [],
    }


def ls(dbg: str) -> "list[str]":
    """The SRs on the imported pools, as the strings that SR.attach answers with."""
    if not zfs.is_loaded():
        return []
    pools = [pool for _, pool, _ in zfs.imported_pools() if zfs.pool_state(pool) != "SUSPENDED"]
    return [root.dataset for pool in pools for root in roots.below(pool)]


def diagnostics(dbg: str) -> str:
    """A text for a bug report: versions, pools with their states, SRs, and who has which disk attached."""
    lines = [f"zfs-vol {__version__}"]
    if not zfs.is_loaded():
        return "\n".join([*lines, "The ZFS kernel module is not loaded."])
    lines += zfs.version()
    try:
        for _, pool, _ in zfs.imported_pools():
            lines += ["", zfs.status(pool)]
        srs = ls(dbg)
        lines += ["SRs: " + (", ".join(srs) or "none")]
        for root in map(naming.parse_sr, srs):
            lines += [f"{root.volume(key)}: {lease.read(root, key).summary()}" for key in lease.all_of(root)]
    except StorageError as error:
        lines += ["", str(error)]
    return "\n".join(lines)
