# SPDX-License-Identifier: LGPL-2.1-only
"""A device that a pool is to get: the checks that SR.create makes, too.

zpool writes to a new device before the kernel decides whether to take it: a device that is refused then keeps a
partition table and labels. So all that can be known before is checked here. The caller holds `target.devices_locked`.
"""

from zfsvol.care.plan import Plan
from zfsvol.errors import InvalidArgument
from zfsvol.host import blockdevice, files
from zfsvol.repository import layout
from zfsvol.zfs import disks
from zfsvol.zfs.topology import SPARE, Topology, Vdev


def one(plan: Plan, found: Topology, path: str, *, instead_of: Vdev) -> str:
    """The name by which zpool gets a device that takes the place of another, or becomes its mirror half.

    Notes as a risk what the device holds, and that it may be too small. Raises DeviceInvalid, SRInUse.
    """
    spare = next((vdev for vdev in found.vdevs if vdev.role == SPARE and vdev.is_called(path)), None)
    if spare is not None and spare.state == "AVAIL":
        return spare.stable_path or spare.name
    devices = layout.parse_devices(path).devices
    if len(devices) > 1:
        raise InvalidArgument(f"'{path}' names several devices: name one.")
    several(plan, devices)
    device = devices[0]
    needed = [blockdevice.size(disk.path or "") for disk in (instead_of, *_siblings(instead_of))]
    least = next((size for size in needed if size is not None), None)
    given = blockdevice.size(device)
    if least is not None and given is not None and given < least:
        plan.risks.append(
            f"{device} has {given} bytes, less than the {least} of {instead_of.title} and its like: zpool may refuse "
            "it, and would have written to it by then."
        )
    return blockdevice.stable_name(device)


def several(plan: Plan, devices: "list[str]") -> None:
    """Notes as risks what the devices hold. Raises DeviceInvalid, SRInUse, InvalidArgument (named twice)."""
    for device in devices:
        disks.require_free(device)
        holds = disks.content(device)
        if holds:
            plan.risks.append(f"{device} holds {holds}, which would be lost.")
    if len(set(map(files.real_path, devices))) < len(devices):
        raise InvalidArgument("The same device is named twice.")


def _siblings(vdev: Vdev) -> "list[Vdev]":
    return [other for other in vdev.top.below() if other.is_disk and other is not vdev]
