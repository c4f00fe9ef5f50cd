# SPDX-License-Identifier: LGPL-2.1-only
"""The Volume verbs that change a VDI's metadata: its name, its description, the client's keys.

Arguments are those of the SMAPIv3 interface. Each change is one transaction. So after a crash at any moment, each VDI
is unchanged or changed as requested.
"""

from zfsvol import naming, properties
from zfsvol.errors import VDIUnavailable
from zfsvol.repository import sr as srs
from zfsvol.repository.sr import CHANGE, SR
from zfsvol.repository.vdi import VDI
from zfsvol.zfs import programs


def set_name(dbg: str, sr: str, key: str, new_name: str) -> None:
    """Renames the VDI. Raises InvalidArgument (too long), VDIUnavailable, SRUnavailable."""
    _set(sr, key, properties.encode(naming.VDI_NAME, new_name))


def set_description(dbg: str, sr: str, key: str, new_description: str) -> None:
    """Describes the VDI. Raises InvalidArgument (too long), VDIUnavailable, SRUnavailable."""
    _set(sr, key, properties.encode(naming.VDI_DESCRIPTION, new_description))


def set(dbg: str, sr: str, key: str, k: str, v: str) -> None:  # noqa: A001
    """Stores the client's value `v` under its key `k`. Raises InvalidArgument (too long), VDIUnavailable."""
    _set(sr, key, properties.encode_key(k, v))


def _set(sr: str, key: str, values: "dict[str, str]") -> None:
    with srs.opened(sr, CHANGE) as found:
        assign(found, found.vdi(key), values)


def assign(sr: SR, vdi: VDI, values: "dict[str, str]") -> None:
    """Sets these properties of the VDI, unless they are so already. Raises VDIUnavailable."""
    # A change waits until the pool has written a transaction group, which takes seconds on busy disks.
    if any(vdi.values.get(name) != value for name, value in values.items()):
        _require_changed(sr, vdi.key, programs.set_on_vdis(sr.zfs, [vdi.zvol], values))


def unset(dbg: str, sr: str, key: str, k: str) -> None:
    """Removes the client's key `k`, if it is set. Raises VDIUnavailable, SRUnavailable."""
    name = properties.key_property(k)
    with srs.opened(sr, CHANGE) as found:
        clear(found, found.vdi(key), name)


def clear(sr: SR, vdi: VDI, name: str) -> None:
    """Unsets this property of the VDI, if it is set. Raises VDIUnavailable."""
    if name in vdi.values:
        _require_changed(sr, vdi.key, programs.set_on_vdis(sr.zfs, [vdi.zvol], {}, [name]))


def _require_changed(sr: SR, key: str, changed: int) -> None:
    """Raises VDIUnavailable if ZFS did not find the VDI any more."""
    if not changed:
        sr.vdi(key)
        raise VDIUnavailable(f"The VDI {key} of the SR {sr.uuid} was renamed just now: try again.")
