# SPDX-License-Identifier: LGPL-2.1-only
"""Finds SRs: on imported pools and on pools on the host's own disks, which it imports at most for a look.

The guid identifies a pool. It never reads what a guest wrote: `disks.searchable` selects the devices.
"""

import time

from zfsvol import log, naming
from zfsvol.errors import DeviceMissing, InvalidArgument, SRInUse, SRUnavailable, StorageError
from zfsvol.host import lock
from zfsvol.naming import Root
from zfsvol.repository import configuration, layout
from zfsvol.repository import sr as srs
from zfsvol.zfs import disks, kernel, pools, text
from zfsvol.zfs.pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


# Seconds after which a survey is accepted although others still import, export and look into pools.
_SURVEY_LIMIT = 60


class Place:
    """The place of an SR: its root and its pool's guid. If the pool is not imported, it is on `devices`."""

    def __init__(self, root: Root, guid: str, candidate: "text.Pool | None", devices: "list[str]") -> None:
        self.root = root
        self.guid = guid
        self.candidate = candidate
        self.devices = devices


class Sighting:
    """A pool that may hold SRs. `name` is its own name; `pool` gives access while it is imported, if only for a look.

    `obstacle`: why the driver cannot look into it, None if it can.
    """

    def __init__(self, guid: str, name: str, pool: "Pool | None", obstacle: "str | None" = None) -> None:
        self.guid = guid
        self.name = name
        self.pool = pool
        self.obstacle = obstacle


def imported() -> "dict[str, str]":
    """The names of the imported pools by guid, without those that are imported only for a look."""
    return {guid: name for guid, name in pools.imported().items() if not pools.is_to_look(name)}


def named_devices(given: "dict[str, str]") -> "list[str]":
    """The devices that a device-config names. Raises InvalidArgument, DeviceInvalid."""
    if "device" in given:
        return layout.parse_devices(given["device"]).devices
    if "vdev" in given:
        return layout.parse_vdevs(given["vdev"]).devices
    return []


def locate(given: "dict[str, str]") -> Place:
    """The place of the one SR that matches a device-config.

    Raises SRUnavailable (there is none), SRInUse (another pool has its name), InvalidArgument (there are several),
    DeviceMissing.
    """
    uuid = given.get("sr_uuid")
    if uuid is not None:
        return _locate(naming.root_for(given, uuid), given)
    if not any(given.get(name) for name in configuration.PLACES):
        raise DeviceMissing
    found = [(sighting, root) for sighting in look(given) for root in roots(sighting) if matches(root, given)]
    if not found:
        raise SRUnavailable("There is no SR where device-config says. 'xe sr-probe type=zfs-vol' lists all SRs.")
    if len(found) > 1:
        raise InvalidArgument(
            "There are several SRs where device-config says: {}. Set device-config:sr_uuid to one of them.".format(
                ", ".join(sorted(root.uuid for _, root in found))
            )
        )
    sighting, root = found[0]
    return _locate(root, dict(given, **{"pool-guid": sighting.guid}))


def roots(sighting: Sighting) -> "list[Root]":
    """The SRs in a pool, by the names that they have when the pool is imported under its own name."""
    if sighting.pool is None:
        return [Root(sighting.name)] if naming.is_root(sighting.name) else []
    rows = srs.listed_roots(sighting.pool, sighting.pool.name)
    named = [(sighting.name + dataset[len(sighting.pool.name) :], uuid) for dataset, uuid in rows]
    return [Root(dataset) for dataset, uuid in named if naming.is_root(dataset) and Root(dataset).uuid == uuid]


def matches(root: Root, given: "dict[str, str]") -> bool:
    """Whether an SR matches a device-config by its uuid and by the pool or dataset that holds it."""
    parent = root.dataset.rpartition("/")[0]
    if given.get("sr_uuid", root.uuid) != root.uuid:
        return False
    return "zpool" not in given or given["zpool"] in (parent, parent.split("/")[0])


def _locate(root: Root, given: "dict[str, str]") -> Place:
    place = _imported_place(root, given, imported())
    if place is not None:
        return place
    wanted = given.get("pool-guid")
    survey = Survey(given, wanted)
    place = _imported_place(root, given, survey.imported)  # imported meanwhile
    if place is not None:
        return place
    found = [
        candidate
        for candidate in survey.importable
        if candidate.guid == wanted or (wanted is None and candidate.name == root.pool)
    ]
    if len(found) > 1 and named_devices(given):
        on_named = disks.pools_on(named_devices(given))
        found = [candidate for candidate in found if candidate.guid in on_named]
    if len(found) > 1:
        raise InvalidArgument(
            f"Several pools are called {root.pool}: {', '.join(candidate.guid for candidate in found)}. Set "
            "device-config:pool-guid to the guid of the SR's pool."
        )
    if not found:
        raise SRUnavailable(
            f"No disk of this host holds the pool {root.pool}{f' ({wanted})' if wanted else ''}. Check that its disks "
            "are connected: 'zpool import' lists the pools that can be imported."
        )
    (candidate,) = found
    if not root.owns_pool:
        root = Root(candidate.name + root.dataset[len(root.pool) :])
    if root.pool in survey.imported.values():
        raise SRInUse(
            f"Another pool called {root.pool} is imported, so the SR's pool ({candidate.guid}) cannot be: run 'zpool "
            f"export {root.pool}' first."
        )
    return Place(root, candidate.guid, candidate, survey.devices)


def _imported_place(root: Root, given: "dict[str, str]", there: "dict[str, str]") -> "Place | None":
    """The place of the SR if its pool is among these imported ones (names by guid), else None. Raises SRInUse."""
    wanted = given.get("pool-guid")
    for guid, name in there.items():
        if guid == wanted and name != root.pool:
            if root.owns_pool:
                raise SRInUse(
                    f"The pool of the SR {root.uuid} is imported under the name {name}: run 'zpool export {name}' and "
                    "try again."
                )
            # The administrator has renamed the pool.
            return Place(Root(name + root.dataset[len(root.pool) :]), guid, None, [])
        if guid == wanted or (wanted is None and name == root.pool):
            return Place(root, guid, None, [])
    return None


class Survey:
    """The pools of this host at one moment: `imported` (names by guid), `importable`, and the `devices` searched.

    A pool that another verb imports or looks into meanwhile would be missing from both; then the survey starts again.
    `wanted`: the guid of the only pool that matters, None for all.
    """

    def __init__(self, given: "dict[str, str]", wanted: "str | None") -> None:
        end = time.monotonic() + _SURVEY_LIMIT
        while True:
            before, in_use = lock.changes_noted(), pools.disks_in_use()
            self.devices = disks.searchable(named_devices(given), in_use)
            self.importable = pools.importable(self.devices)
            there = pools.imported()
            self.imported = {guid: name for guid, name in there.items() if not pools.is_to_look(name)}
            looks = {guid: name for guid, name in there.items() if pools.is_to_look(name) and wanted in (None, guid)}
            # A change that was noted before the survey but happens during it shows in the disks in use.
            is_still = pools.disks_in_use() == in_use and lock.changes_noted() == before
            if (not looks and is_still) or time.monotonic() > end:
                return
            for guid, name in looks.items():
                drop_look(guid, name, max(0, end - time.monotonic()))


def missing_devices(candidate: text.Pool) -> str:
    """The missing or damaged devices of a pool that is not imported, as sentences after a blank; "" if none."""
    ill: "dict[str, list[str]]" = {}
    heading = ""
    for device in candidate.devices[1:]:
        if device.depth == 0:
            heading = device.name  # "logs", "cache", "spares" …: the class of the devices below
        elif device.state not in (*text.GOOD, ""):
            ill.setdefault(heading, []).append(f"{device.name} {device.state}")
    if not ill:
        return ""
    lacks = "; ".join(f"{heading or 'data'}: {', '.join(devices)}" for heading, devices in ill.items())
    advice = ""
    if list(ill) == ["logs"]:
        advice = (
            " If the log device is lost for good, 'zpool import -m' imports the pool without it; writes of the last "
            "seconds may be lost."
        )
    return f" Missing or damaged devices: {lacks}.{advice}"


def look(given: "dict[str, str]") -> "Iterator[Sighting]":
    """Yields the pools that can hold the SR of a device-config.

    A pool that is not imported is imported read-only while the caller looks at it, unless its name rules it out. After
    a crash it stays imported until SR.attach attaches it, or until the next look.
    """
    named = named_devices(given)
    on_named = disks.pools_on(named) if named else None
    # Finish the survey before the first look: an import for a look counts as a change, even in this process.
    survey = Survey(given, given.get("pool-guid"))
    for guid, name in survey.imported.items():
        if _may_hold(given, on_named, guid, name) and kernel.state(name) not in (None, kernel.SUSPENDED):
            yield Sighting(guid, name, Pool(name))
    for candidate in survey.importable:
        if _may_hold(given, on_named, candidate.guid, candidate.name):
            yield from _look_into(candidate, survey.devices, force=given.get("force-import") == "true")


def _may_hold(given: "dict[str, str]", on_named: "set[str] | None", guid: str, pool: str) -> bool:
    if "pool-guid" in given:
        return guid == given["pool-guid"]
    if "zpool" in given:
        return pool == given["zpool"].split("/")[0]
    if on_named is not None:
        return guid in on_named
    uuid = given.get("sr_uuid")
    return uuid is None or not naming.is_root(pool) or Root(pool).uuid == uuid


def _look_into(candidate: text.Pool, devices: "list[str]", *, force: bool) -> "Iterator[Sighting]":
    try:
        with lock.pool(candidate.guid):
            name = imported().get(candidate.guid)
            if name is not None:  # an SR.attach has imported it meanwhile
                yield Sighting(candidate.guid, name, Pool(name))
                return
            pool = pools.import_to_look(candidate.guid, devices, force=force)
            try:
                yield Sighting(candidate.guid, candidate.name, pool)
            finally:
                _export(pool)
    except pools.UsedElsewhere as error:
        obstacle = (
            f"The pool {candidate.name} was last used by another host and not exported there. If that host is gone "
            f"for good, attach the SR with device-config:force-import=true. ZFS says: {error}"
        )
        log.warning(obstacle)
        yield Sighting(candidate.guid, candidate.name, None, obstacle)
    except StorageError as error:
        obstacle = f"The pool {candidate.name} cannot be imported.{missing_devices(candidate)} {error}"
        log.warning(obstacle)
        yield Sighting(candidate.guid, candidate.name, None, obstacle)


def drop_look(guid: str, name: str, limit: float) -> None:
    """Exports a pool that a killed look left imported. Waits up to `limit` seconds for a look that is under way.

    A failure is only logged.
    """
    try:
        with lock.pool(guid, limit):
            if pools.imported().get(guid) == name:
                _export(Pool(name))
    except StorageError as error:
        log.warning(f"{name}: {error}")


def _export(pool: Pool) -> None:
    try:
        pools.export(pool)
    except StorageError as error:
        log.warning(f"{pool.name}, which was imported for a look, stays imported: {error}")
