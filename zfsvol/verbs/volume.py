# SPDX-License-Identifier: LGPL-2.1-only
"""Volume.stat, which the client calls before every other verb on a VDI.

Arguments and results are those of the SMAPIv3 interface; sizes are bytes.
"""

from zfsvol.errors import VDIUnavailable
from zfsvol.repository import sr as srs
from zfsvol.repository import vdi as vdis
from zfsvol.repository.sr import READ


def stat(dbg: str, sr: str, key: str) -> "dict[str, object]":
    """The VDI's `volume` record. Raises VDIUnavailable, SRUnavailable.

    physical_utilisation is the space of its own zvol; SR.ls adds the space of removed VDIs' zvols.
    """
    found = srs.find(sr)
    try:
        # The client calls this before every other verb, so it must not wait for a lock.
        vdi = found.vdi(key)
    except VDIUnavailable:
        # During a revert its zvol has another name for a moment.
        with found.locked(READ):
            vdi = found.vdi(key)
    return vdis.record(vdi, taken=int(vdi.values["used"]))
