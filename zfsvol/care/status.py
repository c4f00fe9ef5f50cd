# SPDX-License-Identifier: LGPL-2.1-only
"""The state of an SR and of its pool, as records for JSON. Changes nothing, and answers for a pool that is ill, too.

Sizes are bytes, times are seconds since 1970. What cannot be read is None, and `obstacles` says why.
"""

import time

from zfsvol import naming, properties
from zfsvol.care import target
from zfsvol.errors import StorageError
from zfsvol.host import blockdevice
from zfsvol.host.command import CommandTimeout
from zfsvol.repository import configuration, family, mirror, record, schedule, vdi
from zfsvol.repository.sr import SR
from zfsvol.zfs import datasets, history, kernel, progress, text, topology
from zfsvol.zfs.topology import Topology, Vdev

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

_LARGEST = 10  # disks that take most, in the answer
_POOL_SIZES = ("size", "allocated", "free", "fragmentation", "capacity")
_DOING = ("scans", "removal", "expansion", "trim")  # what a pool does for long: attributes of its topology
_POOL_SETTINGS = ("autotrim", "ashift", "failmode", "multihost", "autoexpand")


def list_() -> "list[dict[str, Any]]":
    """The SRs on this host, each with its pool's state and, in one sentence, its health."""
    return [_line(sr) for sr in target.all_srs()]


def _line(sr: SR) -> "dict[str, Any]":
    try:
        sr.zfs.require()
        values = datasets.properties(sr.zfs, sr.dataset)
        health = text.read(sr.zfs.status())[0].health()
    except (StorageError, IndexError) as error:
        values, health = {}, str(error)
    return dict(_identity(sr, values), state=kernel.state(sr.pool), health=health)


def status(sr_uuid: "str | None" = None) -> "dict[str, Any] | list[dict[str, Any]]":
    """Everything about an SR, or about all of this host: see docs/care.md. Raises InvalidArgument, SRUnavailable."""
    if sr_uuid is not None:
        return of(target.find(sr_uuid))
    return [of(sr) for sr in target.all_srs()]


def of(sr: SR) -> "dict[str, Any]":
    """Everything about this SR."""
    obstacles: "list[str]" = []
    is_stuck = False

    def reading(read: "Callable[[], Any]") -> "Any":
        nonlocal is_stuck
        if is_stuck:
            return None  # it would wait as long again
        try:
            return read()
        except StorageError as error:
            is_stuck = isinstance(error, CommandTimeout)
            if str(error) not in obstacles:
                obstacles.append(str(error))
            return None

    found = reading(lambda: topology.read(sr.zfs))
    settings = reading(lambda: dict(zip(_POOL_SETTINGS, sr.zfs.values(*_POOL_SETTINGS)))) or {}
    read = reading(sr.zvols)
    values, zvols = ({}, {}) if read is None else read
    answer = dict(_identity(sr, values), pool=_pool(sr, found, settings), layout=None)
    answer.update(dict.fromkeys((*_DOING, "last-scrub", "last-trim", "schedule")))
    if found is not None:
        scrubbed = reading(lambda: last_scrub(sr, found))
        answer["layout"] = [_vdev(vdev) for vdev in found.tops]
        answer.update(_doing(found))
        answer["last-scrub"] = scrubbed
        answer["last-trim"] = last_trim(found)
        if values:
            answer["schedule"] = _schedule(values, settings.get("autotrim"), scrubbed, last_trim(found))
    answer["space"] = reading(lambda: _space(sr, values, zvols)) if values else None
    answer["disks"] = reading(lambda: _disks(sr, values, zvols)) if values else None
    answer["takes-space"] = _takes_space(sr, zvols) if values else None
    answer["unfinished"] = sr.unfinished
    answer["obstacles"] = obstacles
    return answer


def doing(sr_uuid: str) -> "dict[str, Any]":
    """What the SR's pool is doing, as in `status`, and its `health`. Raises as `status`, StorageError."""
    found = topology.read(target.find(sr_uuid).zfs)
    return dict(_doing(found), health=found.described.health())


def _doing(found: Topology) -> "dict[str, Any]":
    return {name: getattr(found, name) for name in _DOING}


def _identity(sr: SR, values: "dict[str, str]") -> "dict[str, Any]":
    return {
        "sr": sr.uuid,
        "dataset": sr.dataset,
        "name": properties.text(values, naming.SR_NAME),
        "description": properties.text(values, naming.SR_DESCRIPTION),
        "attached": sr.attached_from is not None,
        "owns-pool": sr.owns_pool,
    }


# --- the pool and its devices


def _pool(sr: SR, found: "Topology | None", settings: "dict[str, str]") -> "dict[str, Any]":
    fields = {} if found is None else found.described.fields
    return {
        "name": sr.pool,
        "guid": sr.attached_from or settings.get("guid"),
        "state": kernel.state(sr.pool),
        "health": None if found is None else found.described.health(),
        "status": fields.get("status"),
        "action": fields.get("action"),
        "errors": fields.get("errors"),
        "settings": settings,
    }


def _vdev(vdev: Vdev) -> "dict[str, Any]":
    answer: "dict[str, Any]" = {
        "guid": vdev.guid,
        "name": vdev.title,
        "kind": vdev.kind,
        "role": vdev.role,
        "state": vdev.state,
        "errors": dict(zip(("read", "write", "checksum"), vdev.errors), slow=vdev.slow),
        "note": vdev.note,
    }
    if vdev.is_disk and vdev.path is not None:
        model, serial = blockdevice.model_and_serial(vdev.path)
        answer.update(
            {
                "path": vdev.path,
                "by-id": _by_id(vdev),
                "model": model,
                "serial": serial,
                "size": blockdevice.size(vdev.path),
                "trim": vdev.trim,
            }
        )
    if not vdev.is_disk:
        answer["may-still-fail"] = vdev.spare_disks
        answer["children"] = [_vdev(child) for child in vdev.children]
    return answer


def _by_id(vdev: Vdev) -> "str | None":
    path = vdev.stable_path or ""
    if path.startswith("/dev/disk/by-id/"):
        return path
    return blockdevice.stable_names().get(blockdevice.whole(blockdevice.kernel_name(path)))


# --- scrubs and trims


def last_scrub(sr: SR, found: Topology) -> "int | None":
    """When the last complete scrub of the pool ended; None if there was none.

    zpool shows the last scan only, which may be a resilver. Then the pool's history is read.
    """
    for scan in found.scans:
        if scan["kind"] == progress.SCRUB and scan["state"] == progress.FINISHED:
            return int(scan["ended"])
    return history.last_scrub(sr.zfs) if found.scans else None


def can_trim(found: Topology) -> bool:
    """Whether the pool has a device that can be trimmed."""
    return any(_trims(found))


def last_trim(found: Topology) -> "int | None":
    """When the last complete trim of the pool ended; None if a device that can be trimmed never was."""
    ended = [trim["ended"] for trim in _trims(found)]
    return None if None in ended else min(ended, default=None)


def _trims(found: Topology) -> "Iterator[dict[str, Any]]":
    """What is known of the trims of each device that is trimmed with its pool."""
    for disk in found.disks:
        if disk.role not in (topology.CACHE, topology.SPARE) and disk.trim and disk.trim["state"] != "unsupported":
            yield disk.trim


def _schedule(
    values: "dict[str, str]", autotrim: "str | None", scrubbed: "int | None", trimmed: "int | None"
) -> "dict[str, Any]":
    answer = {}
    for word, name, last in (("scrub", naming.SR_SCRUB, scrubbed), ("trim", naming.SR_TRIM, trimmed)):
        plan = schedule.of(values, name, autotrim=autotrim == "on")
        # A new pool has nothing to be scrubbed yet.
        since = int(values["creation"]) if last is None else last
        answer[word] = {"when": str(plan), "next": schedule.next_due(plan, since, time.time())}
    return answer


# --- space and disks


def _space(sr: SR, values: "dict[str, str]", zvols: "dict[str, dict[str, str]]") -> "dict[str, Any]":
    sizes = dict(zip(_POOL_SIZES, map(_number, sr.zfs.values(*_POOL_SIZES))))
    disks = [zvol for name, zvol in zvols.items() if vdi.key_of(name, zvols) is not None and "readonly" not in zvol]
    thin = [zvol for zvol in disks if int(zvol.get("refreservation", "0")) == 0]
    return {
        "used": int(values["used"]),
        "available": int(values["available"]),
        "virtual": sum(int(zvol["volsize"]) for zvol in disks),
        # What thin disks may still ask for; more than is available can end in I/O errors of guests.
        "promised": sum(max(0, int(zvol["volsize"]) - int(zvol["referenced"])) for zvol in thin),
        "compression-ratio": float(values.get("compressratio", "1").rstrip("x")),
        "fragmentation-percent": sizes["fragmentation"],
        "pool": {name: sizes[name] for name in ("size", "allocated", "free")},
        "pool-used-percent": sizes["capacity"],
    }


def _number(text: str) -> "int | None":
    return int(text.rstrip("%")) if text.rstrip("%").isdigit() else None


def _disks(sr: SR, values: "dict[str, str]", zvols: "dict[str, dict[str, str]]") -> "list[dict[str, Any]]":
    charges = family.charges(sr, zvols)
    answer = []
    for key in sorted(charges):
        found = vdi.found(sr, key, zvols)
        if found is None:
            continue
        used_by = record.read(sr, key)
        kind = "snapshot" if found.is_snapshot else "disk"
        answer.append(
            {
                "vdi": key,
                "name": properties.text(found.values, naming.VDI_NAME),
                "kind": "snapshot without data" if found.base is not None else kind,
                "size": found.size,
                "used": charges[key],
                "provisioning": "thick" if int(found.values.get("refreservation", "0")) else "thin",
                "datapath": found.values.get(
                    naming.SR_DATAPATH, values.get(naming.SR_DATAPATH, configuration.KEYS["datapath"].default)
                ),
                "users": [record.called(domain) for domain in sorted(used_by.attached)],
                "migration": mirror.described(sr, key),
            }
        )
    return answer


def _takes_space(sr: SR, zvols: "dict[str, dict[str, str]]") -> "dict[str, Any]":
    def total(name: str, wanted: "Callable[[dict[str, str]], bool]") -> int:
        return sum(int(values.get(name, "0")) for values in zvols.values() if wanted(values))

    charges = family.charges(sr, zvols)
    largest = sorted(charges, key=lambda key: (-charges[key], key))[:_LARGEST]
    return {
        "disks": total("usedbydataset", lambda zvol: not vdi.is_removed(zvol) and naming.VDI_SNAPSHOT not in zvol),
        "snapshots": total("usedbydataset", lambda zvol: naming.VDI_SNAPSHOT in zvol)
        + total("usedbysnapshots", lambda zvol: not vdi.is_removed(zvol)),
        "deleted-but-needed": total("used", vdi.is_removed),
        "reserved-for-thick-disks": total("usedbyrefreservation", lambda zvol: not vdi.is_removed(zvol)),
        "largest": [{"vdi": key, "used": charges[key]} for key in largest],
    }
