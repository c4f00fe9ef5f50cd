# SPDX-License-Identifier: LGPL-2.1-only
"""Devices of an SR's pool: replaced, attached, detached, taken on- and offline, their errors cleared.

Each function is one zpool command, atomic in the kernel: a crash leaves everything or nothing, and a new device perhaps
with labels that no pool knows. ZFS fills a new device in the background. All of them raise InvalidArgument (no such
device; something would be lost, and there is no `force`), SRUnavailable, LockTimeout, and CommandFailed with zpool's
reason.
"""

import time

from zfsvol.care import newdevice, target
from zfsvol.care.plan import Plan
from zfsvol.errors import InvalidArgument, SRInUse
from zfsvol.host import command
from zfsvol.repository.sr import SR
from zfsvol.zfs import kernel, progress, text, topology, vdevs
from zfsvol.zfs.topology import CACHE, MIRROR, Topology, Vdev

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Seconds that the kernel may take to open the devices of a suspended pool again.
_CLEAR_LIMIT = 60
_RESUME_LIMIT = 5

_EXPANSION = "feature@raidz_expansion"

_PAIRS = (MIRROR, "replacing", "spare")


def replace(
    sr_uuid: str, device: str, new_device: str, *, force: bool = False, dry_run: bool = False
) -> "dict[str, Any]":
    """Puts a new device, or a spare of the pool, in the place of another, which leaves the pool when that is done.

    Raises also DeviceInvalid and SRInUse for a new device that no pool can use, or that anything uses.
    """
    sr = target.ready(sr_uuid)
    with target.devices_locked(sr):
        found = topology.read(sr.zfs)
        old = _disk(found, device)
        if old.role == CACHE:
            raise InvalidArgument(f"{old.title} is a cache: remove it, and add the new one as cache.")
        plan = Plan(sr)
        new = newdevice.one(plan, found, new_device, instead_of=old)
        plan.commands.append(vdevs.replace(sr.pool, old.guid, new, force=force))
        return plan.answer(force=force, dry_run=dry_run)


def attach(
    sr_uuid: str, device: str, new_device: str, *, force: bool = False, dry_run: bool = False
) -> "dict[str, Any]":
    """Makes a new device another half of the mirror that a device is in, a single device a mirror, or raidz wider.

    Raises also DeviceInvalid and SRInUse for a new device that no pool can use, or that anything uses; SRInUse while
    raidz is made wider.
    """
    sr = target.ready(sr_uuid)
    with target.devices_locked(sr):
        found = topology.read(sr.zfs)
        vdev = found.find(device)
        plan = Plan(sr)
        if vdev.is_raidz:
            _require_expandable(sr, found, vdev)
            plan.notes.append(
                f"{vdev.title} keeps its redundancy, and gets the new space when all its data is copied. What is there "
                "by then keeps taking as much space as before; what is written later takes less."
            )
        else:
            vdev = _half(found, device)
        new = newdevice.one(plan, found, new_device, instead_of=vdev)
        plan.commands.append(vdevs.attach(sr.pool, vdev.guid, new, force=force))
        return plan.answer(force=force, dry_run=dry_run)


def _half(found: Topology, device: str) -> Vdev:
    """The device, after a check that it can be a half of a mirror, or is one."""
    half = _disk(found, device)
    if half.role in (CACHE, topology.SPARE) or (half.parent is not None and half.parent.kind != MIRROR):
        where = half.parent.name if half.parent is not None else half.role
        raise InvalidArgument(
            f"{half.title} is in {where}: only mirrors and single devices can get another half."
            + (f" Name {where} to make it wider." if half.parent is not None and half.parent.is_raidz else "")
        )
    return half


def _require_expandable(sr: SR, found: Topology, raidz: Vdev) -> None:
    """Checks that ZFS can make a raidz group wider. Raises InvalidArgument, SRInUse."""
    (feature,) = sr.zfs.values(_EXPANSION)
    if feature == "-":
        raise InvalidArgument(
            f"This host's OpenZFS cannot make {raidz.title} wider, only 2.3 and later can: only mirrors and single "
            "devices can get another half. 'add' gives the pool another group."
        )
    if feature == "disabled":
        raise InvalidArgument(
            f"The pool {sr.pool} is of an older OpenZFS, which cannot make {raidz.title} wider. 'zpool upgrade "
            f"{sr.pool}' changes that; then hosts with the older one cannot import the pool any more."
        )
    if found.expansion is not None and found.expansion["state"] == progress.RUNNING:
        raise SRInUse(f"{found.expansion['vdev']} gets another device already. Try again when that is done.")


def detach(sr_uuid: str, device: str, *, force: bool = False, dry_run: bool = False) -> "dict[str, Any]":
    """Takes a device off its mirror, or ends a replacement. What is on the device is lost."""
    sr = target.ready(sr_uuid)
    with target.pool_locked(sr):
        found = topology.read(sr.zfs)
        half = _disk(found, device)
        if half.parent is None or half.parent.kind not in _PAIRS:
            raise InvalidArgument(f"{half.title} is no half of a mirror, so it cannot be detached. See 'remove'.")
        plan = Plan(sr)
        plan.risks += _without(found, half, "off its mirror")
        plan.commands.append(vdevs.detach(sr.pool, half.guid))
        return plan.answer(force=force, dry_run=dry_run)


def offline(sr_uuid: str, device: str, *, force: bool = False, dry_run: bool = False) -> "dict[str, Any]":
    """Stops using a device until it is taken online again, also after an import."""
    sr = target.ready(sr_uuid)
    with target.pool_locked(sr):
        found = topology.read(sr.zfs)
        disk = _disk(found, device)
        plan = Plan(sr)
        if disk.state == "OFFLINE":
            plan.notes.append(f"{disk.title} is offline already.")
        else:
            plan.risks += _without(found, disk, "offline")
            plan.commands.append(vdevs.offline(sr.pool, disk.guid))
        return plan.answer(force=force, dry_run=dry_run)


def online(sr_uuid: str, device: str, *, dry_run: bool = False) -> "dict[str, Any]":
    """Uses a device again, and has ZFS write to it what it has missed."""
    sr = target.ready(sr_uuid)
    with target.pool_locked(sr):
        disk = _disk(topology.read(sr.zfs), device)
        plan = Plan(sr)
        if disk.state == text.GOOD[0]:
            plan.notes.append(f"{disk.title} is online already.")
            return plan.answer(dry_run=dry_run)
        plan.commands.append(vdevs.online(sr.pool, disk.guid))
        answer = plan.answer(dry_run=dry_run)
        if not dry_run:
            plan.notes += _still_ill(sr, disk.guid)
        return answer


def clear(sr_uuid: str, device: "str | None" = None, *, dry_run: bool = False) -> "dict[str, Any]":
    """Forgets the errors of a device, or of all, and uses it again. A suspended pool goes on if its disks are back.

    Raises SRUnavailable if the pool stays suspended.
    """
    sr = target.find(sr_uuid)
    if kernel.state(sr.pool) == kernel.SUSPENDED:
        return _resume(sr, dry_run=dry_run)
    sr.zfs.require()
    with target.pool_locked(sr):
        plan = Plan(sr)
        wanted = [] if device is None else [topology.read(sr.zfs).find(device).guid]
        plan.commands.append(vdevs.clear(sr.pool, wanted))
        answer = plan.answer(dry_run=dry_run)
        if not dry_run:
            plan.notes += _still_ill(sr, *wanted)
        return answer


def _resume(sr: SR, *, dry_run: bool) -> "dict[str, Any]":
    """Has a suspended pool go on. Without the locks: what holds them may be waiting for this very pool."""
    plan = Plan(sr)
    argv = vdevs.clear(sr.pool, [])
    if dry_run:
        plan.commands.append(argv)
        return plan.answer(dry_run=True)
    plan.notes.append(f"The pool {sr.pool} was suspended and goes on: 'zpool clear' has run.")
    try:
        command.run(argv, _CLEAR_LIMIT)
    except command.CommandFailed:
        sr.zfs.require()  # its error names the disk that is still away
        raise
    end = time.monotonic() + _RESUME_LIMIT
    while kernel.state(sr.pool) == kernel.SUSPENDED:
        if time.monotonic() > end:
            sr.zfs.require()
        time.sleep(0.1)
    return plan.answer()


def _disk(found: Topology, device: str) -> Vdev:
    vdev = found.find(device)
    if not vdev.is_disk:
        titles = ", ".join(disk.title for disk in vdev.below() if disk.is_disk)
        raise InvalidArgument(f"{vdev.name} is a group of devices: name one of them: {titles}.")
    return vdev


def _without(found: Topology, disk: Vdev, where: str) -> "list[str]":
    """What would be lost without a device that is to be taken away, in sentences."""
    top = disk.top
    if not disk.is_vital or not disk.is_good:
        return []
    lost: "list[str]" = []
    if found.running(progress.RESILVER):
        lost.append(f"A resilver is running: what it has not copied yet may be on {disk.title} only.")
    parent = disk.parent
    if parent is not None and parent.kind != MIRROR and parent.kind in _PAIRS:
        others = [child for child in parent.children if child is not disk]
        if any(child.is_good for child in others):
            return lost
    left = top.spare_disks - 1
    if left < 0:
        lost.append(f"{disk.title} has the last copy of what {top.title} holds: without it the pool cannot be used.")
    elif left == 0:
        others = [vdev for vdev in top.below() if vdev.is_disk and vdev is not disk and vdev.is_good]
        titles = " or ".join(vdev.title for vdev in others)
        lost.append(
            f"With {disk.title} {where}, {top.title} has no redundancy left: if {titles} fails, too, all data of the "
            "pool is lost."
        )
    return lost


def _still_ill(sr: SR, *guids: str) -> "list[str]":
    """The devices that still do not work, in sentences."""
    sentences = []
    for disk in topology.read(sr.zfs).disks:
        if disk.state not in text.GOOD and (not guids or disk.guid in guids):
            why = f" ({disk.note})" if disk.note else ""
            sentences.append(f"{disk.title} is still {disk.state}{why}: check its cable, or replace it.")
    return sentences
