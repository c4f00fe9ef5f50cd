# SPDX-License-Identifier: LGPL-2.1-only
"""Creation of an SR: the checks before anything is written, and the commands that make it."""

from zfsvol import naming
from zfsvol.errors import InvalidArgument, NoSpace, SRExists, SRUnavailable
from zfsvol.host import blockdevice, files, lock
from zfsvol.naming import Root
from zfsvol.repository import configuration, layout
from zfsvol.repository.sr import SR
from zfsvol.zfs import changes, datasets, disks, kernel, pools, text
from zfsvol.zfs.pool import Exists, Missing

# Bytes that an SR needs for its own metadata.
_LEAST_ROOM = 16 << 20

# How `zfs get -p` writes the limits of a dataset that has none.
_UNLIMITED = ("none", "-", str((1 << 64) - 1))

# The properties of an SR's root in any pool. Zvols inherit volmode=none, so no device node appears when one is made and
# nothing on the host looks into a guest's disk. Set on the zvol itself it would come too late: ZFS makes the node
# before it sets the property. snapdev does the same for snapshots.
_OWN = {"volmode": "none", "snapdev": "hidden", "canmount": "off"}


def checked(given: "dict[str, str]", uuid: str) -> "dict[str, str]":
    """Checks the device-config of a new SR; see `configuration.check`. Raises InvalidArgument, DeviceMissing."""
    values = configuration.check(given)
    if values.get("sr_uuid", uuid) != uuid:
        raise InvalidArgument("device-config:sr_uuid is set by the driver; leave it out.")
    if "pool-guid" in values:
        raise InvalidArgument("device-config:pool-guid is set by the driver; leave it out.")
    return values


def create_pool(root: Root, values: "dict[str, str]", texts: "dict[str, str]") -> "dict[str, str]":
    """Makes the SR with its own pool and returns the device-config that attaches it. Raises as SR.create."""
    place = "device" if "device" in values else "vdev"
    wanted = (layout.parse_devices if place == "device" else layout.parse_vdevs)(values[place])
    force = values.get("force-create") == "true"
    pool_properties = configuration.of_kind(values, configuration.POOL, defaults=True)
    if pool_properties.get("multihost") == "on" and not kernel.has_hostid():
        raise InvalidArgument("device-config:multihost=on needs an /etc/hostid: run 'zgenhostid' and reboot the host.")
    texts[naming.SR_VOLBLOCKSIZE] = values.get("volblocksize") or str(
        layout.default_volblocksize(wanted.data, int(pool_properties["ashift"]))
    )
    sr = SR(root.dataset)
    # Held from the check of the devices until the pool is on them: nobody else makes a pool there meanwhile.
    with lock.devices():
        if kernel.state(root.pool) is not None:
            raise SRExists(f"The pool {root.pool} exists already.")
        for device in wanted.devices:
            disks.require_free(device)
            if not force:
                disks.require_empty(device)
        if len(set(map(files.real_path, wanted.devices))) < len(wanted.devices):
            raise InvalidArgument(f"device-config:{place} names the same device twice.")
        wanted = wanted.renamed({device: blockdevice.stable_name(device) for device in wanted.devices})
        pools.create(
            sr.zfs,
            wanted.words,
            force=force,
            pool_properties=pool_properties,
            root_properties=_root_properties(values, texts, defaults=True),
        )
    guid = sr.zfs.guid()
    changes.set_properties(sr.zfs, sr.dataset, {naming.SR_POOL_GUID: guid})
    where = ",".join(wanted.devices) if place == "device" else " ".join(wanted.words)
    return dict(values, **{place: where, "sr_uuid": root.uuid, "pool-guid": guid})


def create_dataset(root: Root, values: "dict[str, str]", texts: "dict[str, str]") -> "dict[str, str]":
    """Makes the SR in an existing pool and returns the device-config that attaches it. Raises as SR.create."""
    sr = SR(root.dataset)
    if kernel.state(root.pool) is None:
        raise SRUnavailable(f"The pool {root.pool} is not imported: 'zpool import {root.pool}', or name another.")
    sr.zfs.require()
    _require_place(sr, values)
    guid = sr.zfs.guid()
    texts[naming.SR_POOL_GUID] = guid
    texts[naming.SR_VOLBLOCKSIZE] = values.get("volblocksize") or str(_volblocksize_of(sr))
    root_properties = dict(_root_properties(values, texts, defaults=False), mountpoint="none")
    try:
        changes.create_filesystem(sr.zfs, root.dataset, root_properties)
    except Exists:
        raise SRExists(f"The SR {root.uuid} exists already in {values['zpool']}.") from None
    return dict(values, **{"sr_uuid": root.uuid, "pool-guid": guid})


def _require_place(sr: SR, values: "dict[str, str]") -> None:
    """Raises an error if a setting of the parent would make a later verb fail."""
    place = values["zpool"]
    if any(map(naming.is_root, place.split("/"))):
        raise InvalidArgument(f"{place} is an SR itself: put the new one beside it.")
    if len(sr.dataset) > naming.LONGEST_ROOT:
        raise InvalidArgument(
            f"The name {place} is too long: names that the driver makes below it would exceed ZFS's limit of 255 "
            f"characters. It may have {naming.LONGEST_ROOT - len(sr.dataset) + len(place)}."
        )
    try:
        parent = datasets.inherited_properties(sr.zfs, place)
    except Missing:
        raise SRUnavailable(f"There is no dataset {place}: create it, or name another.") from None
    if parent.get("type") != "filesystem":
        raise InvalidArgument(f"{place} is not a file system, so it cannot hold an SR: name another dataset.")
    if parent.get("readonly") == "on":
        raise InvalidArgument(
            f"{place} is read-only, as replicas are, and so would be every disk: 'zfs get readonly {place}' shows "
            "where that is set. Name another dataset."
        )
    if parent.get("keystatus") == "unavailable":
        raise SRUnavailable(f"The encryption key of {place} is not loaded: 'zfs load-key {parent['encryptionroot']}'.")
    if any(parent.get(name, "none") not in _UNLIMITED for name in ("filesystem_limit", "snapshot_limit")):
        raise InvalidArgument(
            f"{place} has a filesystem_limit or snapshot_limit, which would stop the driver's disks and snapshots: "
            "name another dataset."
        )
    if int(parent["available"]) < _LEAST_ROOM:
        raise NoSpace(f"{place} has {parent['available']} bytes left in its quota or pool: too few for an SR.")


def _volblocksize_of(sr: SR) -> int:
    described = text.read(sr.zfs.status())[0]
    # A pool's ashift property is 0 if ZFS chose it for each disk. 12 (4 KiB sectors) suits new disks.
    (ashift,) = sr.zfs.values("ashift")
    return layout.default_volblocksize(described.layout, int(ashift) or 12)


def _root_properties(values: "dict[str, str]", texts: "dict[str, str]", *, defaults: bool) -> "dict[str, str]":
    found = configuration.of_kind(values, configuration.DATASET, defaults=defaults)
    found.update(configuration.encryption_properties(values))
    found.update(_OWN)
    found[naming.SR_PROVISIONING] = values.get("provisioning", "thin")
    found[naming.SR_DATAPATH] = values.get("datapath", "tapdisk")
    found.update({key: values[name] for name, key in configuration.SCHEDULES.items() if name in values})
    found.update(texts)
    return found
