# SPDX-License-Identifier: LGPL-2.1-only
"""Groups of devices of an SR's pool: added, removed, grown. Errors, crashes and locks as in `care.devices`."""

from zfsvol.care import newdevice, target
from zfsvol.care.plan import Plan
from zfsvol.errors import InvalidArgument
from zfsvol.host import blockdevice
from zfsvol.host.command import CommandFailed
from zfsvol.repository import layout
from zfsvol.repository.sr import SR
from zfsvol.zfs import progress, text, topology, vdevs
from zfsvol.zfs.topology import DISK, LOG, MIRROR, SPARE, Topology, Vdev

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What zpool asks -f for, although nothing of what is there is lost.
_UNLIKE = "mismatched replication level"

# The classes whose loss is the loss of the pool, in the words of `zpool add`.
_VITAL = ("", "special", "dedup")


def add(sr_uuid: str, vdev: str, *, force: bool = False, dry_run: bool = False) -> "dict[str, Any]":
    """Adds devices to the pool, in the words of `zpool add`: "mirror /dev/a /dev/b", "spare /dev/c", "log /dev/d".

    Raises also DeviceInvalid and SRInUse for a device that no pool can use, or that anything uses.
    """
    wanted = layout.parse_addition(vdev)
    sr = target.ready(sr_uuid)
    with target.devices_locked(sr):
        found = topology.read(sr.zfs)
        plan = Plan(sr)
        newdevice.several(plan, wanted.devices)
        plan.risks += _weaker(found, wanted)
        names = {device: blockdevice.stable_name(device) for device in wanted.devices}
        words = wanted.renamed(names).words
        _rehearse(plan, words, force=force or bool(plan.risks))
        plan.commands.append(vdevs.add(sr.pool, words, force=force))
        if any(role in _VITAL for role, _, _ in wanted.groups) and _has_raidz(found):
            plan.notes.append("What holds data in this pool can never be removed again, because the pool has raidz.")
        return plan.answer(force=force, dry_run=dry_run)


def _weaker(found: Topology, wanted: layout.Layout) -> "list[str]":
    """The new vdevs that would have less redundancy than the pool has, in sentences."""
    least = min((top.parity for top in found.tops if top.is_vital), default=0)
    lost = []
    for role, kind, disks in wanted.groups:
        parity = layout.parity(kind, disks)
        if role in _VITAL and parity < least:
            called = f"A {role} {kind or 'device'}".replace("  ", " ") + ("" if kind else " of its own")
            lost.append(
                f"{called} may lose {parity or 'no'} disk, the rest of the pool {least}: once it has lost more, all "
                "data of the pool is lost, not only what is on it."
            )
    return lost


def _rehearse(plan: Plan, words: "list[str]", *, force: bool) -> None:
    """Has zpool check the addition. Notes as a risk what it wants to be forced to."""
    try:
        plan.sr.zfs.read(vdevs.add(plan.sr.pool, words, force=force, rehearse=True))
    except CommandFailed as error:
        if _UNLIKE not in error.stderr:
            raise
        said = " ".join(error.stderr.rpartition(_UNLIKE)[2].strip(": \n").split())
        plan.risks.append(f"The new devices are arranged otherwise than the pool's: {said}.")


def remove(
    sr_uuid: str, device: "str | None" = None, *, action: str = vdevs.START, force: bool = False, dry_run: bool = False
) -> "dict[str, Any]":
    """Removes a log, cache or spare, or a whole group that holds data: ZFS copies that to the others first.

    `action` "stop" stops the removal that runs.
    """
    sr = target.ready(sr_uuid)
    with target.pool_locked(sr):
        found = topology.read(sr.zfs)
        plan = Plan(sr)
        if action == vdevs.STOP:
            if found.removal is not None and found.removal["state"] == progress.RUNNING:
                plan.commands.append(vdevs.stop_removal(sr.pool))
            else:
                plan.notes.append("No removal is running.")
            return plan.answer(dry_run=dry_run)
        if device is None:
            raise InvalidArgument("remove needs the argument 'device': the device or group to remove.")
        vdev = found.find(device)
        _require_removable(found, vdev)
        if vdev.is_vital:
            plan.risks.append(
                f"The pool would lose {vdev.title} and its space for good, and ZFS would copy all that is on it to the "
                "other devices."
            )
        plan.commands.append(vdevs.remove(sr.pool, vdev.guid))
        return plan.answer(force=force, dry_run=dry_run)


def _require_removable(found: Topology, vdev: Vdev) -> None:
    if vdev.parent is not None:
        raise InvalidArgument(
            f"{vdev.title} is a part of {vdev.parent.name}: 'detach' takes a half off a mirror, 'replace' puts another "
            "device in its place."
        )
    if vdev.role == SPARE and vdev.state != "AVAIL":
        raise InvalidArgument(f"The spare {vdev.title} is in use: detach it, or the device that it stands in for.")
    if not vdev.is_vital:
        return
    if _has_raidz(found):
        raise InvalidArgument(f"{vdev.title} holds data, and ZFS removes no such device from a pool that has raidz.")
    if sum(top.is_vital for top in found.tops) == 1:
        raise InvalidArgument(f"{vdev.title} is all that holds the pool's data.")


def _has_raidz(found: Topology) -> bool:
    return any(top.is_vital and top.kind not in (MIRROR, DISK) for top in found.tops)


def grow(sr_uuid: str, device: "str | None" = None, *, dry_run: bool = False) -> "dict[str, Any]":
    """Uses all the space of a device that has become larger, or of all. The answer tells the pool's size in bytes.

    A mirror grows when all its devices have.
    """
    sr = target.ready(sr_uuid)
    with target.pool_locked(sr):
        found = topology.read(sr.zfs)
        disks = found.disks if device is None else list(found.find(device).below())
        able = [disk for disk in disks if disk.is_disk and disk.state == text.GOOD[0] and _can_grow(disk)]
        if not able:
            titles = ", ".join(f"{disk.title} ({disk.state})" for disk in disks if disk.is_disk)
            raise InvalidArgument(f"No device can grow: {titles}. Only one that works and holds data can.")
        plan = Plan(sr)
        plan.commands += [vdevs.online(sr.pool, disk.guid, expand=True) for disk in able]
        before = _size(sr)
        answer = plan.answer(dry_run=dry_run)
        return dict(answer, before=before, size=_size(sr))


def _can_grow(disk: Vdev) -> bool:
    return disk.is_vital or disk.role == LOG


def _size(sr: SR) -> int:
    return int(sr.zfs.values("size")[0])
