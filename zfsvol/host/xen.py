# SPDX-License-Identifier: LGPL-2.1-only
"""Xen's domains. Reads only."""

from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.host import blockdevice, command, files

_LIMIT = 10


def gone(domids: "list[str]") -> "list[str]":
    """Those of the domains that are certainly gone; none if xenstore cannot be asked."""
    try:
        alive = command.run(["xenstore-list", "/local/domain"], _LIMIT).split()
    except StorageError as error:
        log.warning(f"the running VMs cannot be listed: {error}")
        return []
    if "0" not in alive:  # dom0 is always there
        return []
    return [domid for domid in domids if domid not in alive and not _has_backend(domid)]


def _has_backend(domid: str) -> bool:
    return any(name.startswith(f"vbd-{domid}-") for name in files.names(blockdevice.BACKENDS))
