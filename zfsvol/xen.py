# SPDX-License-Identifier: LGPL-2.1-only
"""What Xen knows of its domains. Reads only."""

from zfsvol import command
from zfsvol.command import CommandFailed

_LIMIT = 10


def domain_exists(domid: str) -> bool:
    """Whether there is a domain of this id. Where Xen cannot be asked, there is."""
    # The status is the same for a path that is not there and a xenstore that does not answer; dom0 is always there.
    return _has(domid) or not _has("0")


def _has(domid: str) -> bool:
    try:
        command.run(["xenstore-exists", f"/local/domain/{domid}"], _LIMIT)
    except CommandFailed:
        return False
    return True
