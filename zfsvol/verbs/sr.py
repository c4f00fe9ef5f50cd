# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs on an attached SR: its VDIs, its name and description.

Arguments and results are those of the SMAPIv3 interface; sizes are bytes.
"""

from zfsvol import naming, properties
from zfsvol.repository import family
from zfsvol.repository import sr as srs
from zfsvol.repository import vdi as vdis
from zfsvol.repository.sr import CHANGE, READ
from zfsvol.zfs import changes
from zfsvol.zfs.pool import Missing


def ls(dbg: str, sr: str) -> "list[dict[str, object]]":
    """All VDIs of the SR. The verb lists them all or fails: xapi forgets VDIs that are not listed."""
    with srs.opened(sr, READ) as found:
        _, zvols = found.zvols()
    charges = family.charges(found, zvols)
    disks = (vdis.found(found, key, zvols) for key in sorted(charges))
    return [vdis.record(vdi, taken=charges[vdi.key]) for vdi in disks if vdi is not None]


def set_name(dbg: str, sr: str, new_name: str) -> None:
    """Renames the SR. Raises InvalidArgument (too long), SRUnavailable."""
    _set(sr, properties.encode(naming.SR_NAME, new_name))


def set_description(dbg: str, sr: str, new_description: str) -> None:
    """Describes the SR. Raises InvalidArgument (too long), SRUnavailable."""
    _set(sr, properties.encode(naming.SR_DESCRIPTION, new_description))


def _set(sr: str, texts: "dict[str, str]") -> None:
    with srs.opened(sr, CHANGE) as found:
        try:
            changes.set_properties(found.zfs, found.dataset, texts)
        except Missing:
            raise found.missing() from None
