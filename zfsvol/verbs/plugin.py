# SPDX-License-Identifier: LGPL-2.1-only
"""The Plugin verbs: a description of the driver and its features."""

from zfsvol import __version__
from zfsvol.errors import StorageError
from zfsvol.repository import configuration
from zfsvol.repository import record as records
from zfsvol.repository import sr as srs
from zfsvol.repository.sr import SR
from zfsvol.zfs import kernel, pools
from zfsvol.zfs.pool import Pool

# All features, including those that the client derives from the executables: people read the list, too. VDI_REVERT is
# left out on purpose, see docs/decisions.md.
FEATURES = [
    "SR_PROBE",
    "SR_UPDATE",
    "VDI_CREATE",
    "VDI_DESTROY",
    "VDI_SNAPSHOT",
    "VDI_CLONE",
    "VDI_RESIZE",
    "VDI_RESIZE_ONLINE",  # of disks that blkback serves; refused for those that a tapdisk has open
    "VDI_ACTIVATE_READONLY",
    "VDI_ATTACH_OFFLINE",
    "VDI_UPDATE",
    "VDI_CONFIG_CBT",
    "THIN_PROVISIONING",
    "LARGE_VDI",
]


def query(dbg: str) -> "dict[str, object]":
    """The driver's description, from which xapi makes its SM record."""
    keys = {name: key.description for name, key in configuration.KEYS.items()}
    return _description("zfs-vol", "ZFS volumes", "Virtual disks as zvols of a local ZFS pool", FEATURES, keys)


def query_datapath(dbg: str) -> "dict[str, object]":
    """The description of the datapath plugin, named by the scheme of its URIs.

    Not NONPERSISTENT: without it the client clones a disk that is to be reset at boot, which takes a moment.
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
