# SPDX-License-Identifier: LGPL-2.1-only
"""Scrubs and trims of an SR's pool: started, paused, stopped by hand. Each is one command, atomic in the kernel.

All of it may be repeated: what runs already is not started again, and what does not run is not stopped.
"""

from zfsvol.care import target
from zfsvol.care.plan import Plan
from zfsvol.errors import InvalidArgument, SRInUse
from zfsvol.zfs import progress, topology, vdevs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def scrub(sr_uuid: str, *, action: str = vdevs.START, dry_run: bool = False) -> "dict[str, Any]":
    """Starts or resumes a scrub of the SR's pool, pauses or stops it.

    Raises InvalidArgument, SRUnavailable, SRInUse (the pool is being resilvered), CommandFailed with zpool's reason.
    """
    sr = target.ready(sr_uuid)
    found = topology.read(sr.zfs)
    running = found.running(progress.SCRUB)
    plan = Plan(sr)
    if action == vdevs.START and found.running(progress.RESILVER):
        raise SRInUse(f"The pool {sr.pool} is being resilvered, which reads all data, too. Scrub it when that is done.")
    if action == vdevs.START and running is not None and running["state"] == progress.RUNNING:
        plan.notes.append(f"A scrub is running, {running['percent']} % done.")
    elif action == vdevs.PAUSE and running is not None and running["state"] == progress.PAUSED:
        plan.notes.append("The scrub is paused; action=start resumes it.")
    elif action != vdevs.START and running is None:
        plan.notes.append("No scrub is running.")
    else:
        plan.commands.append(vdevs.scrub(sr.pool, action))
    return plan.answer(dry_run=dry_run)


def trim(
    sr_uuid: str, *, action: str = vdevs.START, device: "str | None" = None, dry_run: bool = False
) -> "dict[str, Any]":
    """Starts or resumes, pauses or stops the trim of a device of the SR's pool, or of all that can be trimmed.

    Raises InvalidArgument (no such device; none can be trimmed), SRUnavailable, CommandFailed with zpool's reason.
    """
    sr = target.ready(sr_uuid)
    found = topology.read(sr.zfs)
    # zpool itself trims neither caches nor spares with the pool.
    disks = [disk for disk in found.disks if disk.role not in (topology.CACHE, topology.SPARE) and disk.is_good]
    if device is not None:
        disks = [found.find(device)]
    states = {disk.guid: (disk.trim or {}).get("state") for disk in disks}
    able = [disk for disk in disks if states[disk.guid] != "unsupported"]
    if not able:
        titles = ", ".join(disk.title for disk in disks)
        raise InvalidArgument(f"No device can be trimmed: {titles or 'none works'}. Hard disks and some SSDs cannot.")
    running = [disk for disk in able if states[disk.guid] == progress.RUNNING]
    unfinished = running + [disk for disk in able if states[disk.guid] == progress.PAUSED]
    todo = {
        vdevs.START: [disk for disk in able if disk not in running],
        vdevs.PAUSE: running,
        vdevs.STOP: unfinished,
    }[action]
    plan = Plan(sr)
    if todo:
        named = [] if device is None and todo == disks else [disk.guid for disk in todo]
        plan.commands.append(vdevs.trim(sr.pool, action, named))
    else:
        plan.notes.append("A trim is running." if action == vdevs.START else "No trim is running.")
    return plan.answer(dry_run=dry_run)
