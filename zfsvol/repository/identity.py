# SPDX-License-Identifier: LGPL-2.1-only
"""A new identity for a copy of an SR: new uuids for the SR and its disks, so that the host can attach both.

Families, names and contents stay. After a crash, a repetition continues: the SR's new uuid is first stored on its root,
and each disk's new uuid follows from that and from its old one.
"""

import hashlib

from zfsvol import naming, properties
from zfsvol.errors import InvalidArgument, SRInUse
from zfsvol.host import files
from zfsvol.naming import Root
from zfsvol.repository.sr import ALONE, SR
from zfsvol.zfs import changes, datasets, pools, programs
from zfsvol.zfs.pool import Missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

# Keys of the client that name a VDI.
_REFERENCES = (naming.SNAPSHOT_OF, naming.TEMPORARY, naming.CONTENT)


def renew(dataset: str) -> str:
    """Gives the SR whose root is `dataset` a new identity. Returns the new name of its root.

    A copy with a pool of its own also gets a new pool guid, and is exported at the end. Raises InvalidArgument (it is
    no SR), SRInUse (it is attached or open).
    """
    naming.require_dataset_name(dataset)
    copy = SR(dataset)
    copy.zfs.require()
    with copy.locked(ALONE):
        try:
            values = datasets.properties(copy.zfs, dataset)
        except Missing:
            raise InvalidArgument(f"There is no dataset {dataset}.") from None
        if not naming.is_uuid(values.get(naming.SR_UUID, "")):
            raise InvalidArgument(f"{dataset} is not the root of an SR: it has no {naming.SR_UUID} of its own.")
        if copy.attached_from is not None or programs.open_below(copy.zfs, dataset):
            raise SRInUse(f"{dataset} is in use: unplug its PBD first.")
        uuid = values.get(naming.BECOMES, "")
        if not naming.is_uuid(uuid):
            uuid = files.new_uuid()
            changes.set_properties(copy.zfs, dataset, {naming.BECOMES: uuid})
        _renew_disks(copy, uuid)
        if copy.owns_pool:
            return _renew_pool(copy, uuid)
        root = Root(f"{dataset.rpartition('/')[0]}/{naming.PREFIX}{uuid}")
        changes.set_properties(copy.zfs, dataset, {naming.SR_UUID: uuid, naming.SR_POOL_GUID: copy.zfs.guid()})
        changes.rename(copy.zfs, dataset, root.dataset)
        changes.inherit_below(copy.zfs, root.dataset, naming.BECOMES)
    return root.dataset


def derived(sr_uuid: str, uuid: str) -> str:
    """The new uuid of a disk, from the SR's new uuid and the disk's old one. Deterministic."""
    digest = hashlib.sha256(f"{sr_uuid} {uuid}".encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}"


def _renew_disks(copy: SR, sr_uuid: str) -> None:
    _, zvols = datasets.volumes(copy.zfs, copy.dataset)
    for name, values in zvols.items():
        old = naming.reverted(name) or name
        if not naming.is_uuid(old):
            continue
        if naming.BECOMES not in values:
            becomes = derived(sr_uuid, old)
            changed = _references(values, zvols, lambda uuid: derived(sr_uuid, uuid))
            changes.set_properties(copy.zfs, copy.volume(name), dict(changed, **{naming.BECOMES: becomes}))
        else:
            becomes = values[naming.BECOMES]
        if old != becomes:
            renamed = naming.revert_name(becomes) if naming.reverted(name) else becomes
            changes.rename(copy.zfs, copy.volume(name), copy.volume(renamed))


def _references(
    values: "dict[str, str]", zvols: "dict[str, dict[str, str]]", new: "Callable[[str], str]"
) -> "dict[str, str]":
    """The properties of the client's keys that name a disk of the SR, changed to the disk's new uuid."""
    found = {}
    for key, value in properties.decode_keys(values).items():
        if key in _REFERENCES and (value in zvols or new(value) in zvols):
            found.update(properties.encode_key(key, new(value)))
    return found


def _renew_pool(copy: SR, uuid: str) -> str:
    pools.new_guid(copy.zfs)
    changes.set_properties(copy.zfs, copy.dataset, {naming.SR_UUID: uuid, naming.SR_POOL_GUID: copy.zfs.guid()})
    changes.inherit_below(copy.zfs, copy.dataset, naming.BECOMES)
    devices = pools.devices(copy.zfs)
    guid = copy.zfs.guid()
    pools.export(copy.zfs)
    renamed = Root(naming.PREFIX + uuid)
    # The import gives the pool its name; SR.attach does the next one.
    pools.export(pools.import_as(guid, devices, renamed.dataset))
    return renamed.dataset
