# SPDX-License-Identifier: LGPL-2.1-only
"""The Volume verbs that make a VDI: an empty one, a snapshot, a clone.

Arguments and results are those of the SMAPIv3 interface; sizes are bytes. The new VDI appears, complete, in one
transaction. The VDI that it is made from may be in use, and does not change.
"""

import time

from zfsvol import naming, properties
from zfsvol.errors import NoSpace
from zfsvol.host import files
from zfsvol.repository import configuration, lineage
from zfsvol.repository import sr as srs
from zfsvol.repository import vdi as vdis
from zfsvol.repository.sr import CHANGE, SR
from zfsvol.repository.vdi import VDI
from zfsvol.zfs import changes, datasets
from zfsvol.zfs.pool import Missing


def create(dbg: str, sr: str, name: str, description: str, size: int, sharable: bool) -> "dict[str, object]":  # noqa: FBT001
    """Makes an empty VDI of at least `size` bytes and returns its `volume` record.

    Raises InvalidSize, InvalidArgument (a text is too long), NoSpace, SRUnavailable.
    """
    size = vdis.rounded(size)
    values = properties.encode(naming.VDI_NAME, name)
    values.update(properties.encode(naming.VDI_DESCRIPTION, description))
    if sharable:
        values.update(properties.encode(naming.VDI_SHARABLE, value=True))
    uuid = files.new_uuid()
    with srs.opened(sr, CHANGE) as found:
        sr_values = found.read()
        thick = configuration.is_thick(sr_values, found.dataset)
        try:
            changes.create_volume(
                found.zfs,
                found.volume(uuid),
                size,
                volblocksize=configuration.volblocksize(sr_values, found.dataset),
                sparse=not thick,
                values=values,
            )
        except NoSpace:
            raise _no_space(found, size, sr_values) from None
        except Missing:
            raise found.missing() from None
    made = VDI(found, uuid, uuid, dict(values, volsize=str(size)))
    return vdis.record(made, taken=size if thick else 0)


def _no_space(sr: SR, size: int, sr_values: "dict[str, str]") -> NoSpace:
    return NoSpace(
        f"A disk of {size} bytes does not fit: the SR {sr.uuid} has {sr_values['available']} bytes free for its "
        "reservation (thick) or its metadata (thin). Space of disks deleted just now may take some seconds to be free."
    )


def snapshot(dbg: str, sr: str, key: str) -> "dict[str, object]":
    """Makes a read-only VDI with this VDI's current content and returns its `volume` record.

    The VDI may be in use. The keys that the client sets on a snapshot afterwards are set here already, as far as they
    are known. So a crash in between leaves a snapshot and not a disk, and the client's Volume.set has nothing to write.
    Raises NoSpace, VDIUnavailable, SRUnavailable. A crash leaves at most a ZFS snapshot without clones, which SR.attach
    removes.
    """
    uuid = files.new_uuid()
    with srs.opened(sr, CHANGE) as found:
        source = found.vdi(key, datasets.inherited_properties)
        source.require_data("snapshotted")
        values = lineage.inherited(source)
        if source.is_tracked:
            values[naming.VDI_CBT] = source.values[naming.VDI_CBT]
        values[naming.VDI_SNAPSHOT] = "true"
        values["readonly"] = "on"
        for name, value in (
            (naming.IS_A_SNAPSHOT, "true"),
            (naming.SNAPSHOT_OF, key),
            (naming.SNAPSHOT_TIME, time.strftime(naming.DATE, time.gmtime())),
            (naming.CONTENT, source.keys.get(naming.CONTENT) or key),
        ):
            values.update(properties.encode_key(name, value))
        _make(found, source, uuid, values)
    return vdis.record(VDI(found, uuid, uuid, dict(values, volsize=source.values["volsize"])), taken=0)


def clone(dbg: str, sr: str, key: str) -> "dict[str, object]":
    """Makes a writable VDI with this VDI's current content and returns its `volume` record.

    The VDI may be in use. Errors and crashes as for `snapshot`.
    """
    uuid = files.new_uuid()
    with srs.opened(sr, CHANGE) as found:
        source = found.vdi(key, datasets.inherited_properties)
        source.require_data("cloned")
        values = lineage.inherited(source)
        # Set it explicitly: otherwise the clone would get the setting of the zvol it is made from.
        thick = configuration.is_thick(source.values, source.zvol)
        if thick:
            values["refreservation"] = "auto"
        lineage.adopt_siblings(found, source, uuid)
        _make(found, source, uuid, values)
    made = VDI(found, uuid, uuid, dict(values, volsize=source.values["volsize"]))
    return vdis.record(made, taken=source.size if thick else 0)


def _make(sr: SR, source: VDI, uuid: str, values: "dict[str, str]") -> None:
    try:
        lineage.make(sr, source, uuid, uuid, values)
    except Missing:  # it was renamed or removed a moment ago
        sr.vdi(source.key)
        raise
