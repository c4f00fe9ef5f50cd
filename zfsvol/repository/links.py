# SPDX-License-Identifier: LGPL-2.1-only
"""Links that exist while a VDI is activated: to the zvol's node, and to the socket of the tapdisk that serves it."""

import os

from zfsvol.repository.record import Record
from zfsvol.repository.sr import SR

# Leads to the zvol's node; tapdisk opens the node by this path.
DEVICES = "/dev/zfs-vol"
# Contains the first: rrdp-iostat looks there for the VDI that belongs to the path which a tapdisk opened. It caches the
# answer for ever, so the path must belong to one VDI alone. A node does not: another zvol may get it later.
STATISTICS = "/dev/sm/phy"
# Leads to the tapdisk's socket, while a tapdisk serves the VDI.
SERVERS = "/run/blktap-control/nbd"


def path(directory: str, record: Record) -> str:
    """The link to a VDI in one of the directories."""
    return path_of(directory, record.sr, record.key)


def path_of(directory: str, sr: SR, key: str) -> str:
    """The same by the SR and the VDI's key."""
    # By the SR's uuid, as rrdp-iostat expects. A host attaches at most one SR with the same uuid at a time.
    return os.path.join(directory, sr.uuid, key)


def remove_directories(sr: SR) -> None:
    """Removes the directories of the SR's links, if they are empty: another SR with this uuid may have links there."""
    for directory in (DEVICES, STATISTICS, SERVERS):
        try:
            os.rmdir(os.path.join(directory, sr.uuid))
        except OSError:
            pass  # it does not exist, or holds links
