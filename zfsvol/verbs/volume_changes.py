# SPDX-License-Identifier: LGPL-2.1-only
"""The Volume verbs of changed block tracking: what has changed in a VDI since a snapshot.

Nothing is logged while VMs write: ZFS stores with each block when it was written. So enabling it only tells the client
that it may ask. Arguments and results are those of the SMAPIv3 interface; sizes are bytes.
"""

from zfsvol import naming
from zfsvol.errors import InvalidArgument
from zfsvol.repository import sr as srs
from zfsvol.repository.sr import CHANGE, SR
from zfsvol.repository.vdi import VDI
from zfsvol.verbs import volume_set

# Those that the client lets track their changes; it takes a VDI without a type for a user's.
_TYPES = ("user", "system", "")


def enable_cbt(dbg: str, sr: str, key: str) -> None:
    """Marks the VDI, and so all snapshots made of it from now on, as one whose changes may be asked for. Idempotent.

    Raises InvalidArgument (a snapshot, a disk that is reset at boot, a VDI of another type), VDIUnavailable.
    """
    with srs.opened(sr, CHANGE) as found:
        volume_set.assign(found, _trackable(found, key), {naming.VDI_CBT: "on"})


def disable_cbt(dbg: str, sr: str, key: str) -> None:
    """Takes the mark away; snapshots keep theirs. Idempotent. Raises as `enable_cbt`."""
    with srs.opened(sr, CHANGE) as found:
        volume_set.clear(found, _trackable(found, key), naming.VDI_CBT)


def _trackable(sr: SR, key: str) -> VDI:
    vdi = sr.vdi(key)
    keys = vdi.keys
    if vdi.is_snapshot:
        raise InvalidArgument(f"The VDI {vdi.key} is a snapshot: enable or disable tracking on its disk.")
    if keys.get(naming.TYPE, "") not in _TYPES:
        raise InvalidArgument(
            f"The VDI {vdi.key} is of the type '{keys[naming.TYPE]}'; only disks of VMs can be tracked."
        )
    if naming.TEMPORARY in keys:
        raise InvalidArgument(f"The VDI {vdi.key} is reset at each boot of its VM, and cannot be tracked.")
    return vdi


def list_changed_blocks(dbg: str, sr: str, key: str, key2: str, offset: int, length: int) -> "dict[str, object]":
    """Which blocks of 64 KiB of `key2` may differ from those of `key`, as a bitmap in base64.

    The most significant bit of a byte is the first block; zeros fill the last four bytes. The first bit is that of the
    block at `offset`; `length` -1 means to the end. Both VDIs may be in use. `repository.changelist` says how exact it
    is. Raises ChangesUnknown, InvalidArgument (outside of the VDI), VDIUnavailable, SRUnavailable.
    """
    import base64  # of no use to the other verbs here

    from zfsvol.repository import blockmap, changelist  # likewise

    if offset < 0 or length < -1:
        raise InvalidArgument(f"offset {offset} and length {length} are no part of a disk.")
    bitmap = changelist.between(srs.find(sr), key, key2)
    behind = bitmap.size - offset
    if behind < 0:
        raise InvalidArgument(f"offset {offset} is behind the end of the VDI {key2}, which has {bitmap.size} bytes.")
    part = bitmap.part(offset, behind if length == -1 else min(length, behind))
    return {"granularity": blockmap.GRANULARITY, "bitmap": base64.b64encode(part).decode("ascii")}
