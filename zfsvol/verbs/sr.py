# SPDX-License-Identifier: LGPL-2.1-only
"""The SR verbs: a storage repository is a root dataset, alone in its pool or beside the administrator's datasets.

Arguments and results are those of the SMAPIv3 interface; sizes are bytes. A verb that waits for one pool's disks holds
no other pool's locks.
"""

from zfsvol import log, naming, properties
from zfsvol.errors import SRInUse, SRNotEmpty, SRUnavailable, StorageError
from zfsvol.host import lock
from zfsvol.naming import Root
from zfsvol.repository import attachment, creation, discovery, family, health, release, repair
from zfsvol.repository import sr as srs
from zfsvol.repository import vdi as vdis
from zfsvol.repository.discovery import Place
from zfsvol.repository.sr import ALONE, CHANGE, READ, SR
from zfsvol.zfs import changes, datasets, kernel, pools
from zfsvol.zfs.pool import Busy, Missing, Pool

TYPE_CHECKING = False  # typing itself costs a verb more time than the verb's own modules
if TYPE_CHECKING:
    from typing import Any, Callable


# --- create


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


# --- attach


def attach(dbg: str, configuration: "dict[str, str]") -> str:
    """Imports the SR's pool if it is not imported, and returns the string that names the SR from now on.

    Idempotent. Finishes or undoes what killed verbs left half done, and removes tapdisks and device nodes that nobody
    uses any more. Raises InvalidArgument, SRUnavailable (no such pool or SR, disks missing, read-only), SRInUse
    (another host uses the pool; a copy of this SR is attached); then the pool is as it was.
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
        release.hide_unused(sr)
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


# --- detach, destroy


def detach(dbg: str, sr: str) -> None:
    """Exports the SR's own pool and so frees its disks; an administrator's pool stays imported.

    Idempotent. Raises SRInUse while one of the SR's disks is in use.
    """
    found = SR(naming.parse_sr(sr).dataset)
    if kernel.state(found.pool) is None:
        found.mark_detached()
        return
    found.zfs.require()
    with lock.pool(found.guid):
        release.for_each(found, attachment.drop_dead)
        with release.AllLocked(found), found.locked(ALONE):
            release.release(found)
            if found.owns_pool:
                _leave(pools.export, found)
            else:
                _unload_key(found)
            found.mark_detached()


def _unload_key(sr: SR) -> None:
    values = sr.read()
    if values.get("encryptionroot") == sr.dataset and values.get("keystatus") == "available":
        try:
            changes.unload_key(sr.zfs, sr.dataset)
        except Busy:
            raise SRInUse(f"A disk of the SR {sr.uuid} is in use: shut down its VM first.") from None


def _leave(action: "Callable[..., None]", sr: SR) -> None:
    """Exports or destroys the SR by `action`. Raises SRInUse, with nothing changed, if one of its zvols is open."""
    release.require_closed(sr)
    try:
        action(sr.zfs)
    except Missing:
        pass
    except Busy:
        raise SRInUse(
            f"The SR {sr.uuid} is in use: something has one of its disks open. Shut down the VMs that use it."
        ) from None


def destroy(dbg: str, sr: str) -> None:
    """Removes the SR with all its disks: its own pool, or its root dataset in the administrator's pool.

    Raises SRNotEmpty if the root holds anything that this driver did not make, and SRInUse if one of its disks is open,
    both before it removes anything. Raises SRUnavailable if there is no such SR, as when it is called again. A crash in
    the middle may leave a part of the SR, which a repetition removes.
    """
    found = srs.find(sr)
    with lock.pool(found.guid):
        release.for_each(found, attachment.drop_dead)
        with release.AllLocked(found), found.locked(ALONE):
            found.read()
            release.require_inactive(found)
            repair.repair(found)
            _require_nothing_foreign(found)
            release.release(found)
            _leave(pools.destroy if found.owns_pool else _destroy_root(found), found)
            found.mark_detached()


def _destroy_root(sr: SR) -> "Callable[..., None]":
    return lambda pool: changes.destroy_all(pool, sr.dataset)


def _require_nothing_foreign(sr: SR) -> None:
    columns = ("name", "type", naming.VDI_NAME, naming.VDI_REMOVED, "userrefs", "clones")
    foreign = []
    for name, kind, *marks, holds, clones in datasets.listing(
        sr.zfs, sr.dataset, types="filesystem,volume,snapshot", columns=columns
    ):
        if kind == "snapshot":
            if not family.is_ours(name) or holds != "0":
                foreign.append(name)
            foreign += [clone for clone in clones.split(",") if not clone.startswith((sr.dataset + "/", "-"))]
        elif name != sr.dataset and marks == ["-", "-"]:
            foreign.append(name)
    if foreign:
        raise SRNotEmpty(
            "The SR {} has datasets, snapshots or holds that are not the driver's, or clones outside of it: {}. Move "
            "or destroy them, then destroy the SR again.".format(sr.uuid, ", ".join(foreign[:10]))
        )


# --- look


def stat(dbg: str, sr: str) -> "dict[str, object]":
    """The SR's names, sizes and health: an `sr_stat`.

    free_space is the space that ZFS would still give to its disks, after parity, reservations, quota and ZFS's own
    reserve; total_space adds the space that the SR uses. Raises SRUnavailable if the pool is missing or suspended: its
    sizes and names cannot be read, and made-up ones would overwrite those in xapi.
    """
    found = srs.find(sr)
    notes = found.unfinished
    if found.may_keep:
        kept = health.kept(found)
        notes += [kept] if kept else []
        found.note_kept(is_any=bool(kept))
    return health.stat(found.zfs, found.dataset, found, notes)


def ls(dbg: str, sr: str) -> "list[dict[str, object]]":
    """All VDIs of the SR. Complete, or an error: xapi forgets VDIs that are not listed."""
    with srs.opened(sr, READ) as found:
        _, zvols = found.zvols()
    charges = family.charges(found, zvols)
    disks = (vdis.found(found, key, zvols) for key in sorted(charges))
    return [vdis.record(vdi, taken=charges[vdi.key]) for vdi in disks if vdi is not None]


def probe(dbg: str, configuration: "dict[str, str]") -> "list[dict[str, object]]":
    """The SRs on imported and importable pools: all of them, or those on the devices, in the pool or with the uuid
    that `configuration` names.

    An importable pool is imported read-only for the look. After a crash it stays imported until SR.attach attaches it,
    or until the next SR.probe. The result also lists pools that cannot be looked into.
    """
    kernel.load_module()
    kernel.ensure_hostid()
    found: "list[dict[str, Any]]" = []
    for sighting in discovery.look(configuration):
        for root in discovery.roots(sighting):
            if discovery.matches(root, configuration):
                found.append(_probed(sighting, root, configuration))
        if sighting.obstacle is not None and not naming.is_root(sighting.name):
            # It may hold an SR or not.
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


# --- names


def set_name(dbg: str, sr: str, new_name: str) -> None:
    """Renames the SR. Raises InvalidArgument (too long), SRUnavailable."""
    _set(sr, properties.encode(naming.SR_NAME, new_name))


def set_description(dbg: str, sr: str, new_description: str) -> None:
    """Describes the SR. Raises InvalidArgument (too long), SRUnavailable."""
    _set(sr, properties.encode(naming.SR_DESCRIPTION, new_description))


def _set(sr: str, texts: "dict[str, str]") -> None:
    with srs.opened(sr, CHANGE) as found:
        try:
            changes.set_properties(found.zfs, found.dataset, texts)
        except Missing:
            raise found.missing() from None
