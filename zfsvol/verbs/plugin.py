# SPDX-License-Identifier: LGPL-2.1-only
"""Plugin.Query: the description of the driver and its features."""

from zfsvol import __version__
from zfsvol.repository import configuration

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
    "VDI_MIRROR",
    "VDI_MIRROR_IN",
    "VDI_COMPOSE",
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
    return _description("zvol", "ZFS volumes", "Gives zvols to VMs: by tapdisk, or by blkback", ["VDI_MIRROR_IN"], {})


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
