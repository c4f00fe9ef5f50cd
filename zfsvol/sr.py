# SPDX-License-Identifier: LGPL-2.1-only
"""The SR verbs: a storage repository is a root dataset, alone in its pool or beside the administrator's own.

Arguments and results are those of the SMAPIv3 interface; sizes are bytes. Verbs that change which pools there are
take the host's pool lock, so an import, an export and a look at a pool never meet.
"""

from zfsvol import (
    blockdevice,
    configuration,
    family,
    files,
    layout,
    lock,
    log,
    naming,
    properties,
    volume,
    zfs,
    zpool_text,
)
from zfsvol import root as roots
from zfsvol.errors import (
    DeviceMissing,
    InvalidArgument,
    SRExists,
    SRInUse,
    SRNotEmpty,
    SRUnavailable,
    StorageError,
    VDIInUse,
)
from zfsvol.naming import Root

TYPE_CHECKING = False  # typing itself costs a verb more time than the verb's own modules
if TYPE_CHECKING:
    from typing import Any, Callable


def create(dbg: str, uuid: str, configuration: "dict[str, str]", name: str, description: str) -> "dict[str, str]":
    """Makes the SR and answers with the device-config that attaches it on any host.

    Raises InvalidArgument, DeviceMissing, DeviceInvalid, SRInUse (a device is), SRExists, SRUnavailable (no such
    pool), CommandFailed with zpool's reason. One command makes the pool or the dataset with all its properties: a
    crash leaves none or all of it, and what was made can be attached.
    """
    values = _checked(configuration, uuid)
    root = naming.root_for(values, uuid)
    texts = {naming.SR_UUID: uuid}
    texts.update(properties.encode(naming.SR_NAME, name))
    texts.update(properties.encode(naming.SR_DESCRIPTION, description))
    texts[naming.SR_PROVISIONING] = values.get("provisioning", "thin")
    texts[naming.SR_DATAPATH] = values.get("datapath", "tapdisk")
    with lock.pools():
        zfs.load_module()
        if root.owns_pool:
            answer = _create_pool(root, values, texts)
        else:
            _create_dataset(root, values, texts)
            answer = dict(values)
    answer["sr_uuid"] = uuid
    return answer


def _checked(given: "dict[str, str]", uuid: str) -> "dict[str, str]":
    values = configuration.check(given)
    if values.get("sr_uuid", uuid) != uuid:
        raise InvalidArgument("device-config:sr_uuid is set by the driver; leave it out.")
    return values


def _create_pool(root: Root, values: "dict[str, str]", texts: "dict[str, str]") -> "dict[str, str]":
    place = "device" if "device" in values else "vdev"
    wanted = (layout.parse_devices if place == "device" else layout.parse_vdevs)(values[place])
    if zfs.pool_state(root.pool) is not None:
        raise SRExists(f"The pool {root.pool} exists already.")
    force = values.get("force-create") == "true"
    for device in wanted.devices:
        blockdevice.require_free(device)
        if not force:
            blockdevice.require_empty_partitions(device)
    if len(set(map(files.real_path, wanted.devices))) < len(wanted.devices):
        raise InvalidArgument(f"device-config:{place} names the same device twice.")
    wanted = wanted.renamed({device: blockdevice.stable_name(device) for device in wanted.devices})
    pool_properties = configuration.of_kind(values, configuration.POOL, defaults=True)
    if pool_properties.get("multihost") == "on" and not zfs.has_hostid():
        raise InvalidArgument("device-config:multihost=on needs an /etc/hostid: run 'zgenhostid' and reboot the host.")
    block = values.get("volblocksize") or layout.default_volblocksize(wanted.data, int(pool_properties["ashift"]))
    texts[naming.SR_VOLBLOCKSIZE] = str(block)
    zfs.create_pool(
        root.pool,
        wanted.words,
        force=force,
        pool_properties=pool_properties,
        root_properties=_root_properties(values, texts, defaults=True),
    )
    answer = dict(values)
    answer[place] = ",".join(wanted.devices) if place == "device" else " ".join(wanted.words)
    return answer


def _create_dataset(root: Root, values: "dict[str, str]", texts: "dict[str, str]") -> None:
    if any(map(naming.is_root, values["zpool"].split("/"))):
        raise InvalidArgument(f"{values['zpool']} is an SR itself: put the new one beside it.")
    if zfs.pool_state(root.pool) is None:
        raise SRUnavailable(f"The pool {root.pool} is not imported: 'zpool import {root.pool}', or name another.")
    zfs.require_pool(root.pool)
    block = values.get("volblocksize") or _volblocksize_of(root.pool)
    texts[naming.SR_VOLBLOCKSIZE] = str(block)
    try:
        zfs.create_filesystem(
            root.dataset,
            dict(_root_properties(values, texts, defaults=False), mountpoint="none"),
        )
    except zfs.Missing:
        raise SRUnavailable("There is no dataset {}: create it, or name another.".format(values["zpool"])) from None


def _volblocksize_of(pool: str) -> int:
    described = zpool_text.read(zfs.status(pool))[0]
    # A pool's ashift property is 0 where it was chosen disk by disk; 12 (4 KiB sectors) is what new disks have.
    (ashift,) = zfs.pool_values(pool, ("ashift",))
    return layout.default_volblocksize(described.layout, int(ashift) or 12)


def _root_properties(values: "dict[str, str]", texts: "dict[str, str]", *, defaults: bool) -> "dict[str, str]":
    found = configuration.of_kind(values, configuration.DATASET, defaults=defaults)
    found.update(configuration.encryption_properties(values))
    # Inherited by every zvol: no device node appears when one is made, so nothing on the host looks into a guest's
    # disk. Set on the zvol itself it would come too late: ZFS makes the node before it sets the property.
    found["volmode"] = "none"
    found["canmount"] = "off"
    found.update(texts)
    return found


def attach(dbg: str, configuration: "dict[str, str]") -> str:
    """Imports the SR's pool where it is not imported, and answers with the string that names the SR from now on.

    Idempotent. Finishes or undoes what verbs that were killed left half done, and drops what is left of tapdisks and
    device nodes that nobody uses any more. Raises InvalidArgument,
    SRUnavailable (no such pool or SR, disks missing), SRInUse (another host uses the pool).
    """
    from zfsvol import attachment

    with lock.pools():
        zfs.load_module()
        _drop_probe_imports()
        root = _locate(configuration)
        imported_now = zfs.pool_state(root.pool) is None
        if imported_now:
            _import(root, configuration)
        zfs.require_pool(root.pool)
        lock.remove_unused()
        attachment.for_each(root, attachment.end if imported_now else attachment.drop_dead)
        with lock.sr(root.uuid, exclusive=True):
            values = roots.read(root)
            if values.get("keystatus") == "unavailable":
                zfs.load_key(root.dataset)
            family.repair(root)
            attachment.hide_unused(root)
    return root.dataset


def _locate(given: "dict[str, str]") -> Root:
    """The SR that a device-config means. Without sr_uuid (a person wrote it) it is looked for."""
    uuid = given.get("sr_uuid")
    if uuid is not None:
        return naming.root_for(given, uuid)
    if not any(given.get(name) for name in configuration.PLACES):
        raise DeviceMissing
    found = _find(given)
    if not found:
        raise SRUnavailable(
            "No SR is found on what device-config names. 'xe sr-probe type=zfs-vol' lists all there are."
        )
    if len(found) > 1:
        raise InvalidArgument(
            "Several SRs are found on what device-config names: {}. Set device-config:sr_uuid to one of these.".format(
                ", ".join(sorted(result["configuration"]["sr_uuid"] for result in found))
            )
        )
    return naming.parse_sr(found[0]["sr"]["sr"])


def _drop_probe_imports() -> None:
    """Exports pools that a killed SR.probe left imported, read-only."""
    for _, pool, for_probe in zfs.imported_pools():
        if for_probe:
            zfs.export_pool(pool)


def _import(root: Root, given: "dict[str, str]") -> None:
    force = given.get("force-import") == "true"
    try:
        zfs.import_pool(root.pool, force=force, own=root.owns_pool)
    except zfs.Missing:
        raise SRUnavailable(
            f"No disk of this host holds the pool {root.pool}. Check that its disks are connected: 'zpool import' "
            "lists the pools that can be imported."
        ) from None
    except SRInUse as error:
        raise SRInUse(
            f"The pool {root.pool} may be in use by another host and was not imported. Detach the SR there first. If "
            f"that host is gone for good, make the PBD anew with device-config:force-import=true. ZFS says: {error}"
        ) from None
    except SRExists:
        pass  # somebody else imported it since we looked
    except StorageError as error:
        raise SRUnavailable(f"The pool {root.pool} cannot be imported: {error}") from None


@family.resuming
def detach(dbg: str, sr: str) -> None:
    """Exports the SR's own pool, which leaves its disks free; a pool of the administrator's stays imported.

    Idempotent. Raises SRInUse while one of the SR's disks is in use.
    """
    from zfsvol import attachment

    root = naming.parse_sr(sr)
    with lock.pools():
        if zfs.pool_state(root.pool) is None:
            return
        # Before the lock is waited for: a command that hangs on a suspended pool holds it.
        zfs.require_pool(root.pool)
        attachment.for_each(root, attachment.drop_dead)
        with lock.sr(root.uuid, exclusive=True):
            attachment.release(root)
            if root.owns_pool:
                _leave(zfs.export_pool, root)
                return
            values = roots.read(root)
            if values.get("encryptionroot") == root.dataset and values.get("keystatus") == "available":
                try:
                    zfs.unload_key(root.dataset)
                except VDIInUse:
                    raise SRInUse(f"A disk of the SR {root.uuid} is in use: shut down its VM first.") from None


def _leave(action: "Callable[[str], None]", root: Root) -> None:
    """Exports or destroys the root. Raises SRInUse, with nothing changed, where one of its zvols is open."""
    # OpenZFS 2.1 refuses that for a pool with an open zvol; 2.3 waits, uninterruptibly, until it is closed.
    opened = blockdevice.open_zvols(root.dataset)
    if opened:
        users = "; ".join(f"{name} by {', '.join(programs)}" for name, programs in sorted(opened.items()))
        raise SRInUse(f"The SR {root.uuid} is in use. These disks are open: {users}.")
    try:
        action(root.dataset)
    except zfs.Missing:
        pass
    except (SRInUse, VDIInUse):
        raise SRInUse(
            f"The SR {root.uuid} is busy: something has one of its disks open. Shut down the VMs that use it."
        ) from None


@family.resuming
def destroy(dbg: str, sr: str) -> None:
    """Removes the SR with all its disks: its own pool, or its root dataset in the administrator's pool.

    Refuses before it touches anything where the root holds what this driver has not made (SRNotEmpty). Raises
    SRUnavailable where the SR is not there, so also when it is called again. A crash in the middle leaves a part of
    the SR, which a repetition removes.
    """
    from zfsvol import attachment

    with lock.pools():
        root = roots.find(sr)
        attachment.for_each(root, attachment.drop_dead)
        with lock.sr(root.uuid, exclusive=True):
            roots.read(root)
            family.repair(root)
            _require_nothing_foreign(root)
            attachment.release(root)
            _leave(zfs.destroy_pool if root.owns_pool else zfs.destroy_all, root)


def _require_nothing_foreign(root: Root) -> None:
    columns = ("name", "type", naming.VDI_NAME, naming.VDI_REMOVED, "userrefs", "clones")
    foreign = []
    for name, kind, *marks, holds, clones in zfs.datasets(
        root.dataset, types="filesystem,volume,snapshot", columns=columns
    ):
        if kind == "snapshot":
            if not naming.is_uuid(name.rpartition("@")[2]) or holds != "0":
                foreign.append(name)
            foreign += [clone for clone in clones.split(",") if not clone.startswith((root.dataset + "/", "-"))]
        elif name not in (root.dataset, root.graveyard) and marks == ["-", "-"]:
            foreign.append(name)
    if foreign:
        raise SRNotEmpty(
            "The SR {} holds datasets, snapshots or holds that are not the driver's, or is what a clone elsewhere was "
            "made from: {}. Move or destroy them, then destroy the SR again.".format(root.uuid, ", ".join(foreign[:10]))
        )


def stat(dbg: str, sr: str) -> "dict[str, object]":
    """What the SR is and how it is: an `sr_stat`.

    free_space is what ZFS would still let its disks take (parity, reservations, quota and ZFS's own reserve
    counted), total_space that and what the SR takes. Raises SRUnavailable for a pool that is missing or suspended:
    its sizes and names cannot be read, and made-up ones would overwrite those that xapi has.
    """
    root = roots.find(sr)
    with lock.sr(root.uuid, exclusive=False):
        return _stat(root)


def _stat(root: Root) -> "dict[str, object]":
    try:
        values, status = zfs.properties_and_status(root.dataset)
    except zfs.Missing:
        raise roots.missing(root) from None
    roots.require(root, values)
    free = int(values["available"])
    return {
        "sr": root.dataset,
        "uuid": root.uuid,
        "name": properties.text(values, naming.SR_NAME),
        "description": properties.text(values, naming.SR_DESCRIPTION),
        "free_space": free,
        "total_space": free + int(values["used"]),
        "datasources": [],
        "clustered": False,
        # Always Healthy: with any other word xapi refuses to scan the SR, and a degraded pool works. The text tells.
        "health": ["Healthy", zpool_text.read(status)[0].health()],
    }


def ls(dbg: str, sr: str) -> "list[dict[str, object]]":
    """All VDIs of the SR. Complete or an error: xapi forgets the VDIs that are not listed."""
    return volume.listed(roots.find(sr))


def set_name(dbg: str, sr: str, new_name: str) -> None:
    """Renames the SR. Raises InvalidArgument (too long), SRUnavailable."""
    _set(sr, properties.encode(naming.SR_NAME, new_name))


def set_description(dbg: str, sr: str, new_description: str) -> None:
    """Describes the SR. Raises InvalidArgument (too long), SRUnavailable."""
    _set(sr, properties.encode(naming.SR_DESCRIPTION, new_description))


def _set(sr: str, texts: "dict[str, str]") -> None:
    root = roots.find(sr)
    with lock.sr(root.uuid, exclusive=False):
        try:
            zfs.set_properties(root.dataset, texts)
        except zfs.Missing:
            raise roots.missing(root) from None


def probe(dbg: str, configuration: "dict[str, str]") -> "list[dict[str, object]]":
    """The SRs on imported and importable pools: all of them, or those on the devices, in the pool or with the uuid
    that `configuration` names.

    An importable pool is imported read-only for the moment of the look. A crash leaves it so, until the next
    SR.attach or SR.probe.
    """
    with lock.pools():
        zfs.load_module()
        _drop_probe_imports()
        return _find(configuration)


def _find(given: "dict[str, str]") -> "list[dict[str, Any]]":
    guids = _guids_on_devices(given)
    found: "list[dict[str, Any]]" = []
    for guid, pool, _ in zfs.imported_pools():
        if _may_hold(given, guids, guid, pool) and zfs.pool_state(pool) != "SUSPENDED":
            found += _probed(pool, given)
    for candidate in zpool_text.read(zfs.importable()):
        if not _may_hold(given, guids, candidate.guid, candidate.name):
            continue
        if zfs.pool_state(candidate.name) is not None:
            log.warning(f"SR.probe: {candidate.name} is passed over, a pool of that name is imported")
            continue
        try:
            zfs.import_for_probe(candidate.guid)
        except StorageError as error:
            log.warning(f"SR.probe: {candidate.name} cannot be looked into: {error}")
            continue
        try:
            found += _probed(candidate.name, given)
        finally:
            zfs.export_pool(candidate.name)
    return found


def _guids_on_devices(given: "dict[str, str]") -> "set[str] | None":
    """The pools whose labels the named devices bear; None where no devices are named."""
    if "device" in given:
        devices = layout.parse_devices(given["device"]).devices
    elif "vdev" in given:
        devices = layout.parse_vdevs(given["vdev"]).devices
    else:
        return None
    nodes = [node for device in devices for node in [*blockdevice.partitions(device), device]]
    return {label["pool_guid"] for label in map(zfs.label, nodes) if label}


def _may_hold(given: "dict[str, str]", guids: "set[str] | None", guid: str, pool: str) -> bool:
    if "zpool" in given:
        return pool == given["zpool"].split("/")[0]
    if guids is not None:
        return guid in guids
    uuid = given.get("sr_uuid")
    return uuid is None or not naming.is_root(pool) or Root(pool).uuid == uuid


def _probed(pool: str, given: "dict[str, str]") -> "list[dict[str, Any]]":
    """The SRs in an imported pool, as SR.probe answers."""
    results = []
    for root in roots.below(pool):
        parent = root.dataset.rpartition("/")[0]
        if given.get("sr_uuid", root.uuid) != root.uuid:
            continue
        if "zpool" in given and given["zpool"] not in (parent, parent.split("/")[0]):
            continue
        complete = dict(given, sr_uuid=root.uuid)
        if parent:
            complete["zpool"] = parent
        results.append({"configuration": complete, "complete": True, "sr": _stat(root), "extra_info": {}})
    return results
