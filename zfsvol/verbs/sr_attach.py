# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs that find or make an SR: create, probe, attach.

Arguments and results are those of the SMAPIv3 interface; sizes are bytes. A verb that waits for one pool's disks holds
no other pool's locks.
"""

from zfsvol import log, naming, properties
from zfsvol.errors import SRInUse, SRUnavailable, StorageError
from zfsvol.host import lock
from zfsvol.naming import Root
from zfsvol.repository import attachment, creation, discovery, health, leftovers, recording, release, repair
from zfsvol.repository import sr as srs
from zfsvol.repository.discovery import Place
from zfsvol.repository.sr import ALONE, SR
from zfsvol.zfs import changes, datasets, kernel, pools
from zfsvol.zfs.pool import Missing, Pool

TYPE_CHECKING = False  # typing itself costs a verb more time than the verb's own modules
if TYPE_CHECKING:
    from typing import Any


def create(dbg: str, uuid: str, configuration: "dict[str, str]", name: str, description: str) -> "dict[str, str]":
    """Makes the SR and returns the device-config that attaches it on any host.

    Raises InvalidArgument, DeviceMissing, DeviceInvalid, SRInUse (a device is in use), SRExists, SRUnavailable (no such
    pool), NoSpace, CommandFailed with zpool's reason. One command makes the pool or dataset with all properties that
    mark it as an SR. So a crash leaves nothing, or an SR that can be attached.
    """
    values = creation.checked(configuration, uuid)
    texts = {naming.SR_UUID: uuid}
    texts.update(properties.encode(naming.SR_NAME, name))
    texts.update(properties.encode(naming.SR_DESCRIPTION, description))
    kernel.load_module()
    kernel.ensure_hostid()
    root = naming.root_for(values, uuid)
    return creation.create_pool(root, values, texts) if root.owns_pool else creation.create_dataset(root, values, texts)


def probe(dbg: str, configuration: "dict[str, str]") -> "list[dict[str, object]]":
    """The SRs on imported and importable pools: all of them, or those on the devices, in the pool or with the uuid
    that `configuration` names.

    To look into an importable pool, it imports that pool read-only. After a crash the pool stays imported until
    SR.attach attaches it, or until the next SR.probe. The result also lists pools that cannot be looked into.
    """
    kernel.load_module()
    kernel.ensure_hostid()
    found: "list[dict[str, Any]]" = []
    for sighting in discovery.look(configuration):
        for root in discovery.roots(sighting):
            if discovery.matches(root, configuration):
                found.append(_probed(sighting, root, configuration))
        if sighting.obstacle is not None and not naming.is_root(sighting.name):
            # Nobody can tell whether it holds an SR.
            place = dict(configuration, **{"zpool": sighting.name, "pool-guid": sighting.guid})
            extra = {"obstacle": sighting.obstacle}
            found.append({"configuration": place, "complete": False, "extra_info": extra})
    return found


def _probed(sighting: discovery.Sighting, root: Root, given: "dict[str, str]") -> "dict[str, Any]":
    complete = dict(given, **{"sr_uuid": root.uuid, "pool-guid": sighting.guid})
    parent = root.dataset.rpartition("/")[0]
    if parent:
        complete["zpool"] = parent
    if sighting.pool is None:
        return {
            "configuration": complete,
            "complete": True,
            "sr": health.unreadable(root, sighting.obstacle or ""),
            "extra_info": {"obstacle": sighting.obstacle or ""},
        }
    dataset = sighting.pool.name + root.dataset[len(root.pool) :]
    status = health.stat(sighting.pool, dataset, root, [])
    return {"configuration": complete, "complete": True, "sr": status, "extra_info": {}}


def attach(dbg: str, configuration: "dict[str, str]") -> str:
    """Imports the SR's pool if it is not imported, and returns the string that names the SR from now on.

    Idempotent. Finishes or undoes what killed verbs left half done, and removes tapdisks and device nodes that nobody
    uses any more. Raises InvalidArgument, SRUnavailable (no such pool or SR, disks missing, read-only), SRInUse
    (another host uses the pool; a copy of this SR is attached). After an error the pool is as it was.
    """
    kernel.load_module()
    kernel.ensure_hostid()
    place = discovery.locate(configuration)
    with lock.pool(place.guid):
        is_new = _import(place, configuration)
        sr = SR(place.root.dataset)
        try:
            _take(sr, place.guid, configuration, is_new=is_new)
        except Exception:
            if is_new:
                _export_again(sr)
            raise
    return sr.dataset


def _import(place: Place, given: "dict[str, str]") -> bool:
    """Imports the pool; False if it is imported already. The caller holds the pool's lock."""
    name = pools.imported().get(place.guid)
    if name is not None and pools.is_to_look(name):
        pools.export(Pool(name))
        name = None
    if name is not None:
        return False
    try:
        pools.import_(place.guid, place.devices, force=given.get("force-import") == "true", own=place.root.owns_pool)
    except pools.UsedElsewhere as error:
        raise SRInUse(
            f"The pool {place.root.pool} may be in use by another host and was not imported. Detach the SR there "
            "first. If that host is gone for good, recreate the PBD with device-config:force-import=true. ZFS says: "
            f"{error}"
        ) from None
    except StorageError as error:
        if place.guid not in pools.imported():
            lacks = discovery.missing_devices(place.candidate) if place.candidate else ""
            raise SRUnavailable(f"The pool {place.root.pool} cannot be imported.{lacks} {error}") from None
        log.warning(f"{place.root.pool} was imported with an error: {error}")
    return True


def _take(sr: SR, guid: str, given: "dict[str, str]", *, is_new: bool) -> None:
    sr.zfs.require()
    try:
        values = sr.require(datasets.inherited_properties(sr.zfs, sr.dataset))
    except Missing:
        raise sr.missing() from None
    _require_only(sr)
    if values.get("readonly") == "on":
        raise SRUnavailable(
            f"The SR {sr.uuid} is read-only, as replicas are: 'zfs get readonly {sr.dataset}' shows where that is set. "
            f"To use it here, stop the replication into it and run 'zfs set readonly=off {sr.dataset}'."
        )
    if values.get("keystatus") == "unavailable":
        changes.load_key(sr.zfs, values.get("encryptionroot", sr.dataset), given.get("encryption-key-file"))
    if is_new and not sr.owns_pool:
        _mount_all(sr)
    if sr.attached_from not in (None, guid):
        sr.forget_records()  # they belong to another pool of this name
    release.for_each(sr, attachment.detach_all if is_new else attachment.drop_dead)
    with sr.locked(ALONE):
        repair.repair(sr)
        leftovers.hide_unused(sr)
        recording.sweep(sr)
        sr.mark_attached(guid)


def _require_only(sr: SR) -> None:
    """Raises SRInUse if another copy of the SR is attached on this host."""
    for other in srs.attached():
        if other.uuid == sr.uuid and other.dataset != sr.dataset and kernel.state(other.pool) is not None:
            raise SRInUse(
                f"{sr.dataset} is a copy of the SR {sr.uuid}, which is attached from {other.dataset}. Detach that one "
                f"first, or give the copy an identity of its own with 'python3 -m zfsvol identity {sr.dataset}'."
            )


def _mount_all(sr: SR) -> None:
    """Mounts the file systems of the administrator's pool, as a manual import does. Failures are only logged."""
    columns = ("name", "canmount", "mountpoint", "mounted", "keystatus")
    for name, canmount, mountpoint, mounted, key in datasets.listing(
        sr.zfs, sr.pool, types="filesystem", columns=columns
    ):
        is_wanted = canmount == "on" and mountpoint.startswith("/") and mounted == "no" and key != "unavailable"
        if is_wanted:
            try:
                changes.mount(sr.zfs, name)
            except StorageError as error:
                log.warning(f"{name} is not mounted: {error}")


def _export_again(sr: SR) -> None:
    try:
        pools.export(sr.zfs)
    except StorageError as error:
        log.warning(f"{sr.pool} stays imported: {error}")
