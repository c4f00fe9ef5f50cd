# SPDX-License-Identifier: LGPL-2.1-only
"""What Xen knows of its domains. Reads only."""

from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.host import blockdevice, command, files

_LIMIT = 10


def gone(domids: "list[str]") -> "list[str]":
    """The domains among them that are gone for certain. Where xenstore cannot be asked, none is."""
    try:
        alive = command.run(["xenstore-list", "/local/domain"], _LIMIT).split()
    except StorageError as error:
        log.warning(f"which VMs there are cannot be told: {error}")
        return []
    if "0" not in alive:  # dom0 is always there
        return []
    return [domid for domid in domids if domid not in alive and not _has_backend(domid)]


def _has_backend(domid: str) -> bool:
    return any(name.startswith(f"vbd-{domid}-") for name in files.names(blockdevice.BACKENDS))
