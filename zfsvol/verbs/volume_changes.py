# SPDX-License-Identifier: LGPL-2.1-only
"""The Volume verbs of changed block tracking: what has changed in a VDI since a snapshot.

Nothing is logged while VMs write: ZFS stores with each block when it was written. So enabling it only tells the client
that it may ask. Arguments and results are those of the SMAPIv3 interface; sizes are bytes.
"""

import base64

from zfsvol import naming
from zfsvol.errors import InvalidArgument, VDIUnavailable
from zfsvol.repository import blockmap, changelist
from zfsvol.repository import sr as srs
from zfsvol.repository.sr import CHANGE
from zfsvol.repository.vdi import VDI
from zfsvol.zfs import programs

# Those that the client lets track their changes; it takes a VDI without a type for a user's.
_TYPES = ("user", "system", "")


def enable_cbt(dbg: str, sr: str, key: str) -> None:
    """Marks the VDI, and so all snapshots made of it from now on, as one whose changes may be asked for. Idempotent.

    Raises InvalidArgument (a snapshot, a disk that is reset at boot, a VDI of another type), VDIUnavailable.
    """
    _set(sr, key, wanted=True)


def disable_cbt(dbg: str, sr: str, key: str) -> None:
    """Takes the mark away; snapshots keep theirs. Idempotent. Raises as `enable_cbt`."""
    _set(sr, key, wanted=False)


def _set(sr: str, key: str, *, wanted: bool) -> None:
    with srs.opened(sr, CHANGE) as found:
        vdi = found.vdi(key)
        _require_trackable(vdi)
        if vdi.is_tracked == wanted:
            return
        if wanted:
            changed = programs.set_on_vdis(found.zfs, [vdi.zvol], {naming.VDI_CBT: "on"})
        else:
            changed = programs.unset_on_vdi(found.zfs, vdi.zvol, naming.VDI_CBT)
        if not changed:
            found.vdi(key)
            raise VDIUnavailable(f"The VDI {key} of the SR {found.uuid} was renamed just now: try again.")


def _require_trackable(vdi: VDI) -> None:
    keys = vdi.keys
    if vdi.is_snapshot:
        raise InvalidArgument(f"The VDI {vdi.key} is a snapshot: enable or disable tracking on its disk.")
    if keys.get(naming.TYPE, "") not in _TYPES:
        raise InvalidArgument(
            f"The VDI {vdi.key} is of the type '{keys[naming.TYPE]}'; only disks of VMs can be tracked."
        )
    if naming.TEMPORARY in keys:
        raise InvalidArgument(f"The VDI {vdi.key} is reset at each boot of its VM, and cannot be tracked.")


def list_changed_blocks(dbg: str, sr: str, key: str, key2: str, offset: int, length: int) -> "dict[str, object]":
    """Which blocks of 64 KiB of `key2` may differ from those of `key`, as a bitmap in base64.

    The most significant bit of a byte is the first block; zeros fill the last four bytes. The first bit is that of the
    block at `offset`; `length` -1 means to the end. Both VDIs may be in use. `repository.changelist` says how exact it
    is. Raises ChangesUnknown, InvalidArgument (outside of the VDI), VDIUnavailable, SRUnavailable.
    """
    if offset < 0 or length < -1:
        raise InvalidArgument(f"offset {offset} and length {length} are no part of a disk.")
    bitmap, size = changelist.between(srs.find(sr), key, key2)
    if offset > size:
        raise InvalidArgument(f"offset {offset} is behind the end of the VDI {key2}, which has {size} bytes.")
    part = bitmap.part(offset, size - offset if length == -1 else min(length, size - offset))
    return {"granularity": blockmap.GRANULARITY, "bitmap": base64.b64encode(part).decode("ascii")}
